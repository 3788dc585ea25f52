// --- the start: plots are drawn when they come near the window, the first one at once ---
const root = document.documentElement, dark = window.matchMedia("(prefers-color-scheme: dark)");

function themes() {
  const button = $("theme");
  const now = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const tell = () => button.setAttribute("aria-pressed", String(now() === "dark"));
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = now() === "dark" ? "light" : "dark";
    root.dataset.theme = next;
    try { localStorage.setItem("graftlm-theme", next); } catch { /* then it is not remembered */ }
    tell();
    redrawAll();
  });
  dark.addEventListener("change", () => { tell(); redrawAll(); });
  tell();
}

function unknownAxes() {
  all("input[name=curve-x]").forEach((input) => {
    if (arms.some((arm) => arm.curves[input.value].some((at) => at !== null && at > 0))) return;
    input.disabled = true;
    input.parentElement.title = "not recorded in these runs";
  });
  all("#curve-figure option").forEach((option) => { option.disabled = !arms.some((arm) => arm.curves.values[option.value]); });
}

function lazily() {
  const ids = Object.keys(figures), style = look();
  // those whose height is not in the style sheet
  ids.filter((id) => !$(id).matches(".tall, .mid")).forEach((id) => reserve(id, figures[id].build(style).height));
  const see = async (id) => {
    if (figures[id].seen) return;
    figures[id].seen = true;
    await needPlotly();
    if (!figures[id].drawn) draw(id);
    if (!root.dataset.ready) performance.mark("first-plot");
    root.dataset.ready = "yes";
  };
  if (!ids.length) { root.dataset.ready = "yes"; return; }
  const observer = new IntersectionObserver((entries) => entries.forEach((entry) => { if (entry.isIntersecting) { observer.unobserve(entry.target); see(entry.target.id).catch(() => { root.dataset.ready = "no"; }); } }), { rootMargin: "300px 0px" });
  ids.forEach((id) => observer.observe($(id)));
  see(ids[0]).catch(() => { root.dataset.ready = "no"; });
}

function whenNear(id, action) {
  if (!$(id)) return;
  const observer = new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) { observer.disconnect(); action(); } }, { rootMargin: "300px 0px" });
  observer.observe($(id));
}

function sectionInView() {
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const observer = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (!entry.isIntersecting) return;
    links.forEach((link) => link.removeAttribute("aria-current"));
    const link = links.get(entry.target.id);
    if (!link) return;
    link.setAttribute("aria-current", "true");
    const list = link.closest("ul");
    list.scrollLeft = link.offsetLeft - list.clientWidth / 2 + link.clientWidth / 2;
  }), { rootMargin: "-15% 0px -75% 0px" });
  all("main > section").forEach((section) => observer.observe(section));
}

// on paper every plot is drawn, in ink on white, as wide as a page
window.addEventListener("beforeprint", () => { printing.now = true; Object.keys(figures).forEach((id) => draw(id)); if ($("map") && !$("map").children.length) tensorMaps(); });
window.addEventListener("afterprint", () => { printing.now = false; redrawAll(); });
window.matchMedia("print").addEventListener("change", redrawAll);
let wide = narrow();
window.addEventListener("resize", () => { if (!printing.now && wide !== narrow()) { wide = narrow(); redrawAll(); } });

themes();
legends();
unknownAxes();
heat();
if ($("maps")) $("maps").hidden = !packed.grafts.some((graft) => graft.map);
whenNear("maps", tensorMaps);
samples();
whenChanged("#forest-figure", "forest");
whenChanged("#curve-figure, #curve-log, #curve-runs, #curve-all, input[name=curve-x]", "curves");
whenChanged("#fidelity-figure", "fidelity");
whenChanged("#language-figure", "languages");
whenChanged("input[name=cost-in]", "cost");
listeners.push(() => redraw("curves", "fidelity", "languages", ...(arms.length > data.few ? ["forest", "probe", "cost"] : [])));
lazily();
sectionInView();
