"""The fitted law looked at at work: how far the runs lie from it, and what it predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scaling.analysis.fits.fitting import Fit
from scaling.present import style
from scaling.present.verification import verify
from scaling.study.errors import FitError

AGAINST = {"C": "training compute C [FLOPs]", "N": "", "D": "training tokens D [tokens]"}
TREND, LEAST = 6, 3  # groups of equal count whose means are drawn; runs in each, at least


def residuals(
    fit: Fit,
    *,
    against: str = "C",
    verification: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how far each run lies from the law, in percent of the loss.

    Args:
        fit: any fit.
        against: C, N or D.
        verification: held-out runs, as in `prediction`.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes. A law that fits leaves no pattern; the band is the scatter of single runs, the squares
        are means of neighbouring runs with twice their standard error.
    """
    if against not in AGAINST:
        raise FitError(f"against: {against!r} is none of {', '.join(AGAINST)}.")
    data = _residuals_data(fit, verification, against)
    runs, other = data["runs"], "C" if against == "N" else "N"
    colors = style.color_scale(runs[other], "viridis" if other == "C" else "plasma")
    with style.drawing(ax) as ax:
        band = 100 * fit.spread
        ax.axhspan(
            -band,
            band,
            color=style.GRID,
            alpha=0.8,
            lw=0,
            zorder=0,
            label=f"scatter of one run, ±{band:.2g} %",
        )
        ax.axhline(0, color=style.INK, lw=0.9, zorder=1)
        ax.scatter(runs[against], runs["percent"], c=colors.to_rgba(runs[other]), s=28, ec="white", lw=0.6, zorder=3,
                   label=f"runs (colour: {'compute' if other == 'C' else 'size'})")  # fmt: skip
        _draw_trend(ax, data["trend"])
        held = data["verification"]
        style.mark_held_out(ax, held[against], held["percent"])
        style.set_log_axis(ax.xaxis, against)
        top = 1.1 * max(float(np.abs([*runs["percent"], *held["percent"], band]).max()), 1e-6)
        ax.set_ylim(-top, 1.35 * top)  # the legend stands above the runs
        ax.set_title(f"Residuals of {fit.law.name}")
        ax.set_xlabel(
            {"N": style.size_label(fit.runs.params), "C": style.compute_label(fit.runs.flops)}.get(
                against, AGAINST[against]
            )
        )
        ax.set_ylabel("measured above law [% of loss]")
        ax.legend(loc="upper center", ncols=2, columnspacing=1.2)
    style.remember(ax, data)
    return ax


def residual_panels(
    fit: Fit, *, verification: pd.DataFrame | None = None, axes: Any = None
) -> tuple[Axes, ...]:
    """Draw the residuals against compute, size and tokens; arguments as in `residuals`.

    Args:
        axes: three axes; new ones side by side if None.

    Returns:
        The three axes, of one height. A pattern in one of them says what the law has wrong: a slope
        against size or tokens an exponent, a bend against compute the floor.
    """
    if axes is None:
        with style.panels(1, 3, size=(13.2, 3.9)) as (_, made):
            axes = made
    drawn = tuple(
        residuals(fit, against=x, verification=verification, ax=ax)
        for x, ax in zip(("C", "N", "D"), axes, strict=True)
    )
    with style.drawing(drawn[0]):
        for x, ax in zip(("compute", "size", "tokens"), drawn, strict=True):
            ax.set_title(f"Residuals of {fit.law.name} by {x}")
        for ax in drawn[1:]:  # one legend says the rest
            ax.set_ylabel("")
            ax.legend(*(part[1:2] for part in ax.get_legend_handles_labels()), loc="upper center")
    return drawn


