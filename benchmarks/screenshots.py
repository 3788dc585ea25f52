"""The pictures of a report's page that the README and docs/report.md show, made in headless Chromium.

    python benchmarks/screenshots.py multirun/DATE [--out docs]

The folder is that of a sweep (`make demo` makes one); its report is made anew. Writes report.png (a desktop, light),
report-plots.png (curves and tensor map, light) and report-phone.png (three phones, dark).
"""

from __future__ import annotations

import argparse
import base64
import shutil
import tempfile
from pathlib import Path
from typing import Any

from graftlm.report import build_report

PHONES = ("#verdict", "#arms", "#learning")


def open_page(browser: Any, page: Path, width: int, height: int, scheme: str, scale: float = 1.0) -> Any:
    tab = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        device_scale_factor=scale,
        reduced_motion="reduce",
    )
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-ready=yes]", state="attached", timeout=60_000)
    return tab


def at(tab: Any, selector: str, above: int = 60) -> None:
    """Scrolls so that a part begins below the bar, and waits until its plot is drawn."""
    found = tab.locator(selector).first
    found.scroll_into_view_if_needed()
    if found.locator(".plot").count():
        found.locator("svg.main-svg").first.wait_for(timeout=20_000)
    found.evaluate(
        "(node, above) => window.scrollTo(0, node.getBoundingClientRect().top + window.scrollY - above)", above
    )
    tab.wait_for_timeout(400)


def pictures(browser: Any, page: Path, out: Path) -> list[Path]:
    made = [out / name for name in ("report.png", "report-plots.png", "report-phone.png")]
    tab = open_page(browser, page, 1200, 1360, "light")
    tab.screenshot(path=made[0])
    at(tab, "#learning")
    curves = tab.screenshot(clip={"x": 0, "y": 60, "width": 1200, "height": 760})
    at(tab, "#maps")
    if tab.locator("#maps [role=tab]").count() > 1:
        tab.locator("#maps [role=tab]").nth(1).click()
    tensors = tab.screenshot(clip={"x": 0, "y": 60, "width": 1200, "height": 640})
    tab.close()
    beside(browser, [curves, tensors], made[1], 1200, "column")
    phones = []
    for selector in PHONES:
        tab = open_page(browser, page, 360, 720, "dark")
        if selector != "#verdict":
            at(tab, selector)
        phones.append(tab.screenshot())
        tab.close()
    beside(browser, phones, made[2], 3 * 360 + 4 * 24, "row")
    return made


def beside(browser: Any, images: list[bytes], path: Path, width: int, direction: str) -> None:
    """Several pictures as one."""
    gap, radius = (24, 14) if direction == "row" else (0, 0)
    tags = "".join(
        f'<img style="border-radius:{radius}px" src="data:image/png;base64,{base64.b64encode(image).decode()}">'
        for image in images
    )
    tab = browser.new_page(viewport={"width": width, "height": 100})
    tab.set_content(
        '<body style="margin:0;background:#fff">'
        f'<div id="all" style="display:flex;flex-direction:{direction};gap:{gap}px;padding:{gap}px">{tags}</div>'
    )
    tab.locator("#all").screenshot(path=path)
    tab.close()


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="what graftlm run -m wrote")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    where = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        build_report(options.folders, Path(folder))
        browser = play.chromium.launch(executable_path=where, args=["--no-sandbox", "--disable-gpu"])
        for path in pictures(browser, Path(folder) / "report.html", options.out):
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
