"""The page in a real browser: drawn, used, quiet, harmless."""

from __future__ import annotations

import html.parser
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from graftlm.report import build_report
from graftlm.report.terminal import print_report

PLOTS = ("forest", "curves", "fidelity", "languages", "probe", "cost")
HOSTILE = (
    '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked=2"> {{ 7*7 }} \' \u2028 😀 \ud83d'
)


def in_view(page: Any, id: str) -> Any:
    """The plot once it has been drawn: it is when it comes near the window."""
    page.locator(f"#{id}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#{id} svg.main-svg", timeout=30_000)
    return page.locator(f"#{id}")


@pytest.fixture(scope="module")
def built(sweep_class: Any, arm_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies by two masks, two controls, three seeds; every third example is answered alike by all arms."""
    root = tmp_path_factory.mktemp("built")
    sweep = sweep_class(root)
    sweep.predict = lambda index, text, arm: "the same" if index % 5 == 0 else f"{text[:40]} ({arm})"
    masks = ("r15", "r30")
    arms = [
        arm_class("none"),
        *(arm_class("calibrated", early=-0.5, late=-0.12, gap=1.1, fidelity=0.93, mask=mask) for mask in masks),
        *(arm_class("embeddings", early=-0.1, late=-0.02, gap=0.85, fidelity=0.13, mask=mask) for mask in masks),
        arm_class("naive", early=9.0, late=0.1, control=True, fidelity=0.14),
        arm_class("shuffled", early=0.12, late=0.05, control=True, gap=0.7, fidelity=0.05),
    ]
    sweep.sweep(arms, seeds=(1, 2, 3))
    build_report([sweep.root], root / "out")
    return root / "out" / "report.html"


@pytest.fixture(scope="module")
def page(built: Path, browser: Any, open_in: Any) -> Any:
    """One open page for the tests that use it: each keeps to its own part, or puts back what it changed."""
    return open_in(browser, built)


def test_every_plot_is_drawn_when_it_comes_into_view(page: Any) -> None:
    headline = page.inner_text("h1")
    assert headline.startswith("calibrated · r15 is better than the baseline")
    assert page.locator("#cost svg.main-svg").count() == 0  # far below: not yet
    for plot in PLOTS:
        drawn = in_view(page, plot)
        assert len(drawn.get_attribute("aria-label")) > 40
    # six arms: their means, two ends of each interval, three runs each; the intervals themselves are lines
    assert page.locator("#forest .scatterlayer .point").count() >= 6 + 2 * 6 + 3 * 5
    assert page.locator("#forest .shapelayer path").count() == 6 + 2
    assert page.locator("#forest .annotation-text", has_text="controls").count() == 1
    assert page.locator("#cost .bars .point").count() == 3 * 7
    assert page.evaluate("document.querySelectorAll('script').length") == 5  # with the one of Plotly, unpacked
    assert page.troubles == []


def test_the_controls_of_the_curves(page: Any) -> None:
    curves = in_view(page, "curves")

    def axis() -> tuple[str, list[float]]:
        found = page.evaluate(
            "(({layout}) => [layout.xaxis.title.text, layout.yaxis.range])(document.getElementById('curves'))"
        )
        return found[0], found[1]

    top = axis()[1][1]
    assert top < 12  # the frame fits the arms under test, not the control that rises at first
    page.check("#curve-all")
    assert axis()[1][1] > top + 1
    titles = set()
    for by in ("step", "examples", "tokens", "flops", "seconds"):
        page.check(f"input[name=curve-x][value={by}]", force=True)
        titles.add(axis()[0])
    assert len(titles) == 5
    assert page.evaluate("document.getElementById('curves').data.find((one) => one.meta === 1 && one.name).x[0]") > 90
    page.uncheck("#curve-log")
    assert "log" not in axis()[0]
    page.check("#curve-runs")
    assert "seed 2" in page.evaluate("document.getElementById('curves').data.flatMap((one) => one.text || [])")
    before = curves.inner_html()
    page.select_option("#curve-figure", "difference")
    assert curves.inner_html() != before
    assert page.troubles == []


def test_arms_are_hidden_in_all_plots_at_once(page: Any) -> None:
    in_view(page, "curves")
    in_view(page, "fidelity")
    naive = page.locator("#learning .legend button", has_text="naive")
    lines = "document.getElementById('{}').data.filter((one) => one.meta === 5).length"
    assert page.evaluate(lines.format("curves")) > 0
    naive.focus()
    page.keyboard.press("Space")
    assert naive.get_attribute("aria-pressed") == "false"
    assert page.locator("#grafts .legend button", has_text="naive").get_attribute("aria-pressed") == "false"
    assert page.evaluate(lines.format("curves")) == page.evaluate(lines.format("fidelity")) == 0
    assert page.locator("#samples .by:visible", has_text="naive").count() == 0
    assert page.locator("#samples .by:visible", has_text="shuffled").count() > 0
    page.locator("#learning .legend .set", has_text="hide all").click()
    assert "No arm is shown" in page.inner_text("#curves")
    page.locator("#learning .legend .set", has_text="show all").click()
    assert page.locator("#curves svg.main-svg").count() > 0
    assert page.inner_text("#learning .legend .said") == "7 of 7 shown"
    assert page.troubles == []


def test_two_settings_as_a_heat_map(page: Any) -> None:
    heat = page.locator("table.heat")
    assert heat.locator("tbody th").all_inner_texts()[:2] == ["calibrated", "embeddings"]
    assert [text.split()[-1] for text in heat.locator("thead th").all_inner_texts()[1:]] == ["r15", "r30"]
    best, next_best = (heat.locator("tbody tr").nth(row).locator("td").first for row in (0, 1))
    shade = "node => getComputedStyle(node).getPropertyValue('--heat')"
    assert best.evaluate(shade) == "60%"
    assert int(next_best.evaluate(shade)[:-1]) < 40
    assert best.inner_text().startswith("−0.")
    page.select_option("#heat-figure", "steps_share")
    assert 0 < float(best.inner_text().split()[0]) < 1
    page.select_option("#heat-columns", "0")
    assert "same setting" in page.inner_text("#heat-map")
    assert page.troubles == []


def test_samples_are_searched_filtered_sorted_and_folded(page: Any) -> None:
    samples = page.locator(".sample")
    total = samples.count()
    shown = page.locator(".sample:visible")
    assert shown.count() == 6 < total
    page.locator("#sample-more").click()
    assert shown.count() == total
    page.fill("#sample-search", "zurück")
    assert 0 < shown.count() < total
    assert all("zurück" in text for text in shown.all_inner_texts())
    assert page.inner_text("#sample-count") == f"{shown.count()} of {total} shown"
    page.fill("#sample-search", "no such word")
    assert page.locator("#sample-none").is_visible()
    page.locator("#sample-reset").click()
    assert shown.count() == total
    page.select_option("#sample-language", "ar_AR")
    arabic = page.locator(".sample:visible dd.reference").first
    assert arabic.evaluate("node => getComputedStyle(node).direction") == "rtl"
    assert arabic.get_attribute("lang") == "ar"
    page.select_option("#sample-language", "")
    page.select_option("#sample-order", "loss")
    losses = [float(row.get_attribute("data-loss")) for row in shown.all()]
    assert losses == sorted(losses, reverse=True)
    agreeing = page.locator(".sample[data-agree]")
    assert agreeing.count() > 0
    first = agreeing.first
    assert "All 7 arms wrote the same" in first.inner_text()
    assert "the same" not in first.locator("dl").first.inner_text()
    first.locator("summary").click()
    assert first.locator(".by:visible").count() == 7
    page.check("#sample-differing")
    assert shown.count() == total - agreeing.count()
    assert page.troubles == []


def test_the_tensor_map_by_keyboard(page: Any) -> None:
    page.locator("#maps").scroll_into_view_if_needed()  # what is far from the window is not made yet
    tabs = page.locator("#maps [role=tab]")
    tabs.first.wait_for()
    assert len(tabs.all_inner_texts()) == 6  # none for `none`
    tabs.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # round to the last one
    assert page.evaluate("document.activeElement.textContent") == tabs.last.inner_text()
    page.keyboard.press("Home")
    panel = page.locator("#map")
    assert panel.get_attribute("aria-labelledby") == tabs.first.get_attribute("id")
    assert panel.locator(".cells tbody th").all_inner_texts() == ["words", "attention q", "fc1", "last LayerNorm"]
    squares = panel.locator(".cells i")
    # the words on both sides, q and fc1 of four layers, the last LayerNorm, fc1 of the decoder
    assert squares.count() == 2 + 4 + 4 + 1 + 1
    colours = {
        name: panel.locator(f".cells i.s-{name}").first.evaluate("node => getComputedStyle(node).backgroundImage")
        for name in ("calibrated", "mapped", "initialised")
    }
    assert len(set(colours.values())) == 3
    divided = panel.locator(".cells tr", has_text="fc1").locator("i").first
    assert len(set(divided.evaluate("node => getComputedStyle(node).backgroundImage").split("rgb(")[1:])) == 2
    assert "intermediate.dense.weight, step calibrated" in divided.get_attribute("title")
    divided.click()
    assert panel.locator(".told").inner_text() == divided.get_attribute("title")
    legend = panel.locator(".marks").inner_text()
    assert all(status in legend for status in ("copied", "mapped", "calibrated", "trained", "kept", "initialised"))
    panel.locator("summary", has_text="in words").click()
    words = panel.locator(".words details").first
    words.get_by_text("other tensor is").wait_for()  # what is folded is made when it is opened
    assert "mapped and kept (0, 2), trained and kept (1, 3)" in words.inner_text()
    assert "1 other tensor is" in words.inner_text()
    panel.locator("summary", has_text="LayerNorms vary").click()
    panel.get_by_text("2.125").wait_for()
    panel.locator("summary", has_text="Every tensor").click()
    search = panel.locator("input[type=search]")
    search.wait_for()  # what is long is made when it is opened
    rows = panel.locator("table").last.locator("tbody tr:visible")
    assert rows.count() == 21
    search.fill("lm_head unused (donor)")
    assert rows.all_inner_texts()[0].startswith("lm_head.dense.weight")
    assert rows.count() == 1
    assert page.evaluate("JSON.parse(document.getElementById('data').textContent).arms[1].fidelity.norms[2]").endswith(
        "attention 0.20, FFN 2.12"
    )
    assert page.troubles == []


def test_figures_are_copied_and_saved(page: Any, tmp_path: Path) -> None:
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.locator("#learning [data-copy]").click()
    page.wait_for_function("window.copied !== undefined")
    copied = page.evaluate("window.copied")
    assert "graftlm run transfer=none mask=r15 finetune.seed=1" in copied
    assert "report.html#learning" in copied
    assert re.search(r"^graftlm report .*sweep/0 .*--out report$|^graftlm report .* --out report$", copied, re.M)
    assert page.inner_text("#learning .tools .said") == "Copied."
    # 21 runs, each by a command of its own: the rest is folded, and the report's own command comes before it
    assert page.locator("#commands .command:visible").count() == 8 + 1
    assert page.inner_text("#commands summary") == "13 more commands of runs"
    page.locator("#commands [data-copy-beside]:visible").last.click()
    page.wait_for_function("window.copied.startsWith('graftlm report')")
    with page.expect_download() as saved:
        page.locator("#costs [data-csv]").click()
    saved.value.save_as(tmp_path / "cost.csv")
    rows = (tmp_path / "cost.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "arm,donor (flops),graft (flops),fine-tuning (flops)"
    assert rows[1] == "none,0,0,120000000000000"
    assert rows[2] == "calibrated · r15,90000000000000,0,120000000000000"
    with page.expect_download() as saved:
        page.locator("#arms [data-svg]").click()
    saved.value.save_as(tmp_path / "forest.svg")
    assert (tmp_path / "forest.svg").read_text(encoding="utf-8").startswith("<svg")
    assert page.troubles == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (390, "dark"), (1280, "dark")])
def test_no_width_scrolls_sideways(built: Path, open_page: Any, width: int, scheme: str) -> None:
    page = open_page(built, width, scheme)
    for plot in PLOTS:
        in_view(page, plot)
    for summary in page.locator("main summary").all():
        summary.evaluate("node => { node.parentElement.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(21, 23, 26)") == (scheme == "dark")
    assert page.locator("nav a").first.is_visible()
    names = page.locator("#settings tbody th code").all()
    assert names
    assert max(name.bounding_box()["height"] for name in names) < 45, "a setting's name is not cut letter by letter"
    assert page.troubles == []


def test_the_theme_is_chosen_and_remembered(built: Path, open_page: Any) -> None:
    page = open_page(built, 800, "dark")
    ink = "document.getElementById('forest').layout.font.color"
    assert page.locator("#theme").get_attribute("aria-pressed") == "true"
    dark = page.evaluate(ink)
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(252, 252, 250)"
    assert page.evaluate(ink) != dark
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.locator("#theme").get_attribute("aria-pressed") == "false"
    assert page.troubles == []


def test_on_paper_everything_is_drawn_in_ink_on_white(built: Path, open_page: Any) -> None:
    page = open_page(built, 900, "dark")
    assert page.locator("#cost svg.main-svg").count() == 0
    page.emulate_media(media="print")
    assert len(page.pdf(format="A4")) > 20_000
    for plot in PLOTS:
        inside = page.locator(f"#{plot} svg.main-svg").first
        assert inside.bounding_box()["height"] == page.locator(f"#{plot}").bounding_box()["height"], plot
    assert page.locator("#map .cells").count() == 1
    legend = page.locator("#learning .legend button:visible")
    assert [text.split()[0] for text in legend.all_inner_texts()].count("calibrated") == 2
    assert legend.count() == 7, "the arms by their colours; no buttons that only a screen can use"
    assert page.locator("#cost svg .legend .traces:visible").count() == 3
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 between margins of a centimetre
    assert page.evaluate("document.documentElement.scrollWidth") <= 718, "a wider page would be printed smaller"
    settings = page.locator("table.settings")
    assert settings.bounding_box()["width"] <= settings.locator("..").bounding_box()["width"]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.troubles == []


def test_both_dark_themes_are_the_same() -> None:
    import graftlm.report

    text = (Path(graftlm.report.__file__).parent / "page.css").read_text(encoding="utf-8")
    system, chosen = (re.sub(r"\s+", " ", part.split("}")[0]) for part in text.split("color-scheme: dark;")[1:3])
    assert system == chosen


def test_without_scripts_the_tables_are_there(built: Path, open_page: Any) -> None:
    page = open_page(built, java_script_enabled=False)
    assert "calibrated" in page.inner_text("#arms table")
    assert page.locator(".sample:visible").count() > 6
    assert not page.locator("#theme").is_visible()
    assert not page.locator("#curve-figure").is_visible()


def test_a_screen_reader_finds_its_way(page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: not checked")
    for plot in PLOTS:
        in_view(page, plot)
    for summary in page.locator("main summary").all():
        summary.evaluate("node => { node.parentElement.open = true; }")
    # the inside of a plot is one image with a text of its own
    where = {"exclude": [[".plot .plot-container"]]}
    for rules in ({}, {"runOnly": ["color-contrast"]}):  # light, then dark
        found = axe.Axe().run(page, where, {"resultTypes": ["violations"], **rules})
        assert found.violations_count == 0, found.generate_report()
        page.locator("#theme").click()


def test_hostile_text_stays_text(fake_sweep: Any, fake_arm: Any, tmp_path: Path, open_page: Any) -> None:
    sweep = fake_sweep(examples=9)
    sweep.text = lambda index, language: (
        HOSTILE + ("x" * 100_000 if index == 0 else "\u202e" + "م" * 60_000 if index == 1 else "")
    )
    evil = "=cmd|' /C calc'!A0 <b>x</b><script>window.hacked=3</script>"
    sweep.sweep([fake_arm("none"), fake_arm(evil, early=-1, fidelity=0.9)], (1, 2, 3))
    sweep.job(fake_arm("none"), 9, status="failed", error=HOSTILE)
    report = build_report([sweep.root], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script>window.hacked" not in text
    assert len(text) < 3_000_000  # long rows are cut
    page = open_page(tmp_path / "out" / "report.html", 360)
    for plot in PLOTS:
        in_view(page, plot)
    assert page.evaluate("window.hacked") is None
    assert page.locator("script").count() == 5
    assert page.locator("#main img").count() == 0
    assert "{{ 7*7 }}" in page.inner_text("#samples")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    with page.expect_download() as saved:
        page.locator("#costs [data-csv]").click()
    saved.value.save_as(tmp_path / "cost.csv")
    assert (tmp_path / "cost.csv").read_text(encoding="utf-8").splitlines()[2].startswith("'=cmd|")
    # were such a text ever to become a script, the policy of the page would still not let it run
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked = 4'}))")
    assert page.evaluate("window.hacked") is None
    assert len(page.troubles) == 1
    assert "Content Security Policy" in page.troubles[0]
    assert report.arms[1].name.startswith("=cmd")
    report.failed[0]["error"] += "\x1b[31m\u202e"
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # a strict one, as a terminal is
    print_report(report, Console(file=stream, width=80))
    stream.flush()
    assert b"\x1b" not in stream.buffer.getvalue()
    assert "<script" not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_what_was_declared_and_what_alarms(fake_sweep: Any, fake_arm: Any, tmp_path: Path, open_page: Any) -> None:
    declared = (("report.primary", "chrf"), ("report.contrasts", [["calibrated", "shuffled"]]))
    sweep = fake_sweep(examples=30)
    arms = [
        fake_arm("none", settings=declared),
        fake_arm("calibrated", early=-0.5, late=-0.2, settings=declared, probes=(("in_language", 0.4),)),
        fake_arm("weak", late=0.3, settings=declared, probes=(("copied", 0.9), ("degenerate", 0.5))),
        fake_arm("shuffled", late=0.1, control=True, settings=declared),
    ]
    sweep.sweep(arms, (1, 2, 3, 4))
    build_report([sweep.root], tmp_path / "out")
    page = open_page(tmp_path / "out" / "report.html")
    assert page.input_value("#forest-figure") == "chrf"
    assert page.inner_text("#verdict dt").startswith("ChrF")
    assert "points" in page.inner_text("#verdict dd >> nth=0")
    drawn = page.evaluate("document.getElementById('forest').layout.yaxis.ticktext.map((text) => text.trim())")
    assert drawn == ["calibrated", "weak", "shuffled"]  # more is better; controls come last
    weak = page.locator("#arms tbody tr", has_text="weak").first
    assert weak.locator(".alarm").inner_text().strip() == "copies and 1 more"
    weak.locator(".alarm").click()
    below = page.locator("#reading tbody tr:has-text('calibrated') + tr.why")
    assert "wrong language 40% of its outputs" in below.inner_text()
    contrast = page.locator("#arms table", has_text="against").locator("tbody tr")
    assert contrast.all_inner_texts()[0].split()[:2] == ["calibrated", "shuffled"]
    page.locator("summary", has_text="worst examples").click()
    assert page.locator("#samples details table tbody tr:visible").count() > 10
    assert page.troubles == []


def test_empty_parts_say_why(fake_sweep: Any, fake_arm: Any, tmp_path: Path, open_page: Any) -> None:
    sweep = fake_sweep(examples=3)
    sweep.job(fake_arm("none"), 1, status="failed", error="out of memory")
    build_report([sweep.root], tmp_path / "failed")
    page = open_page(tmp_path / "failed" / "report.html")
    assert page.inner_text("h1") == "No run finished"
    assert page.locator("#main .empty").count() >= 6
    assert "out of memory" in page.inner_text("#records")
    assert page.troubles == []
    sweep.job(fake_arm("none"), 2)
    for path in sweep.root.glob("store/evaluate/*/examples.jsonl"):
        path.unlink()
    build_report([sweep.root], tmp_path / "alone")
    page = open_page(tmp_path / "alone" / "report.html")
    assert "Only the baseline was run" in page.inner_text("#arms .empty")
    assert "examples.jsonl" in page.inner_text("#samples .empty")
    assert page.troubles == []


def test_tables_have_captions_and_headings_step_by_one(built: Path) -> None:
    class Outline(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.levels: list[int] = []
            self.tables = self.captions = 0

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag in ("h1", "h2", "h3", "h4"):
                self.levels.append(int(tag[1]))
            self.tables += tag == "table"
            self.captions += tag == "caption"
            if tag == "th":
                assert dict(attrs).get("scope") in ("row", "col")

    outline = Outline()
    outline.feed(built.read_text(encoding="utf-8").split('<script type="application/json"')[0])
    assert outline.levels[0] == 1
    assert outline.levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(outline.levels, outline.levels[1:], strict=False))
    assert outline.tables == outline.captions > 4


def test_two_hundred_runs(fake_sweep: Any, fake_arm: Any, tmp_path: Path, open_page: Any) -> None:
    sweep = fake_sweep(examples=12)
    arms = [fake_arm("none"), *(fake_arm(f"arm{number}", early=-0.05 * number, fidelity=0.5) for number in range(39))]
    sweep.sweep(arms, seeds=range(1, 6))
    started = time.process_time()
    build_report([sweep.root], tmp_path / "out")
    assert time.process_time() - started < 10  # of processor: the machine of a test may be busy
    page = open_page(tmp_path / "out" / "report.html")
    # what makes it open fast, for benchmarks/report_speed.py to measure: few elements, one plot of few traces
    assert page.evaluate("document.querySelectorAll('*').length") < 25_000
    assert page.locator("#forest svg.main-svg").count() > 0
    assert page.locator("#cost svg.main-svg").count() == page.locator("#map *").count() == 0
    assert page.evaluate("document.getElementById('forest').data.length") == 3
    in_view(page, "curves")
    assert page.inner_text("#learning .legend .said") == "13 of 40 shown"
    page.locator("#arms .legend button", has_text="arm3").first.click()  # one more in the forest plot as well
    assert len(page.evaluate("document.getElementById('forest').layout.yaxis.ticktext")) == 13
    data = json.loads(page.inner_text("#data") or page.evaluate("document.getElementById('data').textContent"))
    assert [arm["name"] for arm in data["arms"] if arm["shown"]] == ["none", *(f"arm{n}" for n in range(27, 39))]
    page.locator("#maps").scroll_into_view_if_needed()
    page.locator("#maps select").wait_for()  # as many tabs nobody reads
    page.select_option("#maps select", "7")
    assert page.locator("#map summary").last.inner_text() == "Every tensor of arm7"
    assert page.troubles == []
