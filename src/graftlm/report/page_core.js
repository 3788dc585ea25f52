// --- the data, the theme, and how a figure is drawn, copied and saved ---
const data = JSON.parse(document.getElementById("data").textContent);
const arms = data.arms;
const $ = (id) => document.getElementById(id);
const all = (query, root = document) => [...root.querySelectorAll(query)];
const value = (id, otherwise) => ($(id) ? $(id).value : otherwise);
const ticked = (id) => Boolean($(id) && $(id).checked);
const chosen = (name) => { const node = document.querySelector(`input[name="${name}"]:checked`); return node && node.value; };
const narrow = () => window.innerWidth < 640;
const printing = () => window.matchMedia("print").matches || printing.now;
// Plotly reads a little HTML in labels: a name of the data must stay text
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
// a name from right to left must not turn the numbers beside it: it is isolated
const apart = (text) => (/[\u0590-\u08ff\ufb1d-\ufefc\u202a-\u202e]/.test(text) ? `\u2068${text}\u2069` : text);
const short = (text, most = narrow() ? 22 : 36) => plain(apart([...text].length > most ? [...text].slice(0, most - 1).join("") + "…" : text));
const signed = (number, digits = 3) => (number > 0 ? "+" : number < 0 ? "−" : "") + Math.abs(number).toFixed(digits);

// elements by hand, so that no text of the data is ever read as HTML
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, given] of Object.entries(attributes)) {
    if (name === "text") node.textContent = given;
    else if (name === "style") for (const [key, set] of Object.entries(given)) node.style.setProperty(key, set);
    else if (given !== null && given !== undefined && given !== false) node.setAttribute(name, given === true ? "" : given);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
const swatch = (arm) => make("i", { class: `swatch d-${arm.dash}`, style: { "--c": `var(--c${arm.colour})` }, "aria-hidden": "true" });

function look() {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue(name).trim();
  return { ink: get("--ink"), soft: get("--soft"), line: get("--line"), paper: get("--paper"), good: get("--good"), bad: get("--bad"),
    tone: (place) => get("--t" + place), colour: (arm) => get("--c" + arm.colour) };
}
const faint = (hex, alpha) => {
  const full = hex.length === 4 ? hex.replace(/[0-9a-f]/gi, "$&$&") : hex;
  const number = parseInt(full.slice(1), 16);
  return `rgba(${number >> 16},${(number >> 8) & 255},${number & 255},${alpha})`;
};

// Plotly lies in the page compressed; it is unpacked when the first plot is drawn
let library = null;
function bytes(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const signs = atob(text), found = new Uint8Array(signs.length);
  for (let place = 0; place < signs.length; place++) found[place] = signs.charCodeAt(place);
  return found;
}
async function unpack() {
  const stream = new Blob([bytes($("plotly").textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = make("script", { text: await new Response(stream).text() });
  document.head.append(script);
  if (!window.Plotly) throw new Error("Plotly did not start");
}
function needPlotly() {
  library = library || unpack().catch((error) => {
    all(".plot").forEach((node) => node.replaceChildren(make("p", { class: "empty", text: "This browser cannot draw the plots (it lacks DecompressionStream); their figures are in the tables." })));
    throw error;
  });
  return library;
}

const axis = (style, given) => ({ gridcolor: style.line, linecolor: style.soft, zeroline: false, ticks: "outside", ticklen: 4, tickcolor: style.line,
  automargin: true, ...given, title: { font: { size: 12, color: style.soft }, standoff: 8, ...((given || {}).title || {}) } });
function layout(style, given) {
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: style.ink },
    hoverlabel: { bgcolor: style.paper, bordercolor: style.soft, font: { color: style.ink, size: 12.5 }, align: "left" },
    ...given, margin: { l: 48, r: 14, t: 10, b: 44, ...given.margin }, xaxis: axis(style, given.xaxis), yaxis: axis(style, given.yaxis) };
}

// the room that arms' names need beside a plot; measured here, for Plotly's own way lays the plot out twice
const ruler = document.createElement("canvas").getContext("2d");
function room(list) {
  ruler.font = "12.5px " + getComputedStyle(document.body).fontFamily;
  return Math.ceil(Math.max(40, ...list.map((arm) => ruler.measureText(short(arm.label, 30)).width))) + 18;
}

// a figure: a function that gives { traces, layout, table, height, says }, the place it is drawn in, and when
const figures = {}, sheets = {}; // sheets: what "Save as CSV" saves
function define(id, build) { if ($(id)) figures[id] = { build, seen: false, drawn: false }; }
function draw(id) {
  const figure = figures[id], node = $(id);
  if (!figure || !window.Plotly) return;
  const style = look(), made = figure.build(style);
  sheets[id] = made.table;
  figure.drawn = true;
  if (made.height) node.style.height = made.height + "px";
  if (!made.traces.length) {
    Plotly.purge(node);
    node.replaceChildren(make("p", { class: "empty", text: made.says || "Nothing was recorded for this plot." }));
    return;
  }
  if (node.firstElementChild && !node.querySelector(".plot-container")) node.replaceChildren();
  const settings = layout(style, made.layout);
  if (narrow()) settings.dragmode = false; // a finger scrolls the page
  if (printing.now) Object.assign(settings, { width: 680, height: parseFloat(getComputedStyle(node).height), autosize: false });
  Plotly.react(node, made.traces, settings, { displayModeBar: false, responsive: true });
}
const redraw = (...ids) => ids.forEach((id) => figures[id] && figures[id].drawn && draw(id));
const redrawAll = () => redraw(...Object.keys(figures));
// what its parts need of room is known before it is drawn, so that the page does not jump
function reserve(id, height) { if ($(id) && !figures[id].drawn) $(id).style.height = height + "px"; }

function whenChanged(query, id) { all(query).forEach((node) => node.addEventListener("change", () => redraw(id))); }

// --- copying and saving ---
async function copy(text, said) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { "aria-hidden": "true", style: { position: "fixed", opacity: "0" } });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) { said.textContent = "The browser does not let a page copy: see “To make it again”."; return; }
  }
  said.textContent = "Copied.";
  setTimeout(() => { if (said.textContent === "Copied.") said.textContent = ""; }, 4000);
}
// a spreadsheet would run a cell that begins like a formula: text of the data gets a quote before it
const cell = (given) => {
  if (given === null || given === undefined) return "";
  if (typeof given === "number") return String(given);
  const text = /^[=+\-@\t\r]/.test(given) ? "'" + given : given;
  return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
};
const csv = (rows) => rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
function save(name, text, type) {
  const link = make("a", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const said = button.parentElement.querySelector(".said");
  if (button.dataset.copy) await copy(data.commands.replace("{anchor}", button.dataset.copy), said);
  if ("copyBeside" in button.dataset) {
    const old = button.textContent;
    await copy(button.parentElement.querySelector("code").textContent, { set textContent(text) { button.textContent = text || old; }, get textContent() { return button.textContent; } });
  }
  const wanted = button.dataset.csv || button.dataset.svg;
  if (!wanted) return;
  if (figures[wanted] && !figures[wanted].drawn) { await needPlotly(); draw(wanted); }
  if (button.dataset.csv) save(wanted + ".csv", csv(sheets[wanted] || []), "text/csv");
  else if ($(wanted).querySelector(".plot-container")) {
    const made = await Plotly.toImage($(wanted), { format: "svg", width: $(wanted).clientWidth, height: $(wanted).clientHeight });
    save(wanted + ".svg", decodeURIComponent(made.slice(made.indexOf(",") + 1)), "image/svg+xml");
  } else { said.textContent = "There is nothing to save."; return; }
  said.textContent = "Saved.";
  setTimeout(() => { if (said.textContent === "Saved.") said.textContent = ""; }, 4000);
});

