"""Figures of a look inside a run: attention of all heads, of one head, and the logit lens."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from scaling.analysis.data.runs import Runs
from scaling.analysis.fits.fitting import Fit
from scaling.present import style
from scaling.study.errors import ConfigError
from scaling.study.units import format_quantity

# Fonts with Chinese, Japanese and Korean signs that systems bring or offer; the first that is there is used.
WIDE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Heiti SC", "Arial Unicode MS",
)  # fmt: skip
MOST_LABELS = 40  # tokens; more are not legible in a panel


class Maps(Protocol):
    """What `sl.attention_maps` returns."""

    @property
    def run(self) -> str: ...
    @property
    def maps(self) -> dict[str, np.ndarray]: ...
    @property
    def rows(self) -> dict[str, list[str]]: ...
    @property
    def columns(self) -> dict[str, list[str]]: ...


class Depths(Protocol):
    """What `sl.logit_lens` returns."""

    @property
    def run(self) -> str: ...
    @property
    def tokens(self) -> list[str]: ...
    @property
    def predicted(self) -> np.ndarray: ...
    @property
    def probability(self) -> np.ndarray: ...
    @property
    def loss(self) -> np.ndarray: ...


def attention_grid(maps: Maps, *, part: str | None = None, font: str = "") -> Figure:
    """Draw every head of every layer: a row per layer, a column per head; dark is much attention.

    Args:
        maps: what `sl.attention_maps` returned.
        part: encoder, decoder or cross; the first if None.
        font: file of a font for the labels; else one that has their signs is looked for.
    """
    part = part or next(iter(maps.maps))
    map_LHTS = maps.maps[part]
    layers, heads = map_LHTS.shape[:2]
    with _labelled([*maps.rows[part], *maps.columns[part]], font), style.panels(layers, heads, size=(1.2 + 2.3 * heads, 0.8 + 2.3 * layers)) as (figure, axes):  # fmt: skip
        grid = np.asarray(axes, object).reshape(layers, heads)
        for i in range(layers):
            for h in range(heads):
                _draw_map(grid[i, h], maps, part, i, h)
                grid[i, h].set_title(f"layer {i + 1} head {h + 1}", fontsize=8)
                grid[i, h].tick_params(labelleft=h == 0, labelbottom=i == layers - 1)
        figure.suptitle(f"{part} attention: row looks at column", fontsize=9)
    return figure


def attention_head(
    maps: Maps, *, layer: int, head: int, part: str | None = None, font: str = "", ax: Axes | None = None
) -> Axes:  # fmt: skip
    """Draw one head, large, with the probabilities written in where there is room.

    Args:
        maps: what `sl.attention_maps` returned.
        layer, head: counted from 1; part, font: as of `attention_grid`; ax: new axes if None.

    Raises:
        ConfigError: there is no such head.
    """
    part = part or next(iter(maps.maps))
    layers, heads, T, S = maps.maps[part].shape
    for name, value, most in (("layer", layer, layers), ("head", head, heads)):
        if not 1 <= value <= most:
            raise ConfigError(f"{name}: {value}; the {part} has 1 to {most}.")
    size = (2.0 + 0.42 * S, 1.4 + 0.36 * T)
    with (
        _labelled([*maps.rows[part], *maps.columns[part]], font),
        style.drawing(ax, size=size) as ax,
    ):
        _draw_map(ax, maps, part, layer - 1, head - 1)
        ax.set(xlabel="is seen", ylabel="looks", title=f"{part}, layer {layer}, head {head}")
        if T * S <= MOST_LABELS**2 // 4:
            for (t, s), p in np.ndenumerate(maps.maps[part][layer - 1, head - 1]):
                if p >= 0.005:
                    ax.text(s, t, f"{p:.2f}"[1:] if p < 0.995 else "1", ha="center", va="center", fontsize=6.5, color="white" if p > 0.5 else style.INK)  # fmt: skip
    return ax


def _draw_map(ax: Axes, maps: Maps, part: str, layer: int, head: int) -> None:
    map_TS, rows, columns = maps.maps[part][layer, head], maps.rows[part], maps.columns[part]
    ax.imshow(map_TS, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.grid(False)
    for set_ticks, labels in ((ax.set_xticks, columns), (ax.set_yticks, rows)):
        shown = range(len(labels)) if len(labels) <= MOST_LABELS else range(0, len(labels), len(labels) // MOST_LABELS + 1)  # fmt: skip
        set_ticks(list(shown), [_plain(labels[i]) for i in shown], fontsize=6.5)
    t, s = np.indices(map_TS.shape)
    frame = {"looks": np.asarray(rows)[t.ravel()], "is_seen": np.asarray(columns)[s.ravel()], "probability": map_TS.ravel()}  # fmt: skip
    style.remember(ax, {f"layer {layer + 1} head {head + 1}": pd.DataFrame(frame)})


def lens_figure(lens: Depths, *, font: str = "") -> Figure:
    """Draw the likeliest token after each layer with its probability, and the loss by depth beside it.

    Args:
        lens: what `sl.logit_lens` returned; font: as of `attention_grid`.
    """
    M, T = lens.loss.shape
    labels = [*lens.tokens, *lens.predicted[:, :, 0].ravel()]
    with _labelled(labels, font), style.panels(1, 2, size=(5.0 + 0.55 * max(T, 7), 1.6 + 0.42 * M)) as (figure, axes):  # fmt: skip
        left, right = axes
        left.get_gridspec().set_width_ratios([max(1.6, 0.22 * T), 1.0])
        best_MT = lens.probability[:, :, 0]
        left.imshow(best_MT, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
        left.grid(False)
        for (m, t), p in np.ndenumerate(best_MT):
            left.text(t, m, _plain(str(lens.predicted[m, t, 0]))[:6], ha="center", va="center", fontsize=6.5, color="white" if p > 0.5 else style.INK)  # fmt: skip
        left.set_xticks(range(T), [_plain(t) for t in lens.tokens], fontsize=6.5)
        left.set_yticks(range(M), ["0: no layer", *map(str, range(1, M))])
        left.set(title="likeliest token after each layer; dark is sure", ylabel="layers", xlabel="read")  # fmt: skip
        mean = np.array([row[np.isfinite(row)].mean() if np.isfinite(row).any() else np.nan for row in lens.loss])  # fmt: skip
        right.plot(range(M), mean, "o-", color=style.LAW)
        right.set(title="loss by depth", xlabel="layers", ylabel="of this text [nats/token]")
        right.set_xticks(range(M))
        m, t = np.indices((M, T))
        style.remember(left, {"lens": pd.DataFrame({"layers": m.ravel(), "token": np.asarray(lens.tokens)[t.ravel()], "predicted": lens.predicted[:, :, 0].ravel(), "probability": best_MT.ravel(), "loss": lens.loss.ravel()})})  # fmt: skip
    return figure


def onset(runs: Runs, fit: Fit | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw a measure against the tokens of each run: a line for each size and seed, dashed the law.

    Args:
        runs: with the measure as their loss, `runs.using(loss="induction_score")`.
        fit: a law in N and D, or D, fitted to it; ax: axes to draw on, new ones if None.
    """
    table = pd.DataFrame({"N": runs.N, "D": runs.D, "value": runs.L, "seed": runs.column("seed")})  # fmt: skip
    table = table.sort_values(["N", "seed", "D"])
    scale = style.color_scale(table["N"], "plasma")
    with style.drawing(ax) as ax:
        for (N, _), part in table.groupby(["N", "seed"]):
            ax.plot(part["D"], part["value"], "o-", color=scale.to_rgba(N), ms=3.5, lw=0.9)
        D = np.geomspace(table["D"].min(), table["D"].max(), 80)
        for N in np.unique(table["N"]):
            label = f"N = {format_quantity(N)}"
            ax.plot([], [], "o-", color=scale.to_rgba(N), label=label)
            if fit is not None:
                given = {"N": np.full_like(D, N), "D": D}
                y = fit.law(fit.params, **{x: given[x] for x in fit.law.inputs})
                ax.plot(D, y, ls="--", lw=1.4, color=scale.to_rgba(N))
        style.set_log_axis(ax.xaxis, "D")
        ax.set(xlabel="training tokens D", ylabel=runs.loss.replace("_", " "))
        ax.set_title("Each line one seed" if fit is None else "Each line one seed; dashed the law")
        ax.legend()
        style.remember(ax, {"runs": table})
    return ax


