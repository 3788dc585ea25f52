"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const narrow = () => window.innerWidth < 640;
  // Plotly reads a little HTML in labels: a name of the data must stay text
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (text, most = narrow() ? 16 : 34) => plain(text.length > most ? text.slice(0, most - 1) + "…" : text);
  const arms = data.arms;
  const others = arms.filter((arm) => !arm.baseline);

  function theme() {
    const style = getComputedStyle(document.documentElement);
    const get = (name) => style.getPropertyValue(name).trim();
    return { ink: get("--ink"), soft: get("--soft"), line: get("--line"), paper: get("--paper"),
      colour: (arm) => get("--c" + arm.colour) };
  }
  const faint = (hex, alpha) => {
    const value = parseInt(hex.slice(1), 16);
    return `rgba(${value >> 16},${(value >> 8) & 255},${value & 255},${alpha})`;
  };
  function layout(look, extra) {
    const axis = { gridcolor: look.line, linecolor: look.soft, zeroline: false, ticks: "outside", tickcolor: look.line,
      automargin: true, title: { font: { size: 12, color: look.soft }, standoff: 8 } };
    return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: look.ink }, margin: { l: 50, r: 12, t: 12, b: 44 },
      hoverlabel: { bgcolor: look.paper, bordercolor: look.soft, font: { color: look.ink }, align: "left" },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } }, ...extra,
      xaxis: { ...axis, ...(extra.xaxis || {}), title: { ...axis.title, ...((extra.xaxis || {}).title || {}) } },
      yaxis: { ...axis, ...(extra.yaxis || {}), title: { ...axis.title, ...((extra.yaxis || {}).title || {}) } } };
  }
  const config = { displaylogo: false, responsive: true, displayModeBar: "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"] };
  function plot(id, traces, extra, look) {
    const node = $(id);
    if (!node) return;
    if (!traces.length) { node.textContent = "Nothing was recorded for this plot."; return; }
    const settings = layout(look, extra);
    if (narrow()) settings.dragmode = false; // a finger scrolls the page
    Plotly.react(node, traces, settings, config);
  }
  const chosen = (name) => { const node = document.querySelector(`input[name="${name}"]:checked`); return node && node.value; };

  function forest(look) {
    const name = $("forest-figure") ? $("forest-figure").value : "auc";
    const figure = data.figures[name] || {};
    const rows = others.filter((arm) => arm.difference[name]).reverse();
    const traces = [];
    rows.forEach((arm, place) => {
      const item = arm.difference[name], colour = look.colour(arm), known = item.low !== null && item.high !== null;
      traces.push({ type: "scatter", mode: "markers", x: item.seeds, y: item.seeds.map(() => place - 0.22), hoverinfo: "x",
        marker: { color: faint(colour, 0.45), size: 5 }, showlegend: false });
      if (known) traces.push({ type: "scatter", mode: "lines", x: [item.low, item.high], y: [place, place], hoverinfo: "skip",
        line: { color: colour, width: 3, dash: arm.dash }, showlegend: false });
      if (known) traces.push({ type: "scatter", mode: "markers", x: [item.low, item.high], y: [place, place], hoverinfo: "skip", showlegend: false,
        marker: { symbol: "line-ns", size: 10, line: { color: colour, width: 2 } } });
      traces.push({ type: "scatter", mode: "markers", x: [item.mean], y: [place], showlegend: false,
        marker: { color: arm.control ? look.paper : colour, size: 11, symbol: arm.symbol.replace("-open", ""), line: { color: colour, width: 2 } },
        hovertemplate: `${plain(arm.name)}<br>${item.mean.toFixed(4)}` +
          (known ? ` [${item.low.toFixed(4)}, ${item.high.toFixed(4)}]` : " (no interval)") + `<br>${item.n} paired seeds<extra></extra>` });
    });
    const side = figure.less === true ? "better ←   difference   → worse" : "worse ←   difference   → better";
    if ($("forest")) $("forest").style.height = Math.max(200, 90 + 46 * rows.length) + "px";
    plot("forest", traces, {
      xaxis: { title: { text: side }, zeroline: false },
      yaxis: { tickvals: rows.map((_, place) => place), ticktext: rows.map((arm) => short(arm.name)), range: [-0.6, rows.length - 0.4],
        showgrid: false, ticks: "", fixedrange: true },
      shapes: [{ type: "line", x0: 0, x1: 0, y0: 0, y1: 1, yref: "paper", line: { color: look.soft, width: 1.5 } }],
      hovermode: "closest" }, look);
  }

  function curves(look) {
    const figure = $("curve-figure") ? $("curve-figure").value : "loss";
    const by = chosen("curve-x") || "step", log = $("curve-log") && $("curve-log").checked, single = $("curve-runs") && $("curve-runs").checked;
    const traces = [];
    arms.forEach((arm) => {
      const curve = arm.curves, values = curve.values[figure];
      if (!values) return;
      const colour = look.colour(arm);
      // one step's worth is added on a log axis, so that step 0 has a place: log(step + 1), as in the primary figure
      const last = curve.step.length - 1, unit = curve.step[last] > 0 ? (curve[by][last] - curve[by][0]) / curve.step[last] : 1;
      const x = curve[by].map((value) => (value === null ? null : log ? value + unit : value));
      const legendgroup = arm.name;
      if (single && values.runs.length) {
        const xs = [], ys = [], labels = [];
        values.runs.forEach((run, place) => { xs.push(...x, null); ys.push(...run, null); labels.push(...x.map(() => curve.seeds[place]), ""); });
        traces.push({ type: "scatter", mode: "lines", x: xs, y: ys, text: labels, line: { color: faint(colour, 0.4), width: 1, dash: arm.dash },
          hovertemplate: `${plain(arm.name)}, %{text}: %{y:.4f}<extra></extra>`, legendgroup, showlegend: false });
      } else if (values.runs.length !== 1) {
        traces.push({ type: "scatter", mode: "lines", x: [...x, ...[...x].reverse()], y: [...values.low, ...[...values.high].reverse()],
          fill: "toself", fillcolor: faint(colour, 0.12), line: { width: 0 }, hoverinfo: "skip", legendgroup, showlegend: false });
      }
      traces.push({ type: "scatter", mode: "lines", x, y: values.mean, name: short(arm.name) + (arm.control ? " (control)" : ""), legendgroup,
        line: { color: colour, width: arm.control ? 1.75 : 2.5, dash: arm.dash }, hovertemplate: `${plain(arm.name)}: %{y:.4f}<extra></extra>` });
    });
    const titles = { step: "fine-tuning steps", examples: "fine-tuning examples", flops: narrow() ? "flops, donor charged" : "floating-point operations, donor's training charged" };
    plot("curves", traces, {
      xaxis: { title: { text: titles[by] + (log ? " (log scale)" : "") }, type: log ? "log" : "linear", exponentformat: by === "flops" ? "power" : "none", separatethousands: true, dtick: log && by !== "flops" ? 1 : undefined, nticks: 6 },
      shapes: figure === "difference" ? [{ type: "line", x0: 0, x1: 1, xref: "paper", y0: 0, y1: 0, line: { color: look.colour(arms.find((arm) => arm.baseline) || arms[0]), width: 2 } }] : [],
      yaxis: { title: { text: $("curve-figure") ? $("curve-figure").selectedOptions[0].textContent : "" } },
      hovermode: by === "step" && !single ? "x unified" : "closest" }, look);
  }

  function fidelity(look) {
    const figure = $("fidelity-figure") ? $("fidelity-figure").value : "cka";
    const traces = [];
    arms.filter((arm) => arm.fidelity).forEach((arm) => {
      const colour = look.colour(arm);
      traces.push({ type: "scatter", mode: "lines+markers", x: arm.fidelity.layer, y: arm.fidelity.after[figure], name: short(arm.name),
        line: { color: colour, width: 2.5, dash: arm.dash }, marker: { symbol: arm.symbol, size: 7 }, legendgroup: arm.name,
        customdata: arm.fidelity.norms, hovertemplate: `${plain(arm.name)} after: %{y:.3f}%{customdata}<extra></extra>` });
      traces.push({ type: "scatter", mode: "lines", x: arm.fidelity.layer, y: arm.fidelity.before[figure], showlegend: false, legendgroup: arm.name,
        line: { color: faint(colour, 0.6), width: 1.25, dash: "dot" }, hovertemplate: `${plain(arm.name)} before: %{y:.3f}<extra></extra>` });
    });
    plot("fidelity", traces, { xaxis: { title: { text: "encoder layer (0: embeddings)" }, dtick: 1, tick0: 0 },
      yaxis: { title: { text: $("fidelity-figure") ? $("fidelity-figure").selectedOptions[0].textContent : "" } }, hovermode: "closest" }, look);
  }

  function languages(look) {
    if (!$("languages")) return;
    const figure = $("language-figure").value;
    const codes = [...new Set(arms.flatMap((arm) => Object.keys(arm.languages)))].sort((a, b) => (a === "all" ? 1 : b === "all" ? -1 : a < b ? 1 : -1));
    const traces = [], shapes = [];
    arms.forEach((arm, place) => {
      const shown = codes.filter((code) => typeof (arm.languages[code] || {})[figure] === "number");
      const offset = (place / Math.max(arms.length - 1, 1) - 0.5) * -0.5;
      traces.push({ type: "scatter", mode: "markers", x: shown.map((code) => arm.languages[code][figure]), y: shown.map((code) => codes.indexOf(code) + offset),
        name: short(arm.name), marker: { color: look.colour(arm), symbol: arm.symbol, size: 9, line: { width: arm.control ? 2 : 0, color: look.colour(arm) } },
        hovertemplate: `${plain(arm.name)}: %{x:.1f}<extra></extra>` });
    });
    const leads = codes.map((code) => { const arm = arms.find((item) => typeof (item.languages[code] || {})["lead1." + figure] === "number");
      return arm ? arm.languages[code]["lead1." + figure] : null; });
    if (leads.some((value) => value !== null)) {
      leads.forEach((value, place) => { if (value !== null) shapes.push({ type: "line", x0: value, x1: value, y0: place - 0.36, y1: place + 0.36, line: { color: look.ink, width: 2 } }); });
      traces.push({ type: "scatter", mode: "markers", x: leads, y: codes.map((_, place) => place), name: "lead-1 (first sentence of the source)",
        marker: { symbol: "line-ns", size: 10, color: look.ink, line: { width: 2, color: look.ink } }, hovertemplate: "lead-1: %{x:.1f}<extra></extra>" });
    }
    $("languages").style.height = Math.max(240, 150 + 44 * codes.length) + "px";
    plot("languages", traces, { shapes, xaxis: { title: { text: $("language-figure").selectedOptions[0].textContent } },
      yaxis: { tickvals: codes.map((_, place) => place), ticktext: codes.map(plain), showgrid: false, ticks: "", range: [-0.6, codes.length - 0.4], fixedrange: true },
      hovermode: "closest" }, look);
  }

  function probe(look) {
    const rows = arms.filter((arm) => arm.gaps.length).reverse();
    if ($("probe")) $("probe").style.height = Math.max(180, 90 + 38 * rows.length) + "px";
    plot("probe", rows.flatMap((arm, place) => {
      const mean = arm.gaps.reduce((sum, value) => sum + value, 0) / arm.gaps.length, colour = look.colour(arm);
      return [
        { type: "scatter", mode: "lines", x: [0, mean], y: [place, place], line: { color: colour, width: 3, dash: arm.dash }, hoverinfo: "skip", showlegend: false },
        { type: "scatter", mode: "markers", x: arm.gaps, y: arm.gaps.map(() => place), marker: { color: faint(colour, 0.55), size: 8, symbol: arm.symbol },
          showlegend: false, hovertemplate: `${plain(arm.name)}: %{x:.3f}<extra></extra>` }];
    }), { xaxis: { title: { text: narrow() ? "gap (nats a token)" : "loss with shuffled sources minus loss with the right ones (nats a token)" }, rangemode: "tozero" },
      yaxis: { tickvals: rows.map((_, place) => place), ticktext: rows.map((arm) => short(arm.name)), showgrid: false, ticks: "", range: [-0.6, rows.length - 0.4], fixedrange: true },
      hovermode: "closest" }, look);
  }

  function samples() {
    const box = $("sample-search"), language = $("sample-language"), rows = [...document.querySelectorAll(".sample")];
    if (!box) return;
    const texts = rows.map((row) => row.textContent.normalize("NFKC").toLowerCase());
    const filter = () => {
      const words = box.value.normalize("NFKC").toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, place) => {
        const fits = words.every((word) => texts[place].includes(word)) && (!language.value || row.dataset.language === language.value);
        row.hidden = !fits;
        shown += fits ? 1 : 0;
      });
      $("sample-count").textContent = `${shown} of ${rows.length} shown`;
    };
    box.addEventListener("input", filter);
    language.addEventListener("change", filter);
    filter();
  }

  // a finger has no pointer to rest on a square: a tap tells the same below the picture
  document.querySelectorAll(".cells").forEach((table) => table.addEventListener("click", (event) => {
    const square = event.target.closest("i[title]");
    if (square) table.parentElement.querySelector(".told").textContent = square.title;
  }));

  const draws = { forest, curves, fidelity, languages, probe };
  function drawAll() { const look = theme(); Object.values(draws).forEach((draw) => draw(look)); }
  const on = (query, draw) => document.querySelectorAll(query).forEach((node) => node.addEventListener("change", () => draw(theme())));
  on("#forest-figure", forest);
  on("#curve-figure, #curve-log, #curve-runs, input[name=curve-x]", curves);
  on("#fidelity-figure", fidelity);
  on("#language-figure", languages);
  samples();
  // the first plot at once, the others when the page has time, so that it opens fast
  const waiting = Object.values(draws);
  function next() {
    const draw = waiting.shift();
    if (draw) { draw(theme()); setTimeout(next, 0); } else document.documentElement.dataset.ready = "yes";
  }
  requestAnimationFrame(() => setTimeout(next, 0));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  window.matchMedia("print").addEventListener("change", drawAll);
  let wide = window.innerWidth;
  window.addEventListener("resize", () => { if ((wide < 640) !== narrow()) drawAll(); wide = window.innerWidth; });
})();
