// --- the tensor map of one graft at a time: tabs, or a list where they are many ---
const packed = data.tensors, texts = packed.texts;
const tensor = (row) => ({ name: texts[row[0]], shape: texts[row[1]], status: texts[row[2]], source: texts[row[3]], step: texts[row[4]], note: texts[row[5]] });
const story = ({ name, status, source, step, note }) => `${name}: ${status}${source ? ` from ${source}` : ""}${step ? `, step ${step}` : ""}${note ? `: ${note}` : ""}`;
const armOf = (graft) => arms.find((arm) => arm.name === graft.name) || arms[0];

function scrolling(label, table) { return make("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" }, table); }
function grid(caption, heads, rows) {
  return make("table", {}, make("caption", { class: "sr", text: caption }), make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col", text: head })))), make("tbody", {}, ...rows));
}
// what is long is made when it is opened
function later(summary, build) {
  const node = make("details", {}, make("summary", { text: summary }));
  node.addEventListener("toggle", () => { if (node.open && node.children.length === 1) node.append(build()); });
  return node;
}

function picture(graft) {
  const map = graft.map, edge = (place) => (map.edges.includes(place) ? "edge" : null);
  let at = 0;
  const sides = map.sides.map(([side, width]) => { const head = make("th", { scope: "colgroup", colspan: width, class: edge(at), text: side }); at += width; return head; });
  const square = (places) => {
    const found = places.map((place) => tensor(graft.tensors[place])), kinds = [...new Set(found.map((one) => one.status))];
    const known = data.statuses[kinds[0]] || { mark: "" };
    return make("i", { class: "s-" + kinds[0], title: found.map(story).join("\n"), text: kinds.length === 1 ? known.mark : "", style: kinds.length > 1 ? { "--b": `var(--s-${kinds[1]})` } : {} });
  };
  const table = make("table", { class: "cells", "aria-hidden": "true" }, make("caption", { class: "sr", text: "Told beside it in words." }),
    make("thead", {}, make("tr", {}, make("td"), ...sides), make("tr", {}, make("td"), ...map.columns.map((column, place) => make("th", { scope: "col", class: edge(place), text: column })))),
    make("tbody", {}, ...map.rows.map(([part, cells]) => make("tr", {}, make("th", { scope: "row", text: part }), ...cells.map((places, place) => make("td", { class: edge(place) }, places ? square(places) : null))))));
  const told = make("p", { class: "told", "aria-hidden": "true" });
  // a finger has no pointer to rest on a square: a tap tells the same below the picture
  table.addEventListener("click", (event) => { const node = event.target.closest("i[title]"); if (node) told.textContent = node.title; });
  return [scrolling(`Picture of the tensor map of ${graft.name}`, table), told];
}

function everyTensor(graft) {
  const box = make("input", { type: "search", placeholder: "Search tensors", "aria-label": `Search the tensors of ${graft.name}`, autocomplete: "off" }), said = make("span", { class: "said", role: "status" });
  const rows = [...graft.tensors.map((row) => [tensor(row), ""]), ...graft.unused.map((row) => [tensor(row), " (donor)"])].map(([one, side]) => make("tr", {},
    make("th", { scope: "row" }, make("code", { text: one.name })), make("td", { text: one.shape }), make("td", { text: one.status + side }), make("td", {}, make("code", { text: one.source })), make("td", { text: one.step }), make("td", { text: one.note })));
  const words = rows.map((row) => row.textContent.toLowerCase());
  const filter = () => {
    const sought = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row, place) => { row.hidden = !sought.every((word) => words[place].includes(word)); count += row.hidden ? 0 : 1; });
    said.textContent = `${count} of ${rows.length} shown${graft.more ? `; ${graft.more} more are in transfer.json` : ""}`;
  };
  box.addEventListener("input", filter);
  filter();
  return make("div", {}, make("div", { class: "controls" }, box, said), scrolling(`Every tensor of ${graft.name}`, grid(`Host tensors of ${graft.name}, then the donor’s unused ones`, ["tensor", "shape", "status", "from", "step", "note"], rows)));
}

