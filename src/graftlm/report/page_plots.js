// --- forest plot, learning curves, fidelity ---
const verdictWord = (arm) => arm.word || "not compared";

// best first; controls apart, below a gap. Positions count downwards from 0.
function forestRows(name) {
  const known = arms.map((arm, place) => ({ arm, place, item: arm.difference[name] })).filter((row) => row.item && (arms.length <= data.few || visible[row.place]));
  const less = (data.figures[name] || {}).less, side = less === false ? -1 : 1;
  const order = (rows) => rows.sort((a, b) => side * (a.item.mean - b.item.mean));
  const tried = order(known.filter((row) => !row.arm.control)), controls = order(known.filter((row) => row.arm.control));
  const gap = tried.length && controls.length ? 0.7 : 0;
  [...tried, ...controls].forEach((row, place) => { row.y = -place - (row.arm.control ? gap : 0); });
  return { rows: [...tried, ...controls], tried, controls, line: gap ? -(tried.length - 0.5) - gap / 2 : null };
}
// one arm far away must not press the others together: the frame fits the arms under test, and arrows tell of the rest
function frame(rows) {
  const tried = rows.filter((row) => !row.arm.control), kept = tried.length ? tried : rows;
  const points = kept.flatMap((row) => [0, row.item.mean, ...row.item.seeds]);
  const low = Math.min(...points), high = Math.max(...points), span = high - low || 1;
  const ends = rows.flatMap((row) => [row.item.mean, row.item.low ?? row.item.mean, row.item.high ?? row.item.mean]);
  const left = Math.max(low - 0.8 * span, Math.min(low, ...ends)), right = Math.min(high + 0.8 * span, Math.max(high, ...ends));
  const pad = 0.05 * (right - left || 1);
  return [left - pad, right + pad];
}
const pitch = (count) => (narrow() ? 46 : count > 30 ? 26 : 38);