def _plain(label: str) -> str:
    """A dollar sign is text here, not mathematics."""
    return label.replace("$", r"\$")


def _labelled(labels: Iterable[str], font: str) -> Any:
    """Return a context in which labels are drawn in a font that has their signs."""
    names = list(style.RC["font.sans-serif"])
    signs = {c for label in labels for c in label}
    if font:
        names = [_add_font(font), *names]
    missing = _lacking(signs, names)
    if missing:
        names += [n for n in _installed() if _lacking(missing, [n]) != missing][:1]
        missing = _lacking(signs, names)
    if missing:
        warnings.warn(
            f"figure: no font here has {''.join(sorted(missing))[:20]!r}; these labels are boxes, the CSV is complete. Install one "
            "(Debian, Ubuntu: apt install fonts-noto-cjk), or name a file: font=FILE.",
            stacklevel=3,
        )
    return _Fonts(names)


class _Fonts:
    """The style with other fonts: a label keeps the families that hold when it is made."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __enter__(self) -> None:
        self.before = style.RC["font.family"]
        style.RC["font.family"] = self.names

    def __exit__(self, *_: Any) -> None:
        style.RC["font.family"] = self.before


def _installed() -> list[str]:
    """Return the fonts of WIDE_FONTS that matplotlib finds."""
    there = {f.name for f in font_manager.fontManager.ttflist}
    return [name for name in WIDE_FONTS if name in there]


def _add_font(path: str) -> str:
    """Make a font file known; return its name."""
    file = Path(path).expanduser()
    try:
        font_manager.fontManager.addfont(str(file))
        return FT2Font(str(file)).family_name
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"font: {path}: cannot be read ({error}). Name a .ttf, .otf or .ttc file.") from None  # fmt: skip


def _lacking(signs: set[str], names: list[str]) -> set[str]:
    """Return the signs that none of the fonts has."""
    for name in names:
        path = font_manager.findfont(mpl.font_manager.FontProperties(family=name), fallback_to_default=True)  # fmt: skip
        signs = {c for c in signs if FT2Font(path).get_char_index(ord(c)) == 0}
    return signs
