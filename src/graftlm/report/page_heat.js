// --- two settings at once: a table whose cells are coloured; it is read, printed and spoken like any table ---
const SHARES = ["steps_share", "compute_share"];
function heatCells(rows, columns, name) {
  const cells = new Map();
  arms.forEach((arm, place) => {
    const row = rows.places[place], column = columns.places[place];
    if (row < 0 || column < 0) return;
    const share = SHARES.includes(name), found = share ? arm.shares[name] : (arm.difference[name] || {}).mean;
    if (found === undefined || found === null) return;
    const key = row + "|" + column, cell = cells.get(key) || { values: [], arms: [] };
    cell.values.push(found);
    cell.arms.push(arm);
    cells.set(key, cell);
  });
  cells.forEach((cell) => { cell.mean = cell.values.reduce((sum, one) => sum + one, 0) / cell.values.length; });
  return cells;
}
function heat() {
  const node = $("heat-map");
  if (!node) return;
  const rows = data.heat.axes[Number($("heat-rows").value)], columns = data.heat.axes[Number($("heat-columns").value)], name = $("heat-figure").value;
  const label = $("heat-figure").selectedOptions[0].textContent, share = SHARES.includes(name), less = share || (data.figures[name] || {}).less !== false;
  const cells = heatCells(rows, columns, name), table = [[rows.label, columns.label, label]];
  if (rows === columns) { node.replaceChildren(make("p", { class: "empty", text: "Rows and columns are the same setting: choose two." })); return; }
  // a share is judged by how far it is from 1 in either direction
  const weight = (cell) => (share ? Math.log(Math.max(cell.mean, 1e-3)) : cell.mean) * (less ? 1 : -1);
  const scale = [...cells.values()].filter((cell) => cell.arms.some((arm) => !arm.control)), most = Math.max(1e-9, ...(scale.length ? scale : [...cells.values()]).map((cell) => Math.abs(weight(cell))));
  const used = (axis, at) => axis.values.map((_, place) => place).filter((place) => [...cells.keys()].some((key) => Number(key.split("|")[at]) === place));
  const across = used(columns, 1), down = used(rows, 0);
  const digits = share ? 2 : data.figures[name].digits;
  const body = down.map((row) => {
    const inRow = across.flatMap((column) => (cells.get(row + "|" + column) || { arms: [] }).arms);
    return make("tr", {}, make("th", { scope: "row" }, make("bdi", { text: rows.values[row] }), inRow.every((arm) => arm.control) ? make("span", { class: "tag", text: "control" }) : null),
      ...across.map((column) => {
        const cell = cells.get(row + "|" + column);
        if (!cell) return make("td", { class: "n none", text: "–", title: "no such arm, or this figure was not reached" });
        const strength = Math.min(1, Math.abs(weight(cell)) / most), sure = cell.arms.length === 1 && cell.arms[0].sure;
        table.push([rows.values[row], columns.values[column], cell.mean]);
        return make("td", { class: "n" + (sure ? " sure" : ""), title: cell.arms.map((arm) => arm.name + ": " + arm.word).join("\n"),
          style: { "--heat": Math.round(strength * 60) + "%", "--side": `var(--${weight(cell) < 0 ? "cool" : "warm"})` } },
          make("span", { text: share ? cell.mean.toFixed(digits) : signed(cell.mean, digits) }), make("small", { text: cell.arms.length > 1 ? "×" + cell.arms.length : cell.arms[0].word }));
      }));
  });
  if (!body.length) { node.replaceChildren(make("p", { class: "empty", text: "No arm has this figure." })); return; }
  node.replaceChildren(make("table", { class: "heat" }, make("caption", { class: "sr", text: `${label}: ${rows.label} by ${columns.label}` }),
    make("thead", {}, make("tr", {}, make("th", { scope: "col", text: rows.label }), ...across.map((column) => make("th", { scope: "col", class: "n" }, make("small", { text: columns.label }), make("bdi", { text: columns.values[column] }))))), make("tbody", {}, ...body)));
  sheets.heat = table;
}
all("#heat-rows, #heat-columns, #heat-figure").forEach((node) => node.addEventListener("change", heat));
