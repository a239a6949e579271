"""Groups side by side: the loss of each along compute with its law, and the gaps between them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaling.analysis.fits.disparity import Gaps, span_of
from scaling.present import style

ERROR_UNIT = " - "  # in the unit of what lacks to the best: 1 - accuracy


def gaps(found: Gaps, *, title: str = "") -> Figure:
    """Draw the loss of each group against compute, and the gap of each to the reference.

    Args:
        found: what `scaling.gaps` returned; title: above the left panel.

    Returns:
        The figure. Markers are runs, lines are laws along the best sizes, dashed beyond the runs, with
        pale bands of their intervals.
    """
    with style.panels(1, 2, size=(10.4, 4.2)) as (figure, axes):
        left, right = axes
        for ax in axes:
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(True, which="major", color=style.GRID, linewidth=0.7)
        _draw_losses(found, left, title)
        _draw_gaps(found, right)
    return figure


def _draw_losses(found: Gaps, ax: Axes, title: str) -> None:
    data = {}
    for i, (group, law) in enumerate(found.fits.items()):
        color, marker = style.mark_of(i)
        ax.plot(law.runs.C, law.runs.L, marker, color=color, ms=4, alpha=0.5, mew=0, ls="none")
        C = found.curve(found.others[0])["C"].to_numpy(float)
        mean, lo, hi = span_of(found.losses(group, C), found.level)
        share = found.shares.get(group)
        label = group if share is None else f"{group}, {100 * share:.3g} % of the text"
        _line(found, ax, C, mean, lo, hi, color, label)
        data[group] = pd.DataFrame({"C": C, "loss": mean, "lo": lo, "hi": hi})
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(style.compute_label(found.runs.flops))
    ax.set_ylabel(found.unit if ERROR_UNIT in found.unit else f"held-out loss [{found.unit}]")
    ax.set_title(title or "Law of each group")
    ax.legend()
    style.remember(ax, data)


def _draw_gaps(found: Gaps, ax: Axes) -> None:
    data = {}
    names = list(found.fits)
    for group in found.others:
        color, marker = style.mark_of(names.index(group))
        curve = found.curve(group)
        one, other = found.fits[group].runs, found.fits[found.reference].runs
        ax.plot(one.C, one.L - other.L, marker, color=color, ms=4, alpha=0.5, mew=0, ls="none")
        label = f"{group} - {found.reference}: {found.verdict(group)}"
        C, mean, lo, hi = (curve[k].to_numpy(float) for k in ("C", "gap", "lo", "hi"))
        _line(found, ax, C, mean, lo, hi, color, label)  # fmt: skip
        data[group] = curve
    ax.axhline(0, color=style.INK, lw=0.8)
    ax.set_xscale("log")
    ax.set_xlabel(style.compute_label(found.runs.flops))
    ax.set_ylabel(f"gap to {found.reference} [{found.unit}]")
    ax.set_title("Gaps")
    ax.legend()
    style.remember(ax, data)


def _line(
    found: Gaps, ax: Axes, C: np.ndarray, mean: np.ndarray, lo: np.ndarray, hi: np.ndarray, color: str, label: str
) -> None:  # fmt: skip
    """Draw a law with its band: full where there are runs, dashed beyond them."""
    inside, beyond = found.now * (1 + 1e-9) >= C, found.now * (1 - 1e-9) <= C
    beyond[max(int(inside.sum()) - 1, 0)] = True  # the lines meet
    ax.plot(C[inside], mean[inside], color=color, label=label)
    ax.plot(C[beyond], mean[beyond], color=color, ls="--")
    ax.fill_between(C, lo, hi, color=color, alpha=0.15, lw=0)
