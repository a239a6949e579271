"""What training looks like: validation loss along every run, and loss against the learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from scaling.analysis.data.runs import Runs
from scaling.analysis.frontier.envelope import Envelope
from scaling.present import style
from scaling.present.labels import CurveLabels, reserve_right
from scaling.study.errors import FitError
from scaling.study.units import format_quantity

RASTER = (
    20_000  # from this many points curves are a bitmap inside the vector file, which stays small
)
CELLS = 12  # cells of a learning-rate figure that are named at their curves
GRID = 240  # budgets at which the envelope is drawn


def curves(
    runs: Runs, *, against: str = "C", envelope: Envelope | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the validation loss along every run, coloured by size, with the lower envelope.

    Args:
        runs: runs with their training curves; for a table without curves the ends are drawn.
        against: C [FLOPs] or D, the tokens seen.
        envelope: what `fit_envelope` returned; else the lowest curve at each x is drawn.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes, both logarithmic.
    """
    if against not in ("C", "D"):
        raise FitError(f"against: {against!r} is neither C nor D.")
    data = _curves_data(runs, against, envelope)
    sizes = style.color_scale(data["ends"]["N"], "plasma")
    with style.drawing(ax) as ax:
        _draw_lines(ax, data["curves"], sizes)
        ends = data["ends"]
        ax.scatter(
            ends["x"], ends["loss"], c=sizes.to_rgba(ends["N"]), s=16, ec="white", lw=0.5, zorder=4
        )
        if len(data["envelope"]):
            label = (
                "lowest loss within each compute"
                if against == "C"
                else "lowest loss within as many tokens"
            )
            ax.plot(
                data["envelope"]["x"],
                data["envelope"]["loss"],
                color=style.INK,
                lw=1.5,
                ls=(0, (5, 1.5)),
                zorder=5,
                label=label,
            )
            ax.legend(loc="lower left")
        style.set_log_axis(ax.xaxis, against)
        style.set_log_axis(ax.yaxis, "L")
        shown = np.concatenate([ends["loss"], data["curves"]["loss"]])
        ax.set_xlim(*style.span([*ends["x"], *data["curves"]["x"]]))
        # The first steps of a run fall from ln(vocabulary); twice the worst end is where reading starts.
        ax.set_ylim(
            style.span(shown)[0], min(style.span(shown)[1] * 1.05, 2.0 * ends["loss"].max())
        )
        ax.set_title("Training curves" if len(data["curves"]) else "Final losses")
        ax.set_xlabel(
            style.compute_label(runs.flops) if against == "C" else "training tokens seen [tokens]"
        )
        ax.set_ylabel(style.loss_label(runs.loss))
        # falling curves leave the upper right corner free
        style.add_color_bar(ax, sizes, style.size_label(runs.params), kind="N", place=(0.52, 0.93, 0.46, 0.035))  # fmt: skip
    style.remember(ax, data)
    return ax


