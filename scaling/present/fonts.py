"""Fonts of figures: DejaVu Sans, and behind it one that has Chinese, Japanese and Korean signs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

BASE = "DejaVu Sans"  # comes with matplotlib, so that a figure looks the same everywhere
# Families that have these signs, by system: Linux distributions, macOS, Windows.
WIDE = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "Noto Sans CJK JP",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans GB", "Heiti SC",
    "Microsoft YaHei", "SimHei", "Droid Sans Fallback", "Arial Unicode MS",
)  # fmt: skip
# What their files are called, without spaces and signs, in lower case.
FILES = ("notosanscjk", "notosanssc", "sourcehansans", "wqy", "pingfang", "hiraginosansgb", "msyh", "simhei", "droidsansfallback")  # fmt: skip
EAST_ASIA = 0x2E80  # the first of the East Asian blocks of Unicode; DejaVu Sans ends well before


def families() -> list[str]:
    """Return the families of figure text: a glyph that the first lacks is taken from the second.

    A font that was installed after matplotlib listed the fonts is found as well.
    """
    wide = _first_known()
    if wide is None and _add_files():
        wide = _first_known()
    return [BASE] if wide is None else [BASE, wide]


def is_east_asian(words: str) -> bool:
    """Return whether a text has a sign that only the second family has."""
    return any(ord(sign) >= EAST_ASIA for sign in words)


def embedding(figure: Figure) -> dict[Any, Any]:
    """Return the settings by which fonts go into a PDF of this figure: 42 (TrueType) or 3 (outlines).

    East Asian fonts are mostly OpenType with PostScript outlines; put in as type 42 their text is
    blank in some viewers (seen with MuPDF 1.26, matplotlib 3.11), as type 3 it is there in all.
    """
    kind = 3 if any(is_east_asian(t.get_text()) for t in _texts(figure)) else 42
    # matplotlib 3.11 sizes the pieces of a PDF's fonts by the setting for PostScript: both or neither
    return {"pdf.fonttype": kind, "ps.fonttype": kind}


def _texts(figure: Figure) -> Iterable[Text]:
    for artist in figure.findobj():
        if isinstance(artist, Text):
            yield artist
        yield from getattr(artist, "texts", ())


def _first_known() -> str | None:
    there = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in WIDE if name in there), None)


def _add_files() -> bool:
    """Make known the files of such fonts that the system has; matplotlib's own list may be old."""
    found = [p for p in font_manager.findSystemFonts() if _plain(p).startswith(FILES)]
    for path in found:
        try:
            font_manager.fontManager.addfont(path)
        except (OSError, RuntimeError):  # a damaged file, or none that FreeType reads
            continue
    return bool(found)


def _plain(path: str) -> str:
    return "".join(c for c in Path(path).stem.lower() if c.isalnum())
