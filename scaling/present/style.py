"""How figures look: one style inside a context, axes that read 10k, 1M, 1B, and saving with data.

Colours: compute is viridis, size is plasma, both cut where they would be too pale on white; laws
and approaches have colours of Okabe and Ito (2008), told apart by colour-blind readers, and each
has its own dash and marker, so that figures are legible in grey as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import colors, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaling.analysis.data.conventions import loss_unit
from scaling.present import fonts
from scaling.study.errors import ConfigError
from scaling.study.units import format_flops, format_quantity

INK, MUTED, GRID = "#1f2328", "#5f6873", "#e4e7eb"
LAW, ISOFLOP, VERIFY = "#0072B2", "#D55E00", "#CC3377"
BEYOND = (0, (4, 2.5))  # dashes of what is extrapolated

# Several laws or approaches: colour and marker go together, so that grey print tells them apart.
SEVERAL = (
    (LAW, "o"), (ISOFLOP, "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"),
    ("#56B4E9", "P"), (INK, "X"),
)  # fmt: skip

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.3)), (0, (6, 1.5, 1.5, 1.5)))

RC: Any = {
    "font.family": fonts.families(),  # by glyph: what the first lacks comes from the next
    "font.sans-serif": [fonts.BASE],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": True,
    "legend.framealpha": 0.88,
    "legend.edgecolor": "none",
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "pdf.fonttype": 42,  # TrueType embedded: text stays text, journals accept it
    "ps.fonttype": 42,
    # Glyphs as outlines: an SVG looks the same where the font is missing, in a browser, in Inkscape
    # and in a paper. The price is text that cannot be searched; that is what the PDF is for.
    "svg.fonttype": "path",
    "svg.hashsalt": "scaling",  # the same figure gives the same file
}

ALONG = 12  # places along an error bar that a legend keeps away from
FORMATS = ("png", "svg", "pdf")
UNDATED = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

_TABLES: WeakKeyDictionary[Axes, Mapping[str, pd.DataFrame]] = WeakKeyDictionary()


@contextmanager
def drawing(ax: Axes | None, *, size: tuple[float, float] = (6.4, 4.4)) -> Iterator[Axes]:
    """Yield the axes to draw on, new ones if None, in this style; global settings stay as they were."""
    plt = _pyplot() if ax is None else None
    with mpl.rc_context(RC):
        if plt is not None:
            ax = plt.subplots(figsize=size, layout="constrained")[1]
        assert ax is not None
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, which="major", color=GRID, linewidth=0.7)
        yield ax


@contextmanager
def panels(rows: int, columns: int, *, size: tuple[float, float]) -> Iterator[tuple[Figure, Any]]:
    """Yield a new figure and its axes, as an array, in this style."""
    plt = _pyplot()
    with mpl.rc_context(RC):
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained")
        yield figure, axes


def _pyplot() -> Any:
    """Return pyplot, whose figures a notebook shows, with its backend loaded.

    A notebook's backend turns interactive display on when it is loaded. Loaded by the first figure inside
    the style's context that would be undone behind it, and no later figure be shown.
    """
    from matplotlib import pyplot as plt

    plt.draw_if_interactive()
    return plt


def colormap(name: str = "viridis") -> colors.Colormap:
    """Return viridis (compute) or plasma (size) without the pale end, which is lost on white."""
    full = mpl.colormaps[name](np.linspace(0.0, 0.8, 256))
    return colors.LinearSegmentedColormap.from_list(f"{name}_cut", full)


def color_scale(values: Any, name: str = "viridis") -> mpl.cm.ScalarMappable:
    """Return what turns a positive value into a colour, on a log scale over the values given."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values) & (values > 0)]
    low, high = (float(values.min()), float(values.max())) if values.size else (1.0, 10.0)
    if high < low * 1.001:  # one value only
        low, high = low / 1.5, high * 1.5
    return mpl.cm.ScalarMappable(colors.LogNorm(low, high), colormap(name))


