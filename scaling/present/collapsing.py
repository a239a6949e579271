"""Training curves over each other: do all sizes train alike once loss and compute are normalised?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from scaling.analysis.fits.fitted import Fit
from scaling.analysis.frontier.normalised import Collapse
from scaling.analysis.frontier.normalised import collapse as normalise
from scaling.present import style

MANY, RASTER = 60, 20_000  # runs from which lines are thin, points from which they are a bitmap
TOP = 6.0  # the axis reaches this many times the final reducible loss: before, curves are warm-up


def collapse(
    found: Collapse | Fit, *, within: float | None = 2.0, floor: float | None = None, ax: Axes | None = None
) -> Axes:  # fmt: skip
    """Draw reducible loss over its end against compute over its end, for runs near the path.

    Args:
        found: what `sl.collapse` returned, or a fit to make it from with `within` and `floor`.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes. Colour is the compute of the run; the inset holds the spread between sizes, and
        between seeds where there are repeats. A curve that leaves the others points to a size whose
        hyperparameters do not fit it, or to a floor that is wrong.
    """
    if isinstance(found, Fit):
        found = normalise(found, within=within, floor=floor)
    data = {"curves": found.curves, "spread": found.spread}
    with style.drawing(ax) as ax:
        colors = style.color_scale(found.curves["C"])
        _draw_curves(ax, found.curves, colors)
        style.set_log_axis(ax.xaxis, "L")
        style.set_log_axis(ax.yaxis, "L")
        low, high = float(found.curves["x"].min()), float(found.curves["value"].max())
        ax.set_xlim(max(low, 0.01) / 1.1, 1.1)
        ax.set_ylim(min(0.93, 0.97 * float(found.curves["value"].min())), min(high * 1.1, TOP))
        ax.plot(1, 1, "o", ms=6, mfc="white", mec=style.INK, mew=1.2, zorder=6, clip_on=False)
        _add_spread(ax, found)
        style.add_color_bar(ax, colors, "compute of the run [FLOPs]", kind="C", place=(0.04, 0.1, 0.36, 0.035))  # fmt: skip
        ax.set_title("Collapse of training curves")
        ax.set_xlabel("compute over that of the whole run")
        ax.set_ylabel(f"(loss - {found.floor:.3g}) over the same at the end")
    style.remember(ax, data)
    return ax


def _draw_curves(ax: Axes, curves: pd.DataFrame, colors: Any) -> None:
    groups = [g for _, g in curves.groupby("run_id")]
    many = len(groups) > MANY
    lines = [g[["x", "value"]].to_numpy(float) for g in groups]
    shades = [colors.to_rgba(g["C"].iloc[0], alpha=0.5 if many else 0.9) for g in groups]
    ax.add_collection(LineCollection(lines, colors=shades, linewidths=0.7 if many else 1.2, rasterized=len(curves) > RASTER, zorder=3))  # fmt: skip


def _add_spread(ax: Axes, found: Collapse) -> None:
    """Draw how far apart the curves are into the upper right, which falling curves leave free."""
    inset = ax.inset_axes((0.6, 0.62, 0.37, 0.27))
    table = found.spread
    inset.plot(table["x"], 100 * table["between"], color=style.LAW, lw=1.5, label=f"sizes, {100 * found.between:.2g} %")  # fmt: skip
    if np.isfinite(found.seeds):
        inset.plot(table["x"], 100 * table["seeds"], color=style.ISOFLOP, lw=1.3, ls=style.BEYOND, label=f"seeds, {100 * found.seeds:.2g} %")  # fmt: skip
    style.set_log_axis(inset.xaxis, "L")
    inset.set_xlim(*ax.get_xlim())
    inset.set_xlim(right=1.0)
    known = np.nan_to_num(100 * table.loc[table["x"] >= 0.1, ["between", "seeds"]].to_numpy(float))
    inset.set_ylim(0, 2.2 * max(float(known.max()), 1e-3))
    inset.tick_params(labelsize=7, length=2)
    inset.xaxis.set_major_locator(style.DecadeLocator(3))
    inset.yaxis.set_major_locator(style.ticker.MaxNLocator(3))
    inset.spines[["top", "right"]].set_visible(False)
    inset.set_title("relative SD [%] between", fontsize=7.5, fontweight="normal", loc="left", pad=3)
    inset.legend(fontsize=7, loc="upper right")