define("forest", (style) => {
  const name = value("forest-figure", data.primary), figure = data.figures[name] || {};
  const { rows, controls, line } = forestRows(name), [left, right] = frame(rows), inside = (x) => Math.min(right, Math.max(left, x));
  const annotations = [], shapes = [], phone = narrow(), spread = rows.some((row) => row.item.low !== null), height = rows.length ? 70 + pitch(rows.length) * (1 - rows[rows.length - 1].y) : 160;
  const digits = figure.digits ?? 3, colours = rows.map((row) => style.colour(row.arm));
  // few traces, whatever the number of arms: single runs, the ends of intervals, means
  const runs = { x: [], y: [], c: [] }, ends = { x: [], y: [], s: [], c: [] }, texts = [];
  rows.forEach(({ arm, item, y }, at) => {
    const colour = colours[at], known = item.low !== null && item.high !== null;
    const told = `${signed(item.mean, digits)}${known ? ` [${signed(item.low, digits)}, ${signed(item.high, digits)}]` : ""}`;
    if (item.n > 1) item.seeds.filter((x) => x >= left && x <= right).forEach((x) => { runs.x.push(x); runs.y.push(y - 0.24); runs.c.push(faint(colour, 0.5)); });
    if (known) {
      shapes.push({ type: "line", x0: inside(item.low), x1: inside(item.high), y0: y, y1: y, line: { color: colour, width: arm.control ? 2 : 3, dash: arm.control ? "dash" : "solid" } });
      [[item.low, "triangle-left"], [item.high, "triangle-right"]].forEach(([x, arrow]) => { ends.x.push(inside(x)); ends.y.push(y); ends.s.push(inside(x) === x ? "line-ns" : arrow); ends.c.push(colour); });
    }
    texts.push(`<b>${plain(arm.name)}</b><br>${told}${known ? "" : " (no interval)"}<br>${item.n} paired seed${item.n === 1 ? "" : "s"}: ${plain(verdictWord(arm))}`);
    const word = arm.word === "better" ? style.good : arm.word === "worse" ? style.bad : style.soft;
    const shown = name === data.primary ? `<span style="color:${word}">${arm.sure ? `<b>${arm.word}</b>` : arm.word}</span>` : "";
    annotations.push(phone
      ? { x: 0, xref: "paper", xanchor: "left", y: y + 0.4, text: `${short(arm.label, 20)}  <span style="color:${style.soft}">${signed(item.mean, digits)}</span> ${shown}`, showarrow: false, font: { size: 12 }, bgcolor: style.paper, borderpad: 1 }
      : { x: 1, xref: "paper", xanchor: "left", xshift: 14, y, text: `${told}  ${shown}`, showarrow: false, font: { size: 12 } });
  });
  const beyond = ({ item }) => (item.mean < left ? "triangle-left" : item.mean > right ? "triangle-right" : null);
  const dots = { type: "scatter", mode: "markers", cliponaxis: false };
  const traces = !rows.length ? [] : [
    { ...dots, x: runs.x, y: runs.y, hoverinfo: "x", marker: { color: runs.c, size: 5 } },
    { ...dots, x: ends.x, y: ends.y, hoverinfo: "skip", marker: { symbol: ends.s, color: ends.c, size: 9, line: { color: ends.c, width: ends.s.map((symbol) => (symbol === "line-ns" ? 2 : 0)) } } },
    { ...dots, x: rows.map((row) => inside(row.item.mean)), y: rows.map((row) => row.y), customdata: texts, hovertemplate: "%{customdata}<extra></extra>",
      marker: { size: 12, symbol: rows.map((row) => beyond(row) || row.arm.symbol.replace("-open", "")), color: rows.map((row, at) => (row.arm.control ? style.paper : colours[at])), line: { color: colours, width: 2 } } }];
  if (line !== null) annotations.push({ x: 0, xref: "paper", xanchor: "left", y: line, yshift: phone ? 2 : -9, text: "controls", showarrow: false, font: { size: 11, color: style.soft } });
  const better = figure.less === false ? "worse ←   difference   → better" : "better ←   difference   → worse";
  return { traces, height, says: "No arm has this figure in common with the baseline.",
    table: [["arm", "control", "difference", "low", "high", "paired seeds", "verdict on " + data.figures[data.primary].label], ...rows.map(({ arm, item }) => [arm.name, String(arm.control), item.mean, item.low, item.high, item.n, verdictWord(arm)])],
    layout: { annotations, hovermode: "closest", margin: { t: 6, r: phone ? 10 : (spread ? 176 : 74) + (name === data.primary ? 84 : 0), l: phone ? 10 : room(rows.map((row) => row.arm)) },
      xaxis: { title: { text: better }, range: [left, right], fixedrange: phone },
      yaxis: { tickvals: phone ? [] : rows.map((row) => row.y), ticktext: rows.map((row) => short(row.arm.label, 30) + "  "), range: [(rows.length ? rows[rows.length - 1].y : 0) - 0.7, phone ? 0.8 : 0.6], showgrid: false, ticks: "", showline: false, fixedrange: true, automargin: false },
      shapes: [...shapes, { type: "line", x0: 0, x1: 0, y0: 0, y1: 1, yref: "paper", line: { color: style.ink, width: 1.25 } },
        ...(line === null ? [] : [{ type: "line", x0: 0, x1: 1, xref: "paper", y0: line, y1: line, line: { color: style.line, width: 1 } }])] } };
});

