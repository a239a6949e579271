"""The approaches side by side: their exponents, and where each puts the optimal size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scaling.analysis.fits.fitting import Fit
from scaling.analysis.frontier.sidebyside import Approaches
from scaling.present import style
from scaling.present.labels import HALO, CurveLabels, reserve_right
from scaling.study.units import format_flops, format_quantity, format_with_interval

WIDEST = 8.0  # an interval of a reaches at most so many times the spread of the exponents
MARGIN = 10.0  # factor by which the axis of N* reaches beyond the lines


def approaches(
    found: Approaches, *, target: float | None = None, axes: Any = None
) -> tuple[Axes, Axes]:
    """Draw the exponent of every approach with its interval, and beside it N*(C) to the target.

    Args:
        found: what `sl.approaches` returned.
        target: compute [FLOPs] the lines reach; the largest one compared at if None.
        axes: a pair to draw on; new ones if None.

    Returns:
        The two axes. Lines are dashed and bands paler beyond the runs; at the target stands the
        optimum by each approach.
    """
    if axes is None:
        with style.panels(1, 2, size=(10.8, 4.4)) as (_, made):
            made[0].get_gridspec().set_width_ratios([0.8, 1.0])
            axes = made
    return exponents(found, ax=axes[0]), sizes(found, target=target, ax=axes[1])


def exponents(found: Approaches, *, ax: Axes | None = None) -> Axes:
    """Draw a in N* ∝ C^a by every approach, with its interval.

    Args:
        found: what `sl.approaches` returned; ax: axes to draw on, new ones if None.

    Returns:
        The axes, one row per approach; the line is the parametric fit's value.
    """
    data = {"exponents": found.exponents.assign(place=np.arange(len(found.exponents)))}
    rows = data["exponents"]
    with style.drawing(ax, size=(5.4, 1.6 + 0.42 * len(rows))) as ax:
        for row in rows.itertuples():
            color, marker = style.mark_of(row.place)
            ax.plot([row.a_lo, row.a_hi], [row.place] * 2, color=color, lw=2, zorder=3)
            ax.plot(row.a, row.place, marker, ms=8, color=color, mec="white", mew=0.8, zorder=4)
            text = " ".join(format_with_interval(row.a, row.a_lo, row.a_hi)).strip()
            ax.annotate(text, (row.a, row.place), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=8, path_effects=HALO)  # fmt: skip
        ax.axvline(rows["a"].iloc[-1], color=style.MUTED, lw=0.9, ls=":", zorder=1)
        ax.set_yticks(rows["place"], rows["approach"])
        ax.set_ylim(len(rows) - 0.4, -0.75)
        ax.set_xlim(*_window(rows))
        ax.grid(False, axis="y")
        ax.set_title(f"a by each approach, {100 * found.level:g} % intervals")
        ax.set_xlabel("exponent a of N* in C")
    style.remember(ax, data)
    return ax


def sizes(found: Approaches, *, target: float | None = None, ax: Axes | None = None) -> Axes:
    """Draw N*(C) by every approach from the runs to the target, with bands; arguments as above.

    Returns:
        The axes; approaches that agree lie on each other.
    """
    data = _sizes_data(found, target)
    lines, optima = data["lines"], data["optima"]
    ends = found.runs.C.min(), found.runs.C.max()
    with style.drawing(ax) as ax:
        for number, name in enumerate(found.results):
            color, marker = style.mark_of(number)
            width = 1.3 + 0.25 * (len(found.results) - 1 - number)  # one below another still shows
            _draw_line(ax, lines[lines["approach"] == name], ends, color, width)
            at = optima[optima["approach"] == name]
            ax.plot(at["C"], at["N"], marker, ms=7, mfc=color, mec=style.INK, mew=0.7, zorder=5)
            ax.plot([], [], color=color, marker=marker, ms=7, mec=style.INK, mew=0.7, label=str(name))  # fmt: skip
        style.set_log_axis(ax.xaxis, "C")
        style.set_log_axis(ax.yaxis, "N")
        known = lines["N"]
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, known.min() / MARGIN), min(high, known.max() * MARGIN))
        ax.axvspan(*ends, color=style.GRID, alpha=0.5, lw=0, zorder=0, label="compute of the runs")
        reserve_right(ax, inches=0.5)
        CurveLabels(ax, _labels(found, optima), reach=2.5)
        ax.set_title(f"Optimal size, to {format_flops(float(optima['C'].iloc[0]))} FLOPs")
        ax.set_xlabel(style.compute_label(found.runs.flops))
        ax.set_ylabel(style.size_label(found.runs.params).replace("model size N", "optimal size N*"))  # fmt: skip
        ax.legend(loc="upper left")
    style.remember(ax, data)
    return ax


def _sizes_data(found: Approaches, target: float | None) -> dict[str, pd.DataFrame]:
    """Return N* along C by approach, and at the target."""
    low, high = found.runs.C.min(), found.runs.C.max()
    top = float(target or found.targets["C"].max())
    C = np.unique([*np.geomspace(low, max(top, high), 60), low, high])
    keep = ["approach", "C", "N", "N_lo", "N_hi"]
    return {"lines": found.frontier(C)[keep], "optima": found.frontier([top])[keep]}


def _draw_line(
    ax: Axes, line: pd.DataFrame, ends: tuple[float, float], color: str, width: float
) -> None:
    """Draw one approach, dashed and paler beyond the runs."""
    inside, beyond = line[line["C"] <= ends[1]], line[line["C"] >= ends[1]]
    ax.plot(inside["C"], inside["N"], color=color, lw=width, zorder=3)
    ax.plot(beyond["C"], beyond["N"], color=color, lw=width, ls=style.BEYOND, zorder=3)
    for part, alpha in ((inside, 0.14), (beyond, 0.07)):
        ax.fill_between(part["C"], part["N_lo"], part["N_hi"], color=color, alpha=alpha, lw=0, zorder=1)  # fmt: skip


def _labels(found: Approaches, optima: pd.DataFrame) -> list[tuple[float, float, str, Any]]:
    """Write each different optimum at its star: the parametric fit first."""
    names = list(found.results)
    anchors: list[tuple[float, float, str, Any]] = []
    for name in [n for n in names if isinstance(found.results[n], Fit)] + names:
        at = optima[optima["approach"] == name].iloc[0]
        text = format_quantity(float(at["N"]))
        if text not in [known for *_, known, _ in anchors]:
            anchors.append((float(at["C"]), float(at["N"]), text, style.mark_of(names.index(name))[0]))  # fmt: skip
    return anchors


def _window(rows: pd.DataFrame) -> tuple[float, float]:
    """Return limits ruled by the exponents: an interval much wider than they differ is cut."""
    low, high = float(rows["a"].min()), float(rows["a"].max())
    reach = WIDEST * max((high - low) / 2, 0.02)
    lo = max(float(np.nanmin([*rows["a_lo"], low])), low - reach)
    hi = min(float(np.nanmax([*rows["a_hi"], high])), high + reach)
    pad = 0.08 * (hi - lo)
    return lo - pad, hi + pad
