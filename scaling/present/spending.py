"""The frontier against what is paid: FLOPs, device-hours, energy, money or CO2."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from scaling.analysis.allocation.spending import fit_spending, frontier_data
from scaling.analysis.fits.fitted import Fit
from scaling.present import style
from scaling.study.cost import format_amount
from scaling.study.units import format_quantity

NAMES = {"flops": "training compute", "hours": "time", "energy": "energy", "money": "price", "co2": "emissions"}  # fmt: skip


def spending(
    fit: Fit, *, axis: str = "energy", speed: float | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the lowest loss for what is paid: runs, the envelope of their curves, the fitted frontier.

    Args:
        fit: a law of N and D; its runs say what they cost.
        axis: flops, hours, energy, money or co2; speed: FLOPs/s of a device, in place of the runs'.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes. The law's line is dashed, and its band paler, beyond the runs.

    Raises:
        FitError: the runs do not say what they cost on this axis, or the law has no optimum.
    """
    data = frontier_data(fit, axis, speed=speed)
    paid = fit_spending(fit.runs, axis, flops=fit.cost, speed=speed)
    runs, envelope, law = data["runs"], data["envelope"], data["law"]
    with style.drawing(ax) as ax:
        colors = style.color_scale(runs["N"], "plasma")
        ax.scatter(runs["x"], runs["loss"], s=22, c=colors.to_rgba(runs["N"]), edgecolors="white", linewidths=0.5, zorder=4,
                   label=f"{len(runs)} runs, {format_quantity(runs['N'].min())} to {format_quantity(runs['N'].max())} parameters")  # fmt: skip
        if len(envelope):
            ax.step(envelope["x"], envelope["loss"], where="post", color=style.INK, lw=1.0, zorder=3, label="lowest training curve")  # fmt: skip
        inside, beyond = law[law["inside"]], law[law["x"] >= runs["x"].max()]
        for part, dash, alpha in ((inside, "-", 0.22), (beyond, style.BEYOND, 0.1)):
            ax.plot(part["x"], part["loss"], color=style.LAW, ls=dash, zorder=3, label=_law_text(fit, axis, law, paid.largest) if dash == "-" else None)  # fmt: skip
            if np.isfinite(part["lo"]).all():
                ax.fill_between(part["x"], part["lo"], part["hi"], color=style.LAW, alpha=alpha, lw=0, zorder=1)  # fmt: skip
        others = data["by_flops"]
        if len(others):
            ax.plot(others["x"], others["loss"], color=style.ISOFLOP, ls=":", zorder=3, label=f"{fit.law.name}: best size for its FLOPs")  # fmt: skip
        style.set_log_axis(ax.xaxis, "C")
        if axis != "flops":
            ax.xaxis.set_major_formatter(FuncFormatter(_write_tick))
        ax.set_xlabel(style.compute_label(fit.runs.flops) if axis == "flops" else f"{NAMES[axis]} of a run [{paid.unit}]")  # fmt: skip
        ax.set_ylabel(style.loss_label(fit.runs.loss))
        ax.set_title(f"Lowest loss for its {NAMES[axis]}")
        ax.legend(loc="best")
        style.remember(ax, data)
    return ax


def _law_text(fit: Fit, axis: str, law: pd.DataFrame, largest: float | None) -> str:
    """Name the line, and say where it rests on the edge of the runs alone."""
    name = f"{fit.law.name}: best size for its {NAMES[axis]}"
    edge = largest is not None and (law.loc[law["inside"], "N"] >= 0.99 * largest).all()
    return f"{name}, always the largest of the runs" if edge else name


def _write_tick(value: float, _: int) -> str:
    return format_amount(value) if value >= 0.01 else style.format_tick(value, "C")
