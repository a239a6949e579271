"""The fitted law as a landscape: contours of the loss over size and tokens, and the path through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scaling.analysis.allocation.decided import as_surface
from scaling.analysis.allocation.decisions import deadweight
from scaling.analysis.fits.fitting import Fit
from scaling.present import style
from scaling.present.labels import HALO
from scaling.study.errors import FitError

LEVELS = 9  # contours, about
FAR = 1e4  # factor beyond the runs from which an optimum does not widen the view
WASTE = (0.1, 0.5, 1.0)  # compute above what the loss needs: shades around the efficient path
GREYS = ("#dbe9f4", "#ecf3f9", "#f6f9fc")  # darker is cheaper
EDGE = 0.05  # of the map's width or height: half a label's length


def surface(
    fit: Fit, *, target: float | None = None, verification: pd.DataFrame | None = None, ax: Axes | None = None
) -> Axes:  # fmt: skip
    """Draw contours of the fitted loss over size and tokens, the efficient path, the cost of leaving it.

    Args:
        fit: a law in N and D.
        target: a planned budget [FLOPs], drawn as a line of equal compute with its optimum.
        verification: held-out runs to mark; those of the fit's table by default.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes. The path is dashed beyond the compute of the runs. Shaded is where at most 10, 50 and
        100 % more compute is spent than the least that reaches the same loss.

    Raises:
        FitError: the law is not one of N and D.
    """
    data = _surface_data(fit, target, verification)
    grid, path, runs = data["grid"], data["path"], data["runs"]
    shape = (grid["D"].nunique(), grid["N"].nunique())
    N, D, loss = (grid[c].to_numpy().reshape(shape) for c in ("N", "D", "loss"))
    with style.drawing(ax, size=(6.4, 4.8)) as ax:
        style.set_log_axis(ax.xaxis, "N")
        style.set_log_axis(ax.yaxis, "D")
        _shade_waste(ax, N, D, grid["waste"].to_numpy(float).reshape(shape))
        lines = ax.contour(
            N, D, loss, levels=_levels(loss), colors=style.MUTED, linewidths=0.9, alpha=0.8
        )
        texts = ax.clabel(lines, fmt="%.3g", fontsize=7.5, inline_spacing=4)
        for text in texts:
            text.set_path_effects(HALO)
        colors = style.color_scale(runs["C"])
        ax.scatter(
            runs["N"],
            runs["D"],
            c=colors.to_rgba(runs["C"]),
            s=26,
            ec="white",
            lw=0.6,
            zorder=4,
            label="runs (colour: compute)",
        )
        _draw_path(ax, path)
        _draw_budget(ax, data["target"])
        held = data["verification"]
        style.mark_held_out(ax, held["N"], held["D"])
        ax.set_xlim(N.min(), N.max())
        ax.set_ylim(D.min(), D.max())
        ax.set_title(f"{style.loss_label(fit.runs.loss).capitalize()}")
        ax.set_xlabel(style.size_label(fit.runs.params))
        ax.set_ylabel("training tokens D [tokens]")
        ax.legend(loc="best")
    style.remember(ax, data)
    return ax


def _surface_data(
    fit: Fit, target: float | None, verification: pd.DataFrame | None
) -> dict[str, pd.DataFrame]:
    """Return the law on a grid around the runs, its efficient path, and the runs."""
    if set(fit.law.inputs) != {"N", "D"}:
        raise FitError(
            f"surface: law {fit.law.name} reads {', '.join(fit.law.inputs)}, not N and D. Fit chinchilla, for example."
        )
    runs = fit.runs.fit_rows[["run_id", "N", "D", "C", "L"]]
    held = fit.runs.verify if verification is None else verification
    budget = _budget(fit, target)
    best = budget.loc[budget["best"]]
    if len(best) and not _is_close(best, runs):  # an exponent that ran away: the runs stay in view
        best = best.iloc[:0]
    N = np.geomspace(*style.span([*runs["N"], *held["N"], *best["N"]], margin=0.1), 90)
    D = np.geomspace(*style.span([*runs["D"], *held["D"], *best["D"]], margin=0.1), 90)
    NN, DD = np.meshgrid(N, D)
    loss = fit.law(fit.params, N=NN.ravel(), D=DD.ravel())
    grid = pd.DataFrame({"N": NN.ravel(), "D": DD.ravel(), "loss": loss, "waste": np.nan})
    path = pd.DataFrame(columns=["C", "N", "D", "inside"])
    if fit.law.optimum is not None:
        share = _point(fit, grid)
        grid["waste"] = share / np.maximum(1 - share, 1e-9)
        C = np.geomspace(runs["C"].min() / 2, fit.cost.flops(N[-1], D[-1]), 120)
        C = np.unique([*C, runs["C"].min(), runs["C"].max()])
        path = fit.optimal(C)[["C", "N", "D"]]
        path = path.assign(inside=path["C"].between(runs["C"].min(), runs["C"].max()))
    return {
        "grid": grid,
        "path": path,
        "runs": runs,
        "verification": held[["N", "D", "C"]],
        "target": budget,
    }


def _is_close(best: pd.DataFrame, runs: pd.DataFrame) -> bool:
    """Return whether an optimum lies within `FAR` of the runs in both N and D."""
    return all(runs[k].min() / FAR < best[k].iloc[0] < FAR * runs[k].max() for k in ("N", "D"))


def _point(fit: Fit, grid: pd.DataFrame) -> np.ndarray:
    """Return the share of compute wasted at each point; intervals are not drawn, so not counted."""
    surface = replace(as_surface(fit), draws={})
    return (
        deadweight(surface, grid["N"].tolist(), grid["D"].tolist()).frame["share"].to_numpy(float)
    )


def _shade_waste(ax: Axes, N: np.ndarray, D: np.ndarray, waste: np.ndarray) -> None:
    if np.isfinite(waste).any():
        ax.contourf(N, D, waste, levels=(0, *WASTE), colors=GREYS, zorder=0)
        lines = ax.contour(N, D, waste, levels=WASTE, colors=style.LAW, linewidths=0.7, linestyles=":", zorder=1)  # fmt: skip
        for text in ax.clabel(lines, fmt=lambda v: f"+{100 * v:g} %", fontsize=7, inline_spacing=2):
            text.set_path_effects(HALO)
            if _at_an_edge(text.get_position(), N, D):  # would be cut by the frame
                text.set_visible(False)
        ax.plot([], [], color=style.LAW, lw=0.7, ls=":", label="compute above what the loss needs")


def _at_an_edge(place: tuple[float, float], N: np.ndarray, D: np.ndarray) -> bool:
    """Return whether a place lies in the outer part of the map, in logarithms."""
    shares = [
        np.log(x / values.min()) / np.log(values.max() / values.min())
        for x, values in zip(place, (N, D), strict=True)
    ]
    return not all(EDGE < share < 1 - EDGE for share in shares)


def _budget(fit: Fit, target: float | None) -> pd.DataFrame:
    """Return the line of equal compute of a planned budget, its optimum flagged."""
    if target is None or fit.law.optimum is None:
        return pd.DataFrame({"N": [], "D": [], "best": np.array([], bool)})
    best = float(fit.optimal(target)["N"].iloc[0])
    N = best * np.geomspace(1e-6, 1e6, 401)
    return pd.DataFrame({"N": N, "D": fit.cost.tokens(target, N), "best": np.arange(401) == 200})


def _levels(loss: np.ndarray) -> np.ndarray:
    """Return round levels, closer where the surface is flat."""
    low, high = np.quantile(loss, [0.005, 0.97])
    raw = low + (high - low) * np.linspace(0, 1, LEVELS) ** 1.7
    digits = int(np.clip(2 - np.floor(np.log10(max(high - low, 1e-9))), 1, 6))
    return np.unique(np.round(raw[1:], digits - 1 if high - low > 1 else digits))


def _draw_path(ax: Axes, path: pd.DataFrame) -> None:
    if not len(path):
        return
    inside = path[path["inside"].astype(bool)]
    ax.plot(path["N"], path["D"], color=style.LAW, ls=style.BEYOND, lw=1.5, zorder=3)
    ax.plot(
        inside["N"],
        inside["D"],
        color=style.LAW,
        lw=2.2,
        zorder=3,
        label="efficient path of the law",
    )


def _draw_budget(ax: Axes, budget: pd.DataFrame) -> None:
    if len(budget):
        best = budget[budget["best"]]
        ax.plot(budget["N"], budget["D"], color=style.INK, lw=1, ls=":", zorder=2)
        ax.plot(
            best["N"],
            best["D"],
            "*",
            ms=13,
            mfc=style.LAW,
            mec=style.INK,
            zorder=6,
            label="optimum of the planned budget",
        )
