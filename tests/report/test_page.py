import html.parser
import io
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from graftlm.report import build_report
from graftlm.report.markdown import escape
from graftlm.report.page import embed, thin
from graftlm.report.terminal import print_report
from graftlm.report.text import duration, flops, pvalue

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
HOSTILE = (
    '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked=2"> {{ 7*7 }} \' \u2028 😀 \ud83d'
)


@pytest.fixture(scope="module")
def browser():
    where = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if where is None:
        pytest.skip("no Chromium on this machine")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=where, args=[*ARGS, "--disable-sync", "--no-first-run"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Opens a report and collects what the console says and what it asks of the network."""
    pages = []

    def opener(path: Path, width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.troubles = []
        page.on("console", lambda message: page.troubles.append(message.text))
        page.on("pageerror", lambda error: page.troubles.append(str(error)))
        page.on("request", lambda request: request.url.startswith("http") and page.troubles.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached", timeout=20_000)
        pages.append(page)
        return page

    yield opener
    for page in pages:
        page.close()


@pytest.fixture
def built(fake_sweep, tmp_path):
    sweep = fake_sweep()
    sweep.sweep(seeds=(1, 2, 3))
    build_report([sweep.root], tmp_path / "out")
    return tmp_path / "out" / "report.html"


def test_the_page_draws_filters_and_is_quiet(built, open_page):
    page = open_page(built)
    assert page.inner_text("h1").startswith("calibrated is better") or "cannot tell" in page.inner_text("h1")
    for plot in ("forest", "curves", "fidelity", "languages", "probe"):
        assert page.locator(f"#{plot} svg.main-svg").count() > 0, plot
        assert page.locator(f"#{plot}").get_attribute("aria-label")
    assert page.locator("#curves .scatterlayer .trace").count() >= 10
    before = page.locator("#curves").inner_html()
    page.check("input[name=curve-x][value=flops]")
    page.uncheck("#curve-log")
    page.check("#curve-runs")
    page.select_option("#curve-figure", "difference")
    page.select_option("#forest-figure", "test_loss")
    page.select_option("#fidelity-figure", "cosine")
    page.select_option("#language-figure", "chrf")
    assert page.locator("#curves").inner_html() != before
    total = page.locator(".sample").count()
    assert total >= 8
    page.fill("#sample-search", "zurück")
    shown = page.locator(".sample:visible")
    assert 0 < shown.count() < total
    assert all("zurück" in text for text in shown.all_inner_texts())
    assert page.inner_text("#sample-count") == f"{shown.count()} of {total} shown"
    page.fill("#sample-search", "")
    page.select_option("#sample-language", "ar_AR")
    arabic = page.locator(".sample:visible dd.reference").first
    assert arabic.evaluate("node => getComputedStyle(node).direction") == "rtl"
    assert arabic.get_attribute("lang") == "ar"
    assert page.troubles == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_a_phone_and_the_dark(built, open_page, width, scheme):
    page = open_page(built, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(22, 24, 27)") == (scheme == "dark")
    page.emulate_media(media="print")
    page.wait_for_timeout(200)
    assert page.troubles == []


@pytest.mark.parametrize("width", [390, 1280])
def test_the_tensor_map_is_drawn_and_told(built, open_page, width):
    page = open_page(built, width, "dark")
    maps = page.locator(".map")
    assert maps.locator("h4").all_inner_texts() == ["calibrated", "embeddings", "naive", "shuffled"]  # none for `none`
    first = maps.first
    assert first.locator(".cells tbody th").all_inner_texts() == ["words", "attention q", "fc1", "last LayerNorm"]
    squares = first.locator(".cells i")
    # the words on both sides, q and fc1 of four layers, the last LayerNorm, fc1 of the decoder
    assert squares.count() == 2 + 4 + 4 + 1 + 1
    colours = {
        name: first.locator(f".cells i.s-{name}").first.evaluate("node => getComputedStyle(node).backgroundImage")
        for name in ("calibrated", "mapped", "initialised")
    }
    assert len(set(colours.values())) == 3
    divided = first.locator(".cells tr", has_text="fc1").locator("i").first
    assert len(set(divided.evaluate("node => getComputedStyle(node).backgroundImage").split("rgb(")[1:])) == 2
    assert "intermediate.dense.weight, step calibrated" in divided.get_attribute("title")
    divided.click()
    assert first.locator(".told").inner_text() == divided.get_attribute("title")
    legend = page.locator("#grafts .marks").inner_text()
    assert all(status in legend for status in ("copied", "mapped", "calibrated", "trained", "kept", "initialised"))
    first.locator("summary", has_text="in words").click()
    words = first.locator(".words details").first.inner_text()
    assert "mapped and kept (0, 2), trained and kept (1, 3)" in words
    assert "1 other tensor is" in words
    first.locator("summary", has_text="LayerNorms vary").click()
    assert "2.125" in first.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("JSON.parse(document.getElementById('data').textContent).arms[1].fidelity.norms[2]").endswith(
        "attention 0.20, FFN 2.12"
    )
    assert page.troubles == []


def test_hostile_text_stays_text(fake_sweep, fake_arm, tmp_path, open_page):
    sweep = fake_sweep(examples=9)
    sweep.text = lambda index, language: HOSTILE + ("x" * 100_000 if index == 0 else "")
    sweep.sweep([fake_arm("none"), fake_arm("<b>x</b><script>window.hacked=3</script>", early=-1)], (1, 2, 3))
    sweep.job(fake_arm("none"), 9, status="failed", error=HOSTILE)
    report = build_report([sweep.root], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script>window.hacked" not in text
    assert len(text) < 6_000_000  # long rows are cut
    page = open_page(tmp_path / "out" / "report.html")
    assert page.evaluate("window.hacked") is None
    assert page.locator("script").count() == 3
    assert page.locator(".sample img").count() == 0
    assert "{{ 7*7 }}" in page.inner_text("#samples")
    assert page.troubles == []
    assert report.arms[1].name.startswith("<b>")
    report.failed[0]["error"] += "\x1b[31m\u202e"
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # a strict one, as a terminal is
    print_report(report, Console(file=stream, width=80))
    stream.flush()
    assert b"\x1b" not in stream.buffer.getvalue()
    assert "<script" not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_tables_have_captions_and_headings_step_by_one(built):
    class Outline(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.levels, self.tables, self.captions = [], 0, 0

        def handle_starttag(self, tag, attrs):
            if tag in ("h1", "h2", "h3", "h4"):
                self.levels.append(int(tag[1]))
            self.tables += tag == "table"
            self.captions += tag == "caption"
            if tag == "th":
                assert dict(attrs).get("scope") in ("row", "col")

    outline = Outline()
    outline.feed(built.read_text(encoding="utf-8").split('<script type="application/json"')[0])
    assert outline.levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(outline.levels, outline.levels[1:], strict=False))
    assert outline.tables == outline.captions > 4


def test_two_hundred_runs(fake_sweep, fake_arm, tmp_path, open_page):
    sweep = fake_sweep(examples=12)
    arms = [fake_arm("none"), *(fake_arm(f"arm{number}", early=-0.05 * number, fidelity=0.5) for number in range(19))]
    sweep.sweep(arms, seeds=range(1, 11))
    started = time.perf_counter()
    build_report([sweep.root], tmp_path / "out")
    assert time.perf_counter() - started < 10
    page = open_page(tmp_path / "out" / "report.html")
    first = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert first < 4000  # it is far below; the machine of a test may be busy
    assert page.troubles == []


def test_small_things():
    assert "<" not in embed({"a": "</script>", "b": float("nan")})
    assert json.loads(embed({"a": "</script>&", "b": float("nan")})) == {"a": "</script>&", "b": None}
    kept = thin(np.arange(0, 100_000, 10, dtype=float))
    assert len(kept) <= 100
    assert (kept[0], kept[-1]) == (0, 99_990)
    assert (duration(3), duration(45), duration(600), duration(7200)) == ("3.0 s", "45 s", "10 min", "2.0 h")
    assert (flops(1.23e14), flops(0), flops(None)) == ("1.2 × 10¹⁴", "0", "–")
    assert (pvalue(0.0312), pvalue(0.0001), pvalue(1.0)) == (".031", "< .001", "1")
    assert escape("a|b <i> [x](y)\n#") == "a\\|b &lt;i&gt; \\[x\\](y) \\#"
