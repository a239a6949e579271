"""Hyperparameters as a landscape: the loss over learning rate and batch at one size and budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.tri import Triangulation

from scaling.analysis.data.runs import Runs, as_runs
from scaling.analysis.data.tables import number
from scaling.present import style
from scaling.present.labels import HALO
from scaling.study.errors import FitError, did_you_mean
from scaling.study.units import format_quantity

NEARBY = 0.03  # sizes and tokens closer than this are one cell
LEAST = 6  # runs that span a landscape; fewer hold no contour
LEVELS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # nats/token above the best run
WORST = 0.3  # of ln loss above the best: what lies higher has diverged, and is one colour
NAMES = {"lr": "peak learning rate [1/step]", "batch_tokens": "batch [tokens]", "weight_decay": "weight decay"}  # fmt: skip


def tuning(
    runs: Runs, x: str = "lr", y: str = "batch_tokens", *, N: float | None = None, D: float | None = None,
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw the loss over two hyperparameters at one size and number of tokens.

    Args:
        runs: runs with both as columns; x, y: their names.
        N, D: the size and tokens shown; those with the most runs if None.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes. Colour is the loss above the best run (the star); contours are interpolated between
        runs, nothing is fitted. Wide contours are a choice that matters little.

    Raises:
        FitError: a column is missing, or the runs of that size lie on a line.
    """
    data = _tuning_data(as_runs(runs), x, y, N, D)
    points = data["runs"]
    best = points.loc[points["loss"].idxmin()]
    excess = points["excess"].to_numpy(float)
    with style.drawing(ax) as ax:
        style.set_log_axis(ax.xaxis, "lr")
        style.set_log_axis(ax.yaxis, "D")
        _draw_contours(ax, data["mean"])
        shade = style.colormap("viridis")(np.clip(excess / max(WORST * best["loss"] / 3, 1e-12), 0, 1) ** 0.5)  # fmt: skip
        ax.scatter(points["x"], points["y"], c=shade, s=30, ec="white", lw=0.6, zorder=4, label=f"{len(points)} runs, dark is low")  # fmt: skip
        ax.plot(best["x"], best["y"], "*", ms=14, mfc="white", mec=style.INK, mew=1.1, zorder=6, label=f"best, {best['loss']:.4g}")  # fmt: skip
        lost = data["diverged"]
        if len(lost):
            ax.plot(lost["x"], lost["y"], "x", ms=6, color=style.VERIFY, zorder=5, label="diverged")
        ax.set_xlim(*style.span([*points["x"], *lost["x"]], margin=0.08))
        low, high = style.span([*points["y"], *lost["y"]], margin=0.08)
        ax.set_ylim(
            low, high * (high / low) ** 0.08
        )  # runs fill the plane: the legend stands above
        ax.set_title(f"Loss over {_plain(x)} and {_plain(y)}, N = {format_quantity(best['N'])}, D = {format_quantity(best['D'])}")  # fmt: skip
        ax.set_xlabel(NAMES.get(x, _plain(x)))
        ax.set_ylabel(NAMES.get(y, _plain(y)))
        ax.legend(loc="upper left", ncols=3, columnspacing=1.2, borderaxespad=0.1)
    style.remember(ax, data)
    return ax


def cells(runs: Runs, x: str = "lr", y: str = "batch_tokens") -> pd.DataFrame:
    """Return the sizes and tokens at which both hyperparameters vary, the fullest first: N, D, runs."""
    rows = _rows(as_runs(runs), x, y)
    found = [
        {"N": g["N"].iloc[0], "D": g["D"].iloc[0], "runs": len(g)}
        for _, g in rows.groupby("cell")
        if len(g) >= LEAST and min(g["x"].nunique(), g["y"].nunique()) > 1
    ]
    return pd.DataFrame(found, columns=["N", "D", "runs"]).sort_values("runs", ascending=False, ignore_index=True)  # fmt: skip


def _tuning_data(runs: Runs, x: str, y: str, N: Any, D: Any) -> dict[str, pd.DataFrame]:
    """Return the runs of one cell, their loss above the best, means of repeats, and diverged ones."""
    rows = _rows(runs, x, y)
    if N is None or D is None:
        fullest = cells(runs, x, y)
        if fullest.empty:
            raise FitError(
                f"tuning: at no N and D are there {LEAST} runs over several {x} and {y}. Sweep both, or draw learning_rate for {x} alone."
            )
        N, D = fullest.loc[0, ["N", "D"]]
    near = rows[(np.abs(np.log(rows["N"] / N)) < NEARBY) & (np.abs(np.log(rows["D"] / D)) < NEARBY)]
    good = near[near["loss"].notna()]
    if len(good) < LEAST or min(good["x"].nunique(), good["y"].nunique()) < 2:
        raise FitError(
            f"tuning: {len(good)} runs at N = {format_quantity(N)}, D = {format_quantity(D)}; needs {LEAST} over several {x} and {y}."
        )
    points = good.assign(excess=good["loss"] - good["loss"].min()).drop(columns="cell")
    mean = points.groupby(["x", "y"], as_index=False)["excess"].mean()
    return {"runs": points, "mean": mean, "diverged": near[near["loss"].isna()].drop(columns="cell")}  # fmt: skip


def _rows(runs: Runs, x: str, y: str) -> pd.DataFrame:
    frame = runs.frame
    for name in (x, y):
        if name not in frame or not number(frame, name).notna().any():
            raise FitError(f"tuning: the runs have no values in {name!r}.{did_you_mean(name, frame.columns)} Name a column they have.")  # fmt: skip
    rows = pd.DataFrame({"run_id": frame["run_id"], "x": number(frame, x), "y": number(frame, y), "N": frame["N"], "D": frame["D"], "loss": frame["L"]})  # fmt: skip
    if "status" in frame:
        rows.loc[frame["status"] == "diverged", "loss"] = np.nan
    rows = rows[(rows[["x", "y", "N", "D"]] > 0).all(axis=1)].astype({"loss": float})
    step = np.log1p(NEARBY)
    keys = (np.log(rows[["N", "D"]].astype(float)) / step).round().astype(int)
    return rows.assign(cell=keys["N"].astype(str) + "/" + keys["D"].astype(str))


def _draw_contours(ax: Axes, mean: pd.DataFrame) -> None:
    """Draw lines of equal loss, linear between neighbouring runs in logarithms."""
    mean = mean[mean["excess"] < 2 * max(LEVELS)]
    x, y = np.log(mean["x"].to_numpy(float)), np.log(mean["y"].to_numpy(float))
    if len(mean) < 4 or np.linalg.matrix_rank(np.stack([x - x[0], y - y[0]]), tol=1e-9) < 2:
        return
    mesh = Triangulation(x, y)
    levels = [level for level in LEVELS if level < mean["excess"].max()]
    if not levels:
        return
    place = Triangulation(np.exp(x), np.exp(y), mesh.triangles)
    lines = ax.tricontour(place, mean["excess"].to_numpy(float), levels=levels, colors=style.MUTED, linewidths=0.9)  # fmt: skip
    for text in ax.clabel(lines, fmt=lambda v: f"+{v:g}", fontsize=7.5, inline_spacing=3):
        text.set_path_effects(HALO)


def _plain(name: str) -> str:
    return {"lr": "learning rate", "batch_tokens": "batch"}.get(name, name.replace("_", " "))
