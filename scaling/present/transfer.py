"""Does the best learning rate stay in place: loss against the rate, one curve per size."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scaling.present import style


def transfer(runs: pd.DataFrame, axis: str, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the loss against the learning rate, one curve per size, with the path of the best rate.

    Args:
        runs: columns size, lr (as given, at the base shape) and loss [nats/token].
        axis: what size is: width or layers; said in the legend.
        title: above the axes.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes. Stars are vertices of parabolas through the lowest three points; the line through
        them is upright where the rate transfers.
    """
    best = best_rates(runs)
    colors = style.color_scale(runs["size"], "plasma")
    with style.drawing(ax) as ax:
        for size, group in runs.dropna(subset=["loss"]).groupby("size"):
            color = colors.to_rgba(size)
            ax.plot(group["lr"], group["loss"], "o-", color=color, mec="white", mew=0.5, label=f"{axis} {size:g}")  # fmt: skip
        ax.plot(best["lr"], best["loss"], color=style.INK, lw=1, zorder=4)
        for row in best.itertuples():
            ax.plot(row.lr, row.loss, "*", ms=11, mfc=colors.to_rgba(row.size), mec=style.INK, mew=0.8, zorder=5)  # fmt: skip
        style.set_log_axis(ax.xaxis, "lr")
        ax.set_xlim(*style.span(runs["lr"]))
        ax.set_xlabel("learning rate [1/step]")
        ax.set_ylabel("validation loss [nats/token]")
        ax.set_title(title)
        ax.legend(loc="upper center")
    style.remember(ax, {"runs": runs, "minima": best})
    return ax


def best_rates(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the best learning rate of every size and its loss.

    Args:
        runs: columns size, lr and loss; with a column parametrization, each of them apart.

    Returns:
        Vertex of the parabola in log rate through the lowest three points; the end point itself
        where the lowest is at an end of the grid.
    """
    keys = [k for k in ("parametrization", "size") if k in runs]
    rows = []
    for key, group in runs.dropna(subset=["loss"]).groupby(keys, sort=False):
        lr, loss = _vertex(group.sort_values("lr"))
        rows.append({**dict(zip(keys, key, strict=True)), "lr": lr, "loss": loss})
    return pd.DataFrame(rows, columns=[*keys, "lr", "loss"])


def spread(best: pd.DataFrame) -> float:
    """Return the largest over the smallest best rate: 1 is perfect transfer."""
    return float(best["lr"].max() / best["lr"].min())


def _vertex(group: pd.DataFrame) -> tuple[float, float]:
    x, y = np.log(group["lr"].to_numpy(float)), group["loss"].to_numpy(float)
    low = int(y.argmin())
    if low in (0, len(y) - 1):
        return float(group["lr"].iloc[low]), float(y[low])
    three = slice(low - 1, low + 2)
    a, b, c = np.polyfit(x[three] - x[low], y[three], 2)
    return float(np.exp(x[low] - b / (2 * a))), float(c - b * b / (4 * a))