function graftPanel(graft) {
  const map = graft.map, digits = (given) => (given === null || given === undefined ? "–" : given.toFixed(3));
  const marks = make("p", { class: "marks" }, ...map.statuses.map((status) => make("span", {}, make("i", { class: "s-" + status, text: data.statuses[status].mark, "aria-hidden": "true" }), status, make("small", { text: data.statuses[status].meaning }))));
  const words = later("The same in words", () => make("div", {}, scrolling(`Parts of ${graft.name} in words`, grid(`What became of each part of the host in ${graft.name}; layers in brackets`, ["part", "encoder", "decoder"],
    map.summary.map(([part, encoder, decoder]) => make("tr", {}, make("th", { scope: "row", text: part }), make("td", { text: encoder || "–" }), make("td", { text: decoder || "–" }))))),
    map.others ? make("p", { class: "note", text: `${map.others} other tensor${map.others === 1 ? " is" : "s are"} in the list below only.` }) : null));
  const norms = !graft.norms.length ? null : later("How much the donor’s LayerNorms vary", () => make("div", {}, make("p", { class: "note", text: "Coefficients of variation: of σ over the tokens of held-out text at the LayerNorm’s input, of its scale γ over the dimensions. Where σ varies much, a post-LN layer undoes what a pre-LN one carries along, and a plain copy is far off." }),
    scrolling(`Variation of the donor’s LayerNorms, ${graft.name}`, grid("Coefficients of variation of σ over tokens and of γ over dimensions at the donor’s LayerNorms", ["layer", "σ, attention", "σ, FFN", "γ, attention", "γ, FFN"],
      graft.norms.map(([layer, ...found]) => make("tr", {}, make("th", { scope: "row", text: String(layer) }), ...found.map((one) => make("td", { class: "n", text: digits(one) }))))))));
  return [marks, make("div", { class: "beside" }, make("div", { class: "drawn" }, ...picture(graft)), make("div", { class: "words" }, words, norms)), later(`Every tensor of ${graft.name}`, () => everyTensor(graft))];
}

function tensorMaps() {
  const mapped = packed.grafts.filter((graft) => graft.map), box = $("maps");
  if (!box || !mapped.length) return;
  const panel = $("map"), list = box.querySelector("[role=tablist]");
  const open = (graft) => { panel.replaceChildren(...graftPanel(graft)); };
  if (mapped.length > 16) {
    const select = make("select", {}, ...mapped.map((graft, place) => make("option", { value: place, text: graft.name })));
    select.addEventListener("change", () => open(mapped[Number(select.value)]));
    list.replaceWith(make("div", { class: "controls" }, make("label", {}, "Graft ", select)));
    panel.setAttribute("role", "region");
    panel.setAttribute("aria-label", "Tensor map");
  } else {
    const tabs = mapped.map((graft, place) => make("button", { type: "button", role: "tab", id: `tab-${place}`, "aria-controls": "map" }, swatch(armOf(graft)), make("bdi", { text: armOf(graft).label })));
    const choose = (place, focus) => {
      tabs.forEach((tab, other) => { tab.setAttribute("aria-selected", String(other === place)); tab.tabIndex = other === place ? 0 : -1; });
      panel.setAttribute("aria-labelledby", `tab-${place}`);
      if (focus) tabs[place].focus();
      open(mapped[place]);
    };
    tabs.forEach((tab, place) => tab.addEventListener("click", () => choose(place, false)));
    list.addEventListener("keydown", (event) => {
      const now = tabs.findIndex((tab) => tab.tabIndex === 0), last = tabs.length - 1;
      const next = { ArrowRight: now === last ? 0 : now + 1, ArrowLeft: now === 0 ? last : now - 1, Home: 0, End: last }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      choose(next, true);
    });
    list.append(...tabs);
    choose(0, false);
    return;
  }
  open(mapped[0]);
}
