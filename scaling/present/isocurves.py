"""IsoFLOP curves: loss against model size at equal compute, with the minimum of each curve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from scaling.analysis.frontier.isoflops import IsoFlops
from scaling.present import style
from scaling.present.labels import CurveLabels, choose, reserve_right
from scaling.study.units import format_flops

MANY = 15  # from this many budgets markers shrink
# What the line through the runs of a budget is, by the method that found its minimum.
LINES = {
    "parabola": "parabola in ln N",
    "akima": "Akima spline in ln N",
    "law": "law fitted to all of them",
}


def isoflop(iso: IsoFlops, *, ax: Axes | None = None) -> Axes:
    """Draw loss against size at each budget: runs, curves, minima with their intervals.

    Args:
        iso: what `fit_isoflops` returned.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes. Colour is compute; a hollow marker belongs to a budget without a minimum; the
        legend names what was fitted to each budget.
    """
    data = _isoflop_data(iso)
    colors = style.color_scale(data["runs"]["C"])
    with style.drawing(ax) as ax:
        _draw_runs(ax, data["runs"], colors)
        for _, curve in data["parabolas"].groupby("budget"):
            ax.plot(curve["N"], curve["loss"], color=colors.to_rgba(curve["C"].iloc[0]), zorder=2)
        _draw_minima(ax, data["minima"], colors)
        style.set_log_axis(ax.xaxis, "N")
        ax.set_xlim(*style.span([*data["runs"]["N"], *data["minima"]["N"]]))
        _label_budgets(ax, data["runs"], data["parabolas"], colors)
        ax.set_title("IsoFLOP profiles")
        ax.set_xlabel(style.size_label(iso.runs.params))
        ax.set_ylabel(style.loss_label(iso.runs.loss))
        _add_legend(ax, data, iso)
    style.remember(ax, data)
    return ax


def _isoflop_data(iso: IsoFlops) -> dict[str, pd.DataFrame]:
    """Return runs, parabola points between the smallest and largest size, and minima."""
    parts = [_curve(iso, row) for row in iso.parabolas.itertuples()]
    names = ["budget", "C", "N", "loss"]
    return {
        "runs": iso.points[["budget", "C", "N", "D", "loss", "run_id", "used"]],
        "parabolas": pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names),
        "minima": iso.budgets,
    }


def _curve(iso: IsoFlops, row: Any) -> pd.DataFrame:
    N = np.geomspace(row.N_min, row.N_max, 80)
    return pd.DataFrame(
        {"budget": row.budget, "C": row.C, "N": N, "loss": iso.curve(row.budget, N)}
    )


def _draw_runs(ax: Axes, runs: pd.DataFrame, colors: Any) -> None:
    many = runs["budget"].nunique() > MANY
    for _, group in runs.groupby("budget"):
        color = colors.to_rgba(group["C"].mean())
        used = bool(group["used"].all())
        ax.plot(
            group["N"], group["loss"], ls="", marker="o", ms=3.5 if many else 5, color=color, zorder=3,
            mfc=color if used else "none", mec="white" if used else color, mew=0.5 if used else 1.2,
        )  # fmt: skip


def _draw_minima(ax: Axes, minima: pd.DataFrame, colors: Any) -> None:
    size = 8 if len(minima) > MANY else 12
    for row in minima.itertuples():
        if np.isfinite(row.N_lo):
            span = [[row.N - row.N_lo], [row.N_hi - row.N]]
            ax.errorbar(row.N, row.loss, xerr=span, color=style.INK, lw=1.3, capsize=3, zorder=4)
            style.keep_clear(ax, style.along(row.N, row.N_lo, row.N_hi), [row.loss] * style.ALONG)
        ax.plot(
            row.N,
            row.loss,
            "*",
            ms=size,
            mec=style.INK,
            mew=0.9,
            mfc=colors.to_rgba(row.C),
            zorder=5,
        )


def _label_budgets(ax: Axes, runs: pd.DataFrame, parabolas: pd.DataFrame, colors: Any) -> None:
    """Write each budget at the right end of its curve, the first with the unit."""
    anchors = []
    for number, (budget, group) in enumerate(runs.groupby("budget")):
        end = group.loc[group["N"].idxmax()]
        curve = parabolas[parabolas["budget"] == budget]
        y = max(end["loss"], curve["loss"].iloc[-1]) if len(curve) else end["loss"]
        C = group["C"].mean()
        anchors.append(
            (end["N"], y, format_flops(C) + (" FLOPs" if number == 0 else ""), colors.to_rgba(C))
        )
    reserve_right(ax, inches=0.55)
    CurveLabels(
        ax, [anchors[i] for i in choose(len(anchors))], reach=2.5 if len(anchors) <= MANY else 0.5
    )


def _add_legend(ax: Axes, data: dict[str, pd.DataFrame], iso: IsoFlops) -> None:
    handles = [
        Line2D([], [], ls="", marker="o", color=style.MUTED, mec="white", label="runs"),
        Line2D([], [], color=style.MUTED, label=LINES.get(iso.method, iso.method)),
    ]
    label = "minimum"
    if data["minima"]["N_lo"].notna().any():
        label += f", {100 * iso.level:g} % interval"
    handles.append(
        Line2D(
            [], [], ls="-", lw=1.2, color=style.INK, marker="*", ms=11, mfc=style.MUTED, label=label
        )
    )
    if not data["runs"]["used"].all():
        handles.append(
            Line2D(
                [],
                [],
                ls="",
                marker="o",
                mfc="none",
                color=style.MUTED,
                label="budget without a minimum",
            )
        )
    ax.legend(handles=handles, loc="best")
