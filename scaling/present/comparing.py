"""Laws side by side on runs that none of them has seen: the error along compute."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scaling.analysis.data.runs import Runs
from scaling.analysis.fits.fitted import Fit
from scaling.analysis.forecasts.comparison import Comparison
from scaling.present import style
from scaling.study.errors import FitError
from scaling.study.units import format_flops

SAME = 0.05  # budgets closer than this are one
ROOF = 1.35


def comparison(found: Comparison, runs: Runs, *, ax: Axes | None = None) -> Axes:
    """Draw how far each law lies from the runs, those in the fits and those held out.

    Args:
        found: what `sl.compare` returned; runs: what it was given, the held-out ones among them.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes: predicted over measured loss against compute, a point per run and a line through the
        medians of the budgets. Right of the border no law has seen the runs. The legend ranks the
        laws, by their held-out error where runs were held out.

    Raises:
        FitError: the runs are none of those that were compared on.
    """
    data = _comparison_data(found, runs)
    points, lines = data["points"], data["medians"]
    order = list(found.rows["law"])
    with style.drawing(ax) as ax:
        ax.axhline(0, color=style.INK, lw=0.9, zorder=1)
        width = 0.012 * np.log(points["C"].max() / points["C"].min())
        for number, law in enumerate(order):
            color, marker = style.mark_of(number)
            shift = np.exp(width * (number - (len(order) - 1) / 2))  # laws stand side by side
            mine, line = points[points["law"] == law], lines[lines["law"] == law]
            ax.plot(mine["C"] * shift, mine["percent"], marker, ms=3, color=color, alpha=0.3, mew=0, zorder=2, rasterized=len(mine) > 2000)  # fmt: skip
            ax.plot(line["C"] * shift, line["percent"], marker=marker, ms=6, color=color, mec="white", mew=0.6,
                    lw=2.0 if number == 0 else 1.3, ls=style.dash_of(number), zorder=4, label=_legend(found, law))  # fmt: skip
        style.set_log_axis(ax.xaxis, "C")
        _mark_border(ax, found, points)
        shown = points.loc[points["percent"].notna(), "percent"].abs()
        reach = max(ROOF * float(np.quantile(shown, 0.99)), 1.15 * float(lines["percent"].abs().max()), 1e-3)  # fmt: skip
        ax.set_ylim(-reach, 1.5 * reach)  # the legend stands above the runs
        ax.set_title("Laws compared")
        ax.set_xlabel(style.compute_label(runs.flops))
        ax.set_ylabel("law above measured [% of loss]")
        what = "law, held-out error" if found.held_out else "law, error in the fit"
        ax.legend(loc="upper left", title=what, title_fontsize=8, alignment="left", ncols=2)
    style.remember(ax, data)
    return ax


def _comparison_data(found: Comparison, runs: Runs) -> dict[str, pd.DataFrame]:
    """Return the error [%] of each law on each run, and medians by budget."""
    if not len(runs):
        raise FitError("comparison: there are no runs. Give those that `sl.compare` was given.")
    limit = np.inf if found.holdout_above is None else found.holdout_above
    points = pd.concat([_errors(fit, runs, limit) for fit in found.fits.values()], ignore_index=True)  # fmt: skip
    budget = (np.log(points["C"].astype(float)) / np.log1p(SAME)).round()
    medians = points.groupby(["law", budget.rename("budget")], as_index=False, sort=True).agg(
        C=("C", "median"), percent=("percent", "median"), runs=("percent", "size"), held_out=("held_out", "first")
    )  # fmt: skip
    return {"points": points, "medians": medians.drop(columns="budget")}


def _errors(fit: Fit, runs: Runs, limit: float) -> pd.DataFrame:
    rows = runs.fit_rows[["run_id", "N", "D", "C", "L"]].reset_index(drop=True)
    inputs = {k: runs.column(fit.law.columns.get(k, k)) for k in fit.law.inputs}
    fitted = np.asarray(fit.law(fit.params, **inputs), float)
    percent = 100 * (fitted / rows["L"] - 1)
    return rows.assign(law=fit.law.name, fitted=fitted, percent=percent, held_out=rows["C"] > limit)


def _mark_border(ax: Axes, found: Comparison, points: pd.DataFrame) -> None:
    if not found.held_out or found.holdout_above is None:
        return
    held = points.loc[points["held_out"], "C"].min()
    near = points.loc[~points["held_out"], "C"].max()
    border = float(np.sqrt(held * near))  # between the runs, wherever the limit itself lies
    right = ax.get_xlim()[1]
    ax.axvspan(border, right, color=style.GRID, alpha=0.45, lw=0, zorder=0, label=f"held out, above {format_flops(found.holdout_above)} FLOPs")  # fmt: skip
    ax.set_xlim(right=right)


def _legend(found: Comparison, law: str) -> str:
    row = found.rows.set_index("law").loc[law]
    error = row["holdout"] if found.held_out else row["error"]
    return f"{law}: {100 * float(error):.2g} %"