def learning_rate(runs: Runs | pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the loss against the peak learning rate for each size and number of tokens.

    Args:
        runs: runs (or a table) with lr, N, D and loss; runs of equal N and D (within 3 %) are one
            cell. Diverged runs, if any, are marked at the top.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes. Lines join means of repeats, or the best batch of each rate where batches differ; more
        than a dozen cells are told apart by a colour scale. A star marks the vertex of the parabola through a cell's lowest three points; a
        cell whose best rate is its smallest or largest has a hollow marker there instead.

    Raises:
        FitError: the runs carry no learning rate, or no cell has two rates.
    """
    data = _learning_rate_data(runs)
    points, minima = data["runs"], data["minima"]
    colors = style.color_scale(points["C"])
    with style.drawing(ax) as ax:
        anchors = []
        for cell, line in data["lines"].groupby("cell", sort=False):
            color = colors.to_rgba(line["C"].iloc[0])
            ax.plot(line["lr"], line["loss"], color=color, zorder=3)
            anchors.append((line["lr"].iloc[-1], line["loss"].iloc[-1], str(cell), color))
        done = points[points["loss"].notna()]
        many = len(anchors) > CELLS
        ax.scatter(done["lr"], done["loss"], c=colors.to_rgba(done["C"]), s=10 if many else 25, ec="white", lw=0.5, zorder=3)  # fmt: skip
        for row in minima.itertuples():
            color = colors.to_rgba(row.C)
            star: dict[str, Any] = (
                {"marker": "*", "ms": 13, "mfc": color}
                if row.inside
                else {"marker": "o", "ms": 10, "mfc": "none"}
            )
            ax.plot(row.lr, row.loss, ls="", mec=style.INK, mew=0.9, zorder=5, **star)
        style.set_log_axis(ax.xaxis, "lr")
        ax.set_xlim(*style.span(points["lr"]))
        _keep_minima_in_view(ax, done, minima)
        if many:  # names of so many would cover the curves
            low, high = ax.get_ylim()
            ax.set_ylim(low, high + 0.3 * (high - low))
            style.add_color_bar(ax, colors, "compute 6ND [FLOPs]", kind="C", place=(0.03, 0.9, 0.36, 0.035))  # fmt: skip
        else:
            reserve_right(ax, inches=0.4 + 0.065 * max((len(a[2]) for a in anchors), default=0))
            CurveLabels(ax, anchors, reach=6)
        _mark_diverged(ax, points, colors)
        ax.plot([], [], "*", ms=11, mfc=style.MUTED, mec=style.INK, label="minimum of the cell")
        if not minima["inside"].all():
            ax.plot(
                [], [], "o", ms=8, mfc="none", mec=style.INK, label="best at the end of the range"
            )
        ax.legend(loc="upper right" if many else "best")
        ax.set_title("Learning rate")
        ax.set_xlabel("peak learning rate [1/step]")
        ax.set_ylabel(style.loss_label(getattr(runs, "loss", "val_loss")))
    style.remember(ax, data)
    return ax


def _curves_data(runs: Runs, against: str, envelope: Envelope | None) -> dict[str, pd.DataFrame]:
    """Return curves, their ends and the envelope, with x the compute or the tokens."""
    long, column = runs.curves(), "C" if against == "C" else "tokens"
    long = (
        long.assign(x=long[column].astype(float))
        .query("x > 0 and loss > 0")
        .sort_values(["run_id", "x"])
    )
    rows = runs.fit_rows
    ends = pd.DataFrame(
        {"run_id": rows["run_id"], "x": rows[against], "loss": rows["L"], "N": rows["N"]}
    )
    if envelope is not None and against == "C":
        low = envelope.points.rename(columns={"C": "x"})[["x", "loss"]]
    else:
        low = _lowest(long)
    low = low.assign(
        loss=np.minimum.accumulate(low["loss"].to_numpy(float))
    )  # a run that ended still counts
    return {
        "curves": long[["run_id", "N", "x", "loss"]],
        "ends": ends.reset_index(drop=True),
        "envelope": low,
    }


def _lowest(long: pd.DataFrame) -> pd.DataFrame:
    """Return the lowest of the curves at each x, interpolated in logarithms, never extrapolated."""
    groups = [g for _, g in long.groupby("run_id") if len(g) > 1]
    if not groups:
        return pd.DataFrame({"x": [], "loss": []})
    x = np.geomspace(
        min(g["x"].iloc[0] for g in groups), max(g["x"].iloc[-1] for g in groups), GRID
    )
    loss = [np.interp(np.log(x), np.log(g["x"]), np.log(g["loss"]), np.inf, np.inf) for g in groups]
    lowest = np.exp(np.min(loss, axis=0))
    return pd.DataFrame({"x": x, "loss": lowest})[np.isfinite(lowest)]


def _draw_lines(ax: Axes, long: pd.DataFrame, sizes: Any) -> None:
    groups = [g for _, g in long.groupby("run_id", sort=False)]
    lines = [g[["x", "loss"]].to_numpy(float) for g in groups]
    color = [sizes.to_rgba(g["N"].iloc[0], alpha=0.8 if len(groups) < 60 else 0.5) for g in groups]
    width = 1.2 if len(groups) < 60 else 0.7
    ax.add_collection(
        LineCollection(
            lines, colors=color, linewidths=width, rasterized=len(long) > RASTER, zorder=2
        )
    )


def _learning_rate_data(runs: Runs | pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return runs by cell of equal N and D, and each cell's best rate."""
    frame = runs.frame if isinstance(runs, Runs) else runs
    need = (
        ("lr", "N", "D", "L")
        if isinstance(runs, Runs)
        else ("lr", "params_non_embedding", "tokens", "val_loss")
    )
    lacking = [c for c in need if c not in frame or frame[c].isna().all()]
    if lacking:
        raise FitError(
            f"learning_rate: the runs have no values in {', '.join(lacking)}. Load a sweep over lr, e.g. sweeps with optim.lr_scale."
        )
    points = pd.DataFrame(
        {
            new: frame[old].astype(float)
            for new, old in zip(("lr", "N", "D", "loss"), need, strict=True)
        }
    )
    points = points.assign(
        C=6 * points["N"] * points["D"],
        diverged=frame["status"] == "diverged" if "status" in frame else False,
        batch=frame["batch_tokens"].astype(float) if "batch_tokens" in frame else np.nan,
    )
    points.loc[points["diverged"], "loss"] = np.nan
    points = points[points["diverged"] | points["loss"].notna()]
    points["cell"] = _cells(points)
    points = points.sort_values(["C", "N", "lr"], ignore_index=True)
    lines = _lines(points.dropna(subset="loss"))
    rows = [_best_rate(g) for _, g in lines.groupby("cell", sort=False)]
    minima = pd.DataFrame([r for r in rows if r])
    if minima.empty:
        raise FitError(
            "learning_rate: no size was trained at two or more rates. Sweep the rate over at least three values."
        )
    return {"runs": points.drop(columns="batch"), "lines": lines, "minima": minima}


def _lines(points: pd.DataFrame) -> pd.DataFrame:
    """Return the loss at each rate of a cell: the mean of repeats, at the batch that is best there."""
    at_batch = points.groupby(
        ["cell", "lr", "batch"], as_index=False, sort=False, dropna=False
    ).agg(N=("N", "first"), D=("D", "first"), C=("C", "first"), loss=("loss", "mean"))
    best = at_batch.loc[at_batch.groupby(["cell", "lr"], sort=False)["loss"].idxmin()]
    return best.drop(columns="batch").sort_values(["C", "N", "lr"], ignore_index=True)


def _keep_minima_in_view(ax: Axes, done: pd.DataFrame, minima: pd.DataFrame) -> None:
    """Let the minima rule the axis: a rate that nearly diverged leaves by the top of the frame."""
    low, high = float(done["loss"].min()), float(minima["loss"].max())
    top = min(float(done["loss"].max()), high + max(1.5 * (high - low), 0.25 * high))
    pad = 0.05 * (top - low)
    ax.set_ylim(low - pad, top + pad)


def _cells(points: pd.DataFrame) -> list[str]:
    """Name each run by its N and D, rounded so that sizes within about 3 % are one cell."""
    nearby = [_nearby(points[c]) for c in ("N", "D")]
    return [f"N={format_quantity(n)}, D={format_quantity(d)}" for n, d in zip(*nearby, strict=True)]


def _nearby(values: Iterable[float]) -> list[float]:
    """Replace each value by the smallest within 3 % of it."""
    found: list[float] = []
    for value in sorted(set(values)):
        if not found or value > found[-1] * 1.03:
            found.append(value)
    edges = np.array(found)
    return [float(edges[np.searchsorted(edges, v, side="right") - 1]) for v in values]


def _best_rate(group: pd.DataFrame) -> dict[str, Any]:
    """Return a cell's minimum: vertex in ln lr through the best point and its neighbours."""
    means = group[["lr", "loss"]].reset_index(drop=True)
    if len(means) < 2:
        return {}
    best = int(means["loss"].argmin())
    cell = {
        "cell": group["cell"].iloc[0],
        "N": group["N"].iloc[0],
        "D": group["D"].iloc[0],
        "C": group["C"].iloc[0],
    }
    lr, loss, inside = means["lr"].iloc[best], means["loss"].iloc[best], 0 < best < len(means) - 1
    if inside:
        near = means.iloc[best - 1 : best + 2]
        center = np.log(lr)
        c2, c1, c0 = np.polyfit(np.log(near["lr"]) - center, near["loss"], 2)
        lr, loss = float(np.exp(center - c1 / (2 * c2))), float(c0 - c1**2 / (4 * c2))
    return cell | {
        "lr": lr,
        "loss": loss,
        "inside": inside,
        "lr_of_best_run": means["lr"].iloc[best],
    }


def _mark_diverged(ax: Axes, points: pd.DataFrame, colors: Any) -> None:
    lost = points[points["diverged"]]
    if len(lost):
        top = ax.get_ylim()[1]
        ax.scatter(
            lost["lr"],
            [top] * len(lost),
            marker="x",
            c=colors.to_rgba(lost["C"]),
            s=36,
            clip_on=False,
            zorder=5,
            label="diverged",
        )