class DecadeLocator(ticker.LogLocator):
    """Ticks at 1, at 1 3, at 1 2 5 or plain steps, by how much of a log axis is in sight."""

    def __init__(self, most: int = 9) -> None:
        super().__init__(numticks=most)

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Return tick positions between two limits."""
        if not (0 < vmin < vmax < math.inf):
            return super().tick_values(vmin, vmax)
        decades = math.log10(vmax / vmin)
        if decades < 0.5:
            return ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(vmin, vmax)
        if decades > 3.2:
            self.set_params(subs=(1.0,))
        elif decades > 1.7:
            self.set_params(subs=(1.0, 3.0))
        elif decades > 0.9:
            self.set_params(subs=(1.0, 2.0, 5.0))
        else:
            self.set_params(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0))
        return super().tick_values(vmin, vmax)


def format_tick(value: float, kind: str) -> str:
    """Write a tick: counts as 10k, 1M, 1B; FLOPs as powers; losses as plain numbers."""
    if kind == "C":
        mantissa, exponent = format_flops(value).split("e")
        power = "10" + exponent.translate(
            SUPERSCRIPT
        )  # characters: mathematical text is 20x slower
        return power if mantissa == "1" else f"{mantissa}·{power}"
    return format_quantity(value) if kind in ("N", "D") else f"{value:.4g}"


def set_log_axis(axis: Any, kind: str) -> None:
    """Make an axis logarithmic with few, readable ticks; kind: N, D, C, L or tokens_per_param."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(DecadeLocator())
    axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: format_tick(v, kind)))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_minor_formatter(ticker.NullFormatter())


def add_color_bar(
    ax: Axes, scale: mpl.cm.ScalarMappable, label: str, *, kind: str, place: tuple[float, float, float, float]
) -> None:  # fmt: skip
    """Put a small colour scale inside the axes, at `place` (left, bottom, width, height in shares)."""
    inset = ax.inset_axes(place, zorder=6)
    bar = ax.figure.colorbar(scale, cax=inset, orientation="horizontal")
    norm: Any = scale.norm
    low, high = norm.vmin, norm.vmax
    ends = ticker.FixedLocator([low * 1.0001, high * 0.9999])
    bar.ax.xaxis.set_major_locator(DecadeLocator(5) if high / low > 10 else ends)
    bar.ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: format_tick(v, kind)))
    bar.ax.xaxis.set_minor_locator(ticker.NullLocator())
    bar.ax.tick_params(labelsize=7, length=2, pad=1.5)
    bar.outline.set_visible(False)  # type: ignore[operator]
    inset.set_title(label, fontsize=7.5, fontweight="normal", loc="left", pad=3)


