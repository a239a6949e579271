"""Draw the pictures of docs/report.md: the sample's page as a browser shows it.

python docs/make_report.py        # docs/images/report.webp and report_phone.webp; needs a Chromium on PATH
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from scaling.cli import main

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
POINTED = """() => { const f = figures.find(f => f.stage.closest("figure").id === "figure-isoflop");
  f.stage.scrollIntoView({ block: "center", behavior: "instant" });
  const mark = f.panels[0].points.filter(m => typeof m[2] === "number").sort((a, b) => a[0] - b[0])[4];
  return f.onScreen(mark); }"""  # a mark at the left, so that what is said of it covers no other


def make_report(folder: Path) -> Path:
    """Write the sample's report into a folder; returns the page."""
    main(["report", str(ROOT / "results" / "sample"), f"out={folder}"])
    return folder / "report.html"


def desk(browser: Browser, page_file: Path) -> bytes:
    """Return the figures in light on a desk, one run picked and another pointed at."""
    page = browser.new_page(viewport={"width": 1240, "height": 880}, reduced_motion="reduce")
    page.goto(page_file.as_uri())
    page.evaluate("pick(20)")
    spot: Any = page.evaluate(POINTED)
    page.mouse.move(spot["x"], spot["y"])
    return page.screenshot()


def phone(browser: Browser, page_file: Path) -> bytes:
    """Return the top of the page in the dark on a phone."""
    page = browser.new_page(
        viewport={"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=1.5
    )
    page.goto(page_file.as_uri())
    return page.screenshot()


if __name__ == "__main__":
    program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if program is None:
        raise SystemExit("no chromium-headless-shell or chromium on PATH. Install one of them.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as manager:
        written = make_report(Path(folder))
        opened = manager.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for name, shot in (("report", desk), ("report_phone", phone)):
            picture = Image.open(io.BytesIO(shot(opened, written))).convert("RGB")
            picture.save(IMAGES / f"{name}.webp", quality=82, method=6)
            print(IMAGES / f"{name}.webp")
        opened.close()