// --- which arms are shown: one choice for all plots and for the samples ---
const visible = arms.map((arm) => arm.shown);
const shownArms = () => arms.filter((_, place) => visible[place]);
const listeners = [];
function show(places) {
  arms.forEach((_, place) => { visible[place] = places.includes(place); });
  all(".legend button[data-arm]").forEach((button) => button.setAttribute("aria-pressed", String(visible[Number(button.dataset.arm)])));
  all(".legend .said").forEach((node) => { node.textContent = counted(); });
  listeners.forEach((listener) => listener());
}
const counted = () => `${visible.filter(Boolean).length} of ${arms.length} shown`;
function legends() {
  const places = arms.map((_, place) => place);
  const side = data.figures[data.primary].less === false ? -1 : 1, rank = (place) => (arms[place].difference[data.primary] ? side * arms[place].difference[data.primary].mean : Infinity);
  const best = [...places.filter((place) => arms[place].baseline), ...places.filter((place) => !arms[place].baseline && !arms[place].control).sort((a, b) => rank(a) - rank(b)).slice(0, 5)];
  all(".legend").forEach((node) => {
    arms.forEach((arm, place) => {
      const button = make("button", { type: "button", "data-arm": place, "aria-pressed": String(visible[place]), title: arm.name }, swatch(arm), make("bdi", { text: arm.label }),
        arm.control ? make("span", { class: "kind", text: "control" }) : arm.baseline ? make("span", { class: "kind", text: "baseline" }) : null);
      button.addEventListener("click", () => show(places.filter((other) => (other === place ? !visible[other] : visible[other]))));
      for (const [name, on] of [["pointerenter", true], ["focus", true], ["pointerleave", false], ["blur", false]])
        button.addEventListener(name, () => emphasise(node.dataset.legend, on ? place : null));
      node.append(button);
    });
    if (arms.length < 4) return;
    const sets = [["show all", places], ["hide all", []]];
    if (arms.length > 7) sets.splice(1, 0, ["best five", best]);
    sets.forEach(([label, wanted]) => {
      const button = make("button", { type: "button", class: "set", text: label });
      button.addEventListener("click", () => show(wanted));
      node.append(button);
    });
    node.append(make("span", { class: "said", text: counted() }));
  });
}
// the arm under the pointer stands out of the others
function emphasise(id, place) {
  const node = $(id);
  if (!node || !node.data || !node.data.length || (place !== null && !visible[place])) return;
  Plotly.restyle(node, { opacity: node.data.map((trace) => (place === null || trace.meta === place ? 1 : 0.15)) });
}