const AXES = { step: "fine-tuning steps", examples: "fine-tuning examples", tokens: "fine-tuning tokens", flops: "operations, donor and graft charged", seconds: "seconds, donor and graft charged" };
define("curves", (style) => {
  const name = value("curve-figure", "loss"), by = chosen("curve-x") || "step", log = ticked("curve-log"), single = ticked("curve-runs");
  const traces = [], table = [["arm", "run", by, name]], heights = [], tried = [];
  const compact = shownArms().length > 8;
  arms.forEach((arm, place) => {
    const curve = arm.curves, found = curve.values[name];
    if (!visible[place] || !found || curve[by].every((x) => x === null)) return;
    const colour = style.colour(arm);
    // one step's worth is added on a log axis, so that step 0 has a place: log(step + 1), as in the primary figure
    const last = curve.step.length - 1, unit = curve.step[last] > 0 ? (curve[by][last] - curve[by][0]) / curve.step[last] : 1;
    const x = curve[by].map((at) => (at === null ? null : log ? at + unit : at));
    const known = [...found.mean, ...(found.low || []), ...(found.high || [])].filter((y) => y !== null);
    heights.push(...known);
    if (!arm.control) tried.push(...known);
    if (single && found.runs && found.runs.length) {
      const xs = [], ys = [], labels = [];
      found.runs.forEach((run, at) => { xs.push(...x, null); ys.push(...run, null); labels.push(...x.map(() => curve.seeds[at]), ""); });
      traces.push({ type: "scatter", mode: "lines", x: xs, y: ys, text: labels, meta: place, line: { color: faint(colour, 0.45), width: 1, dash: arm.dash }, hovertemplate: `${plain(arm.label)}, %{text}: %{y:.4f}<extra></extra>` });
      found.runs.forEach((run, at) => run.forEach((y, step) => y !== null && table.push([arm.name, curve.seeds[at], curve[by][step], y])));
    } else if (found.low) {
      const at = x.map((_, step) => step).filter((step) => x[step] !== null && found.low[step] !== null), back = [...at].reverse();
      traces.push({ type: "scatter", mode: "lines", x: [...at, ...back].map((step) => x[step]), y: [...at.map((step) => found.low[step]), ...back.map((step) => found.high[step])],
        fill: "toself", fillcolor: faint(colour, 0.13), line: { width: 0 }, hoverinfo: "skip", meta: place });
    }
    traces.push({ type: "scatter", mode: "lines", x, y: found.mean, name: short(arm.label), meta: place, line: { color: colour, width: arm.control ? 1.6 : 2.4, dash: arm.dash },
      hovertemplate: compact || by !== "step" ? `<b>${plain(arm.label)}</b><br>%{y:.4f} at %{x:.3s}<extra></extra>` : `${plain(arm.label)}: %{y:.4f}<extra></extra>` });
    found.mean.forEach((y, step) => y !== null && table.push([arm.name, "mean", curve[by][step], y]));
  });
  const kept = ticked("curve-all") || !tried.length ? heights : tried, low = Math.min(...kept), high = Math.max(...kept), pad = 0.04 * (high - low || 1);
  return { traces, table, says: shownArms().length ? "This figure was not recorded for the arms that are shown." : "No arm is shown: choose some above.",
    layout: { hovermode: compact || by !== "step" || single ? "closest" : "x unified",
      xaxis: { title: { text: AXES[by] + (log ? (by === "step" ? " + 1 (log scale)" : " (log scale)") : "") }, type: log ? "log" : "linear", exponentformat: by === "flops" ? "power" : "SI", dtick: log && by !== "flops" ? 1 : undefined, nticks: narrow() ? 5 : 8 },
      yaxis: { title: { text: narrow() ? "" : $("curve-figure").selectedOptions[0].textContent }, range: kept.length ? [low - pad, high + pad] : undefined, nticks: 8 },
      shapes: name === "difference" ? [{ type: "line", x0: 0, x1: 1, xref: "paper", y0: 0, y1: 0, line: { color: style.ink, width: 1.5 } }] : [] } };
});

define("fidelity", (style) => {
  const name = value("fidelity-figure", "cka"), traces = [], table = [["arm", "layer", "before", "after"]];
  arms.forEach((arm, place) => {
    const found = arm.fidelity;
    if (!visible[place] || !found) return;
    const colour = style.colour(arm);
    traces.push({ type: "scatter", mode: "lines", x: found.layer, y: found.before[name], meta: place, line: { color: faint(colour, 0.55), width: 1.25, dash: "dot" }, hovertemplate: `${plain(arm.label)} before: %{y:.3f}<extra></extra>` });
    traces.push({ type: "scatter", mode: "lines+markers", x: found.layer, y: found.after[name], meta: place, line: { color: colour, width: arm.control ? 1.6 : 2.4, dash: arm.dash },
      marker: { symbol: arm.symbol, size: 7, color: colour }, customdata: found.norms, hovertemplate: `<b>${plain(arm.label)}</b> after: %{y:.3f}%{customdata}<extra></extra>` });
    found.layer.forEach((layer, at) => table.push([arm.name, layer, found.before[name][at], found.after[name][at]]));
  });
  const most = Math.max(0, ...arms.filter((arm) => arm.fidelity).flatMap((arm) => arm.fidelity.layer));
  return { traces, table, says: "No fidelity was measured for the arms that are shown.",
    layout: { hovermode: "closest", xaxis: { title: { text: "encoder layer (0: embeddings)" }, dtick: Math.max(1, Math.round(most / 12)), tick0: 0, range: [-0.25, most + 0.25] },
      yaxis: { title: { text: !narrow() && $("fidelity-figure") ? $("fidelity-figure").selectedOptions[0].textContent : "" }, ...(name === "relative_error" ? { rangemode: "tozero" } : { range: [Math.min(-0.02, ...traces.flatMap((trace) => trace.y).filter((y) => y !== null)), 1.04] }) } } };
});
