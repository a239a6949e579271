"""What pre-training is worth: the loss after it beside that from scratch, and the tokens between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaling.analysis.fits.fitting import Fit
from scaling.analysis.fits.worth import transferred
from scaling.present import style
from scaling.study.errors import FitError
from scaling.study.units import format_quantity

WITH, WITHOUT = 1.0, 0.0  # values of the law's input P


def pretraining(fit: Fit, *, title: str = "") -> Figure:
    """Draw fine-tuned runs beside runs from scratch, and what pre-training is worth in tokens.

    Args:
        fit: of the law `transfer_loss`; title: above the left panel.

    Returns:
        The figure. Left: open markers and dashed lines are from scratch, filled and full ones from
        pre-trained weights; lines are the law. Right: markers are read off the runs without a law
        (see `transferred`), lines are the law; on the dotted line pre-training is worth as much as
        the fine-tuning tokens themselves.

    Raises:
        FitError: another law.
    """
    if fit.law.name != "transfer_loss":
        raise FitError(
            f"pretraining: draws the law transfer_loss, not {fit.law.name}. Fit that one."
        )
    sizes = sorted(set(fit.runs.N))
    colors = style.color_scale(sizes, "plasma")
    with style.panels(1, 2, size=(10.4, 4.2)) as (figure, axes):
        for ax in axes:
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(True, which="major", color=style.GRID, linewidth=0.7)
        _draw_losses(fit, sizes, colors, axes[0], title)
        _draw_worth(fit, sizes, colors, axes[1])
    return figure


def _draw_losses(fit: Fit, sizes: list[float], colors: Any, ax: Axes, title: str) -> None:
    N, D, P, L = (fit.runs.column(name) for name in ("N", "D", "pretrained", "L"))
    grid = np.geomspace(D.min(), D.max(), 80)
    data = {"runs": pd.DataFrame({"N": N, "D": D, "pretrained": P, "loss": L})}
    for size in sizes:
        color, of = colors.to_rgba(size), size == N
        for kind, line, face in ((WITHOUT, "--", "white"), (WITH, "-", color)):
            mine = of & (kind == P)
            law = fit.predict(N=np.full_like(grid, size), D=grid, P=np.full_like(grid, kind)).loss
            name = format_quantity(size) if kind else None
            ax.plot(D[mine], L[mine], "o", ms=5, color=color, mfc=face, mew=1.1, label=name)
            ax.plot(grid, law, line, color=color, lw=1.1)
            data[f"law {size:g} {kind:g}"] = pd.DataFrame({"N": size, "D": grid, "pretrained": kind, "loss": law})  # fmt: skip
    style.set_log_axis(ax.xaxis, "D")
    ax.set_xlim(*style.span(D))
    ax.set_xlabel("fine-tuning tokens D")
    ax.set_ylabel(style.loss_label(fit.runs.loss))
    ax.set_title(title or "Dashed: from scratch")
    ax.legend(title="parameters")
    style.remember(ax, data)


def _draw_worth(fit: Fit, sizes: list[float], colors: Any, ax: Axes) -> None:
    found = transferred(fit.runs)
    within = found[(found["reach"] == "within") & (found["D_T"] > 0)]
    grid = np.geomspace(found["D"].min(), found["D"].max(), 80)
    data = {"runs": found}
    p = fit.params
    for size in sizes:
        color, mine = colors.to_rgba(size), within[within["N"] == size]
        law = p["k"] * grid ** p["mu"] * size ** p["nu"]
        ax.plot(mine["D"], mine["D_T"], "o", ms=5, color=color, mec="white", mew=0.6)
        ax.plot(grid, law, color=color, lw=1.1)
        data[f"law {size:g}"] = pd.DataFrame({"N": size, "D": grid, "D_T": law})
    limits = style.span([*within["D_T"], *data[f"law {sizes[0]:g}"]["D_T"]], margin=0.25)
    ax.plot(grid, grid, ":", color=style.INK, lw=1)
    style.set_log_axis(ax.xaxis, "D")
    style.set_log_axis(ax.yaxis, "D")
    ax.set_xlim(*style.span(grid))
    ax.set_ylim(*limits)
    ax.set_xlabel("fine-tuning tokens D")
    ax.set_ylabel("tokens that pre-training is worth")
    out = len(found) - len(within)
    ax.set_title(f"Effective data transferred{f'; {out} runs outside' if out else ''}")
    style.remember(ax, data)