def prediction(
    fit: Fit, verification: pd.DataFrame | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draw the loss along the frontier with its interval, and measured runs beside their prediction.

    Args:
        fit: a law with an optimum in N and D.
        verification: held-out runs (columns N, D, C and L or measured, and a forecast stated
            earlier if there is one); those of the fit's table by default.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes: runs of the fit as points, the frontier with its band, and per verification run
        the predicted loss with the interval for a single run and the measured loss.
    """
    data = _prediction_data(fit, verification)
    line, checked, runs = data["frontier"], data["verification"], data["runs"]
    with style.drawing(ax) as ax:
        colors = style.color_scale(runs["C"])
        ax.scatter(
            runs["C"],
            runs["L"],
            c=colors.to_rgba(runs["C"]),
            s=18,
            ec="white",
            lw=0.5,
            zorder=3,
            label="runs in the fit",
        )
        _draw_band(ax, line, fit.level)
        _draw_checked(ax, checked, fit.level)
        style.set_log_axis(ax.xaxis, "C")
        style.set_log_axis(ax.yaxis, "L")
        ax.set_title("Predicted and measured loss")
        ax.set_xlabel(style.compute_label(fit.runs.flops))
        ax.set_ylabel(style.loss_label(fit.runs.loss))
        ax.legend(loc="best")
        if len(checked):
            _magnify(ax, checked)
    style.remember(ax, data)
    return ax


def _residuals_data(
    fit: Fit, verification: pd.DataFrame | None, against: str
) -> dict[str, pd.DataFrame]:
    """Return measured over fitted loss [%] of the fit's runs and of the held-out ones."""
    runs = fit.residuals()
    checked = verify(fit, verification)
    percent = 100 * (checked["measured"].astype(float) / checked["predicted"].astype(float) - 1)
    runs = runs.assign(percent=100 * np.expm1(runs["residual"]))
    return {
        "runs": runs,
        "trend": _trend(runs, against),
        "verification": checked.assign(percent=percent),
    }


def _trend(runs: pd.DataFrame, against: str) -> pd.DataFrame:
    """Return means of residuals [%] in groups of neighbours, with the standard error of each."""
    kinds = runs[against].nunique()
    groups = min(TREND, kinds, len(runs) // LEAST)
    if groups < 2:
        return pd.DataFrame(columns=["x", "percent", "error", "runs"])
    rank = runs[against].rank(method="average")  # runs of one size stay together
    place = np.minimum((groups * (rank - 0.5) / len(runs)).astype(int), groups - 1)
    table = runs.assign(place=place, log=np.log(runs[against].astype(float))).groupby("place").agg(
        x=("log", "mean"), percent=("percent", "mean"), error=("percent", "sem"), runs=("percent", "size")
    )  # fmt: skip
    return table.assign(x=np.exp(table["x"])).reset_index(drop=True)


def _draw_trend(ax: Axes, trend: pd.DataFrame) -> None:
    if len(trend):
        reach = 2 * trend["error"].fillna(0.0)
        ax.errorbar(trend["x"], trend["percent"], yerr=reach, fmt="s--", ms=4.5, lw=1.0, elinewidth=1.2, capsize=2.5, color=style.INK,
                    mfc="white", zorder=5, label="mean of neighbours")  # fmt: skip


def _prediction_data(fit: Fit, verification: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    """Return the loss on the frontier, the runs, and predicted against measured."""
    checked, runs = verify(fit, verification), fit.runs.fit_rows[["run_id", "N", "D", "C", "L"]]
    low, high = runs["C"].min(), runs["C"].max()
    C = np.unique(
        [*np.geomspace(low / 1.3, max([2.5 * high, *(1.8 * checked["C"])]), 100), low, high]
    )
    line = fit.optimal(C)[["C", "loss", "loss_lo", "loss_hi"]]
    return {
        "frontier": line.assign(inside=line["C"].between(low, high)),
        "verification": checked,
        "runs": runs,
    }


def _draw_band(ax: Axes, line: pd.DataFrame, level: float) -> None:
    inside, beyond = line[line["inside"]], line[line["C"] >= line.loc[line["inside"], "C"].max()]
    ax.plot(inside["C"], inside["loss"], color=style.LAW, zorder=4, label="law at the optimal size")
    ax.plot(beyond["C"], beyond["loss"], color=style.LAW, ls=style.BEYOND, zorder=4)
    if line["loss_lo"].notna().all():
        ax.fill_between(
            inside["C"],
            inside["loss_lo"],
            inside["loss_hi"],
            color=style.LAW,
            alpha=0.25,
            lw=0,
            label=f"its {100 * level:g} % interval",
        )
        ax.fill_between(
            beyond["C"], beyond["loss_lo"], beyond["loss_hi"], color=style.LAW, alpha=0.12, lw=0
        )


def _draw_checked(ax: Axes, checked: pd.DataFrame, level: float, *, size: float = 6.5) -> None:
    """Draw predicted losses with the interval of a single run, and the measured ones."""
    if not len(checked):
        return
    errors: Any = [
        checked["predicted"] - checked["next_lo"],
        checked["next_hi"] - checked["predicted"],
    ]
    ax.errorbar(checked["C"], checked["predicted"], yerr=errors, fmt="_", ms=11, mew=1.6, color=style.INK, lw=1.5, capsize=4, zorder=5,
                label=f"predicted, {100 * level:g} % interval of one run")  # fmt: skip
    style.mark_held_out(ax, checked["C"], checked["measured"], label="measured", size=size)


def _magnify(ax: Axes, checked: pd.DataFrame) -> None:
    """Show the last verification run enlarged: on the main axes interval and point often coincide."""
    row = checked.iloc[[-1]]
    shown = row[["predicted", "measured", "next_lo", "next_hi"]].to_numpy(float)
    low, high = np.nanmin(shown), np.nanmax(shown)
    pad = 0.35 * max(high - low, 1e-4)
    inset = ax.inset_axes((0.1, 0.1, 0.2, 0.36), zorder=7)
    _draw_checked(inset, row, 0.9, size=7.5)
    C = float(row["C"].iloc[0])
    inset.set(xlim=(C / 1.5, C * 1.5), ylim=(low - pad, high + pad), xscale="log", xticks=[])
    inset.xaxis.set_minor_locator(style.ticker.NullLocator())
    inset.yaxis.set_major_locator(style.ticker.MaxNLocator(4))
    inset.tick_params(labelsize=7, length=2)
    inset.set_title("enlarged", fontsize=7.5, fontweight="normal", loc="left", pad=3)
