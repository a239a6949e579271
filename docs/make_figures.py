"""Draw every picture of docs/figures.md anew, from the Python lines that stand above it.

python docs/make_figures.py                 all, a few minutes
python docs/make_figures.py isoflop waste   these
The overview is the README's picture, too.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "figures.md"
# a block of Python, and the picture that follows it, if one does
BLOCK = re.compile(
    r"^```python\n(.*?)^```\n(?:\s*!\[[^\]]*\]\(([^)]+)\))?", re.MULTILINE | re.DOTALL
)
SHARP = 140  # pixels per inch of the figure: text is legible at the width of a page
MOST = 1400  # pixels; wider ones would weigh more and show no more
COLOURS = 256  # of the palette, refined once: without, rare colours are lost to their neighbours


def blocks(page: Path = PAGE) -> list[tuple[str, str]]:
    """Return each block of Python of the page with the picture below it, or with an empty name."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def draw(only: list[str], folder: Path) -> Iterator[Path]:
    """Run the page's blocks in order and write the pictures named, or all; yields their paths."""
    space: dict[str, Any] = {}
    for code, picture in blocks():
        if picture and only and Path(picture).stem not in only:
            continue
        drawn = run(code, space)
        if picture:
            yield save(drawn, folder / picture)


def run(code: str, space: dict[str, Any]) -> Any:
    """Run a block; return what its last line gives."""
    body = ast.parse(code).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), PAGE.name, "exec"), space)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), PAGE.name, "eval"), space)


def draw_overview(path: Path) -> Path:
    """Draw the overview as the command does: with the prediction stated before its run."""
    from scaling.cli import main

    with tempfile.TemporaryDirectory() as folder:
        if main(["plot", "sample", "figures=overview", f"out={folder}"]):
            raise SystemExit("scaling plot sample: failed.")
        shutil.copyfile(Path(folder, "figures", "overview.png"), path)
    shrink(path)
    return path


def save(drawn: Any, path: Path) -> Path:
    """Write a figure as a picture for a page."""
    from scaling.present import style

    file = style.save(drawn, path)[0]
    file.with_suffix(".csv").unlink(missing_ok=True)  # the page is about pictures
    style.close(drawn)
    shrink(file)
    return file


def shrink(file: Path) -> None:
    """Make a picture small enough for a page: fewer pixels, a palette in place of full colour."""
    from PIL import Image

    with Image.open(file) as picture:
        width = min(round(SHARP / 160 * picture.width), MOST)  # figures are saved at 160
        size = (width, round(picture.height * width / picture.width))
        small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    small.quantize(COLOURS, kmeans=1, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    matplotlib.use("Agg")
    os.chdir(ROOT)
    if "overview" in sys.argv or not sys.argv[1:]:
        draw_overview(ROOT / "docs" / "images" / "overview.png")
    for path in draw(sys.argv[1:], ROOT / "docs"):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1024:.0f} kB", flush=True)