def span(values: Any, *, margin: float = 0.06) -> tuple[float, float]:
    """Return limits of a log axis around positive values with a margin on both sides."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        return 1.0, 10.0
    low, high = math.log10(values.min()), math.log10(values.max())
    pad = max(margin * (high - low), 0.05)
    return 10 ** (low - pad), 10 ** (high + pad)


def panel_height(ax: Axes) -> float:
    """Return the height of the axes [inches], at least half of one."""
    return max(float(ax.get_position().height * ax.figure.figure.get_size_inches()[1]), 0.5)


def keep_clear(ax: Axes, x: Any, y: Any) -> None:
    """Draw nothing along a line, so that a legend at the best place keeps away from it.

    Matplotlib looks at lines and points for that place, not at error bars and bands.
    """
    ax.plot(x, y, ls="", marker="")


def along(value: float, low: float, high: float) -> np.ndarray:
    """Return places along an interval on a log axis; one that is open, or reaches 0, is cut."""
    return np.geomspace(max(low, value / 1e3), min(high, value * 1e3), ALONG)


def mark_held_out(ax: Axes, x: Any, y: Any, *, label: str = "", size: float = 6.5) -> None:
    """Mark runs that no fit has seen; labelled `verification run(s)` unless told otherwise."""
    if len(x):
        name = label or "verification run" + "s" * (len(x) > 1)
        ax.plot(x, y, "D", ms=size, mfc=VERIFY, mec="white", mew=0.9, zorder=6, label=name)


def size_label(convention: str) -> str:
    """Return the axis label of N with its convention."""
    names = {"given": "parameters, as given", "body_head": "body and head parameters"}
    return f"model size N [{names.get(convention, convention.replace('_', '-') + ' parameters')}]"


def mark_of(number: int) -> tuple[str, str]:
    """Return colour and marker of one of several laws, approaches or choices."""
    return SEVERAL[number % len(SEVERAL)]


def dash_of(number: int) -> Any:
    """Return the dash of one of several laws or choices; with the marker, it tells them apart in grey."""
    return DASHES[number % len(DASHES)]


def loss_label(column: str) -> str:
    """Return the axis label of the fitted loss."""
    names = {"val_loss": "validation loss", "val_excess": "validation loss above the true source"}
    return f"{names.get(column, column.replace('_', ' '))} [{loss_unit(column)}]"


def compute_label(convention: str) -> str:
    """Return the axis label of C with its convention."""
    how = {"6nd": ", 6ND", "counted": ", counted"}.get(convention, "")
    return f"training compute C [FLOPs{how}]"


def remember(ax: Axes, data: Mapping[str, pd.DataFrame]) -> None:
    """Keep the data an axes shows, so that `save` can write it beside the picture."""
    _TABLES[ax] = data


def table_of(figure: Figure) -> pd.DataFrame:
    """Return what a figure shows in long form: columns panel, series and those of the series."""
    parts = [
        frame.assign(panel=f"{number}: {ax.get_title(loc='left') or ax.get_title()}", series=name)
        for number, ax in enumerate(figure.axes, start=1)
        for name, frame in _TABLES.get(ax, {}).items()
        if len(frame)
    ]
    if not parts:
        return pd.DataFrame(columns=["panel", "series"])
    table = pd.concat(parts, ignore_index=True)
    return table[["panel", "series", *(c for c in table if c not in ("panel", "series"))]]


def save(
    figure: Figure | Axes | Sequence[Any], path: str | Path, *, formats: Sequence[str] = ()
) -> list[Path]:
    """Write a figure as PNG (160 dpi), and its data as CSV beside it.

    Args:
        figure: what a plotting function returned.
        path: file to write; its ending, if any, is one of the formats written.
        formats: further formats, of png, svg, pdf. Without ending and formats: png.

    Returns:
        The files written, pictures first.

    Raises:
        ConfigError: an unknown format.
    """
    path = Path(path)
    own = path.suffix.lstrip(".").lower()
    stem = path.with_suffix("") if own in FORMATS else path
    wanted = list(dict.fromkeys([*([own] if own in FORMATS else []), *formats])) or ["png"]
    check_formats(wanted)
    drawn = figure_of(figure)
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.{name}") for name in wanted]
    with mpl.rc_context({**RC, **fonts.embedding(drawn)}):
        for file in files:  # undated, so that the same figure gives the same file
            drawn.savefig(file, dpi=160, metadata=UNDATED.get(file.suffix))
    table = table_of(drawn)
    if len(table):
        files.append(stem.with_name(f"{stem.name}.csv"))
        table.to_csv(files[-1], index=False)
    return files


def check_formats(formats: Sequence[str]) -> None:
    """Refuse a format that figures are not written in.

    Raises:
        ConfigError: names the formats.
    """
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(
                f"formats: {name!r} is none of {', '.join(FORMATS)}. Choose one of these."
            )


def figure_of(drawn: Figure | Axes | Sequence[Any]) -> Figure:
    """Return the figure of axes, of several axes, or the figure itself."""
    if isinstance(drawn, Figure):
        return drawn
    first = drawn if isinstance(drawn, Axes) else np.ravel(np.asarray(drawn, dtype=object))[0]
    return first.figure.figure  # a sub-figure's figure is the whole one


def close(drawn: Figure | Axes | Sequence[Any]) -> None:
    """Give up a figure that is saved, so that drawing many does not fill the memory."""
    from matplotlib import pyplot as plt

    plt.close(figure_of(drawn))
