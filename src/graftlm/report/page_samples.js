// --- samples: searched, filtered, put into another order; arms that are not shown are left out here too ---
function samples() {
  const box = $("sample-search"), list = $("sample-list");
  if (!box) return;
  const rows = all(".sample"), fold = (text) => text.normalize("NFKC").toLowerCase();
  const words = new Map(rows.map((row) => [row, fold(row.textContent)]));
  const language = $("sample-language"), order = $("sample-order"), differing = $("sample-differing");
  const figure = (row, name) => (row.dataset[name] === "" || row.dataset[name] === undefined ? null : Number(row.dataset[name]));
  const ways = { index: ["index", 1], loss: ["loss", -1], gain: ["gain", 1], lost: ["gain", -1] };
  if (rows.every((row) => figure(row, "gain") === null)) all('option[value="gain"], option[value="lost"]', order).forEach((option) => option.remove());
  if (rows.every((row) => figure(row, "loss") === null)) all('option[value="loss"]', order).forEach((option) => option.remove());
  const few = 6, more = $("sample-more"); // the list begins short; a search or a filter goes over all of it
  let whole = rows.length <= few + 2;
  const filter = () => {
    const sought = fold(box.value).split(/\s+/).filter(Boolean), free = !sought.length && !language.value && !differing.checked;
    let shown = 0;
    all(".sample", list).forEach((row) => {
      const fits = sought.every((word) => words.get(row).includes(word)) && (!language.value || row.dataset.language === language.value) && !(differing.checked && "agree" in row.dataset);
      row.hidden = !fits || (free && !whole && shown >= few);
      shown += row.hidden ? 0 : 1;
    });
    $("sample-count").textContent = `${shown} of ${rows.length} shown`;
    $("sample-none").hidden = shown > 0;
    more.hidden = !free || whole;
    more.textContent = `Show all ${rows.length} examples`;
  };
  more.addEventListener("click", () => { whole = true; filter(); rows[few].querySelector("h3").scrollIntoView({ block: "center" }); });
  const sort = () => {
    const [name, sign] = ways[order.value];
    const at = (row) => { const found = figure(row, name); return found === null ? Infinity : sign * found; };
    list.append(...[...rows].sort((a, b) => at(a) - at(b) || Number(a.dataset.index) - Number(b.dataset.index)));
    filter();
  };
  const byArm = new Map(arms.map((arm, place) => [arm.name, place]));
  listeners.push(() => all(".sample .output").forEach((output) => {
    const by = all(".by", output);
    by.forEach((node) => { node.hidden = !visible[byArm.get(node.dataset.arm)]; });
    output.hidden = by.every((node) => node.hidden);
  }));
  box.addEventListener("input", filter);
  language.addEventListener("change", filter);
  differing.addEventListener("change", filter);
  order.addEventListener("change", sort);
  $("sample-reset").addEventListener("click", () => { box.value = ""; language.value = ""; differing.checked = false; filter(); box.focus(); });
  filter();
}
