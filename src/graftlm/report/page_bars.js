// --- scores by language, the probe of the source, and costs ---
define("languages", (style) => {
  const name = value("language-figure", "rougeL"), kept = shownArms();
  const codes = [...new Set(arms.flatMap((arm) => Object.keys(arm.languages)))].sort((a, b) => (a === "all" ? 1 : b === "all" ? -1 : a < b ? 1 : -1));
  const traces = [], shapes = [], table = [["arm", "language", name]];
  const room = narrow() ? 0.62 : 0.56;
  codes.forEach((_, place) => { if (place % 2) shapes.push({ type: "rect", xref: "paper", x0: 0, x1: 1, y0: place - 0.5, y1: place + 0.5, fillcolor: faint(style.soft, 0.06), line: { width: 0 }, layer: "below" }); });
  kept.forEach((arm, place) => {
    const shown = codes.filter((code) => typeof (arm.languages[code] || {})[name] === "number");
    if (!shown.length) return;
    const offset = (place / Math.max(kept.length - 1, 1) - 0.5) * -room;
    traces.push({ type: "scatter", mode: "markers", x: shown.map((code) => arm.languages[code][name]), y: shown.map((code) => codes.indexOf(code) + offset), meta: arms.indexOf(arm), cliponaxis: false, // a score of 0 is a whole point too
      marker: { color: style.colour(arm), symbol: arm.symbol, size: 8, line: { width: arm.control ? 1.75 : 0, color: style.colour(arm) } }, hovertemplate: `<b>${plain(arm.label)}</b>: %{x:.1f}<extra></extra>` });
    shown.forEach((code) => table.push([arm.name, code, arm.languages[code][name]]));
  });
  codes.forEach((code, place) => {
    const arm = arms.find((item) => typeof (item.languages[code] || {})["lead1." + name] === "number");
    if (!arm || !traces.length) return;
    const at = arm.languages[code]["lead1." + name];
    shapes.push({ type: "line", x0: at, x1: at, y0: place - 0.4, y1: place + 0.4, line: { color: style.ink, width: 2 } });
    traces.push({ type: "scatter", mode: "markers", x: [at], y: [place], marker: { symbol: "line-ns", size: 10, line: { width: 2, color: style.ink } }, hovertemplate: "lead-1, the first sentence of the source: %{x:.1f}<extra></extra>" });
    table.push(["lead-1", code, at]);
  });
  return { traces, table, height: Math.max(200, 80 + (40 + 4 * kept.length) * codes.length), says: "The arms that are shown have no such score.",
    layout: { shapes, hovermode: "closest", xaxis: { title: { text: $("language-figure").selectedOptions[0].textContent }, rangemode: "tozero" },
      yaxis: { tickvals: codes.map((_, place) => place), ticktext: codes.map((code) => plain(code) + "  "), showgrid: false, ticks: "", range: [-0.6, codes.length - 0.4], fixedrange: true } } };
});

// rows of bars, the first arm on top; on a phone the names stand above the bars
function bars(style, rows, traces, title, extra = {}) {
  const phone = narrow(), step = phone ? 44 : rows.length > 30 ? 22 : 32;
  return { traces, height: 70 + step * rows.length, layout: { hovermode: "closest", barmode: "stack", bargap: phone ? 0.62 : 0.45, ...extra, margin: { t: 6, ...extra.margin, l: phone ? 10 : room(rows) },
    annotations: [...(phone ? rows.map((arm, place) => ({ x: 0, xref: "paper", xanchor: "left", y: -place + 0.36, text: short(arm.label, 30) + (arm.control ? ` <span style="color:${style.soft}">control</span>` : ""), showarrow: false })) : []), ...(extra.annotations || [])],
    xaxis: { title: { text: title }, rangemode: "tozero", fixedrange: phone, ...extra.xaxis },
    yaxis: { tickvals: phone ? [] : rows.map((_, place) => -place), ticktext: rows.map((arm) => short(arm.label, 30) + "  "), showgrid: false, ticks: "", showline: false, range: [0.4 - rows.length, phone ? 0.8 : 0.6], fixedrange: true, automargin: false } } };
}

const some = (test) => arms.filter((arm, place) => test(arm) && (arms.length <= data.few || visible[place]));
// a gap of a thousandth must look like one: the axis goes to 0.05 at least
function gapRange(rows) {
  const gaps = rows.flatMap((arm) => arm.gaps), low = Math.min(0, ...gaps), high = Math.max(0.05, ...gaps), pad = 0.04 * (high - low);
  return [low < 0 ? low - pad : 0, high + pad];
}
define("probe", (style) => {
  const rows = some((arm) => arm.gaps.length), table = [["arm", "gap"], ...rows.flatMap((arm) => arm.gaps.map((gap) => [arm.name, gap]))];
  const traces = rows.flatMap((arm, place) => {
    const mean = arm.gaps.reduce((sum, gap) => sum + gap, 0) / arm.gaps.length, colour = style.colour(arm);
    return [
      { type: "scatter", mode: "lines", x: [0, mean], y: [-place, -place], line: { color: colour, width: 4, dash: arm.control ? "dot" : "solid" }, hoverinfo: "skip" },
      { type: "scatter", mode: "markers", x: arm.gaps, y: arm.gaps.map(() => -place), marker: { color: faint(colour, 0.6), size: 8, symbol: arm.symbol, line: { width: arm.control ? 1.5 : 0, color: colour } }, hovertemplate: `<b>${plain(arm.label)}</b>: %{x:.3f}<extra></extra>` }];
  });
  return { ...bars(style, rows, traces, narrow() ? "gap (nats a token)" : "loss with shuffled sources minus loss with the right ones (nats a token)", { xaxis: { exponentformat: "none", range: gapRange(rows) } }), table };
});

define("cost", (style) => {
  const unit = chosen("cost-in") || "flops", rows = some(() => true), names = ["donor", "graft", "fine-tuning"];
  const patterns = ["/", "x", ""];
  const traces = names.map((name, part) => ({ type: "bar", orientation: "h", name, x: rows.map((arm) => arm.cost[unit][part]), y: rows.map((_, place) => -place), width: narrow() ? 0.3 : 0.55,
    marker: { color: style.tone(part), pattern: { shape: patterns[part], fillmode: "overlay", fgcolor: style.paper, fgopacity: 0.55, size: 6, solidity: 0.2 } },
    customdata: rows.map((arm) => plain(arm.label)), hovertemplate: `<b>%{customdata}</b><br>${name}: %{x:.3s}${unit === "seconds" ? " s" : ""}<extra></extra>` }));
  const made = bars(style, rows, rows.length ? traces : [], unit === "flops" ? "floating-point operations a run" : "seconds a run", { showlegend: true, margin: { t: 34 }, legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", traceorder: "normal", itemclick: false, itemdoubleclick: false, bgcolor: "rgba(0,0,0,0)" },
    xaxis: { exponentformat: unit === "flops" ? "power" : "none", separatethousands: true, nticks: narrow() ? 4 : 8 } });
  return { ...made, height: made.height + 28, table: [["arm", ...names.map((name) => `${name} (${unit})`)], ...rows.map((arm) => [arm.name, ...arm.cost[unit]])] };
});
