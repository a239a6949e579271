"""What it costs to leave the efficient path: compute wasted by sizes that are not the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scaling.analysis.allocation.decided import as_surface
from scaling.analysis.allocation.decisions import deadweight, misallocation
from scaling.analysis.fits.fitted import Fit
from scaling.present import style
from scaling.present.labels import CurveLabels, reserve_right
from scaling.study.units import format_flops

REACH = 10.0  # sizes from a tenth to ten times the best
STEPS = 33
CHEAP = 20.0  # percent: the width of the valley is read here
TOP = 150.0  # percent: beyond, nobody asks how much
ALIKE = 2.0  # percent of compute: lines closer than this are one line


def waste(fit: Fit, C: float | Sequence[float] | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw the compute that a size off the optimum wastes: C over the least C for the same loss.

    Args:
        fit: a law with an optimum in N and D.
        C: budgets [FLOPs]; the smallest and largest of the runs and a hundred times the latter if None.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes. The band is the interval at the largest budget; points are the runs, where the law
        puts them; dotted are the sizes within which 20 % more compute makes up for the choice.

    Raises:
        FitError: the law has no N and D to choose.
    """
    data = _waste_data(fit, C)
    lines, runs = data["lines"], data["runs"]
    colors = style.color_scale([*lines["C"], *runs["C"]])
    with style.drawing(ax) as ax:
        anchors = _draw_lines(ax, lines, colors, known=runs["C"].max() * (1 + 1e-9))
        _draw_band(ax, fit, lines, colors)
        ax.scatter(runs["factor"], runs["percent"], c=colors.to_rgba(runs["C"]), s=20, ec="white", lw=0.5, zorder=5, label="runs, as the law sees them")  # fmt: skip
        _mark_valley(ax, data["valley"])
        style.set_log_axis(ax.xaxis, "tokens_per_param")
        ax.set_xlim(1 / REACH, REACH)
        ax.set_ylim(0, min(TOP, 1.25 * float(lines["percent"].max())))
        if len(anchors) > 1:
            reserve_right(ax, inches=0.5)
            CurveLabels(ax, anchors[::-1], reach=4)
        ax.set_title("Cost of leaving the efficient path")
        ax.set_xlabel("model size over the best one for its compute, N / N*")
        ax.set_ylabel("compute above what its loss needs [%]")
        ax.legend(loc="upper center")
    style.remember(ax, data)
    return ax


def _draw_lines(ax: Axes, lines: pd.DataFrame, colors: Any, *, known: float) -> list[Any]:
    """Draw a line per budget, dashed beyond the runs; where all are alike, one. Returns labels."""
    anchors: list[tuple[float, float, str, Any]] = []
    one = _are_alike(lines)
    for C, line in lines.groupby("C"):
        color, beyond = colors.to_rgba(C), bool(known < C)
        if one:
            ax.plot(line["factor"], line["percent"], color=style.LAW, zorder=4, label="law, the same at every compute")  # fmt: skip
            break
        ax.plot(line["factor"], line["percent"], color=color, ls=style.BEYOND if beyond else "-", zorder=4)  # fmt: skip
        seen = line[(line["percent"] <= 0.93 * TOP) & (line["factor"] > 1)]
        if len(seen):
            anchors.append((seen["factor"].iloc[-1], seen["percent"].iloc[-1], format_flops(float(C)), color))  # fmt: skip
    return anchors


def _are_alike(lines: pd.DataFrame) -> bool:
    table = lines.pivot(index="factor", columns="C", values="percent")
    table = table[(table <= TOP).all(axis=1)]
    return table.shape[1] > 1 and bool((table.max(axis=1) - table.min(axis=1) < ALIKE).all())


def _draw_band(ax: Axes, fit: Fit, lines: pd.DataFrame, colors: Any) -> None:
    """Shade the interval at the largest budget."""
    last = lines[lines["C"] == lines["C"].max()]
    if last["lo"].notna().all():
        color = style.LAW if _are_alike(lines) else colors.to_rgba(last["C"].iloc[0])
        text = f"{100 * fit.level:g} % interval at {format_flops(float(last['C'].iloc[0]))} FLOPs"
        ax.fill_between(last["factor"], last["lo"].clip(lower=0), last["hi"], color=color, alpha=0.16, lw=0, zorder=1, label=text)  # fmt: skip


def _waste_data(fit: Fit, C: Any) -> dict[str, pd.DataFrame]:
    """Return waste along N/N* by budget, of the runs, and the sizes that cost 20 % more."""
    rows = fit.runs.fit_rows[["run_id", "N", "D", "C"]].reset_index(drop=True)
    most = rows["C"].max()
    budgets = [rows["C"].min(), most, 100 * most] if C is None else np.atleast_1d(C).ravel()
    factor = np.geomspace(1 / REACH, REACH, STEPS)
    lines = pd.concat([_line(fit, float(c), factor) for c in np.unique(budgets)], ignore_index=True)
    best = fit.optimal(rows["C"].to_numpy(float))["N"].to_numpy(float)
    # points have no intervals: a thousand take seconds
    surface = replace(as_surface(fit), draws={})
    share = deadweight(surface, rows["N"].tolist(), rows["D"].tolist()).frame["share"].to_numpy(float)  # fmt: skip
    runs = rows.assign(factor=rows["N"] / best, percent=100 * share / (1 - share))
    return {"lines": lines, "runs": runs, "valley": _valley(lines)}


def _line(fit: Fit, C: float, factor: np.ndarray) -> pd.DataFrame:
    table = misallocation(fit, C, factor=list(factor)).frame
    ends = {
        k: 100 * table.get(f"more_compute_{k}", pd.Series(np.nan, index=table.index)) for k in ("lo", "hi")
    }  # fmt: skip
    percent = 100 * table["more_compute"]
    return pd.DataFrame({"C": C, "factor": factor, "N": table["N"], "D": table["D"], "percent": percent, **ends})  # fmt: skip


def _valley(lines: pd.DataFrame) -> pd.DataFrame:
    """Return per budget the sizes on either side at which the waste reaches `CHEAP`; NaN beyond `REACH`."""
    found = []
    for C, line in lines.groupby("C"):
        x, y = np.log(line["factor"].to_numpy(float)), line["percent"].to_numpy(float)
        low, high = x <= 0, x >= 0
        ends = (
            np.interp(-CHEAP, -y[low], x[low], left=np.nan),
            np.interp(CHEAP, y[high], x[high], right=np.nan),
        )
        found.append({"C": C, "percent": CHEAP, "smaller": np.exp(ends[0]), "larger": np.exp(ends[1])})  # fmt: skip
    return pd.DataFrame(found)


def _mark_valley(ax: Axes, valley: pd.DataFrame) -> None:
    row = valley.iloc[-1]
    if row.isna().any():  # a valley wider than the figure
        return
    text = f"{CHEAP:g} % at {row['smaller']:.2g} and {row['larger']:.2g} times N*"
    ax.plot([row["smaller"], row["larger"]], [CHEAP] * 2, "|:", ms=9, mew=1.3, lw=1.2, color=style.INK, zorder=6, label=text)  # fmt: skip
