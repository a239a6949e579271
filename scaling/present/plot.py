"""Every figure by name: `plot.isoflop(iso)`, `plot.frontier(iso, fit)`, `plot.curves(runs)` ...

Each takes `ax` and returns it; `plot.save` writes what they return, with its data as CSV beside it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from scaling.analysis.data.runs import Runs
from scaling.analysis.fits.fitting import Fit
from scaling.analysis.frontier.envelope import Envelope
from scaling.analysis.frontier.isoflops import IsoFlops
from scaling.present import style
from scaling.present.allocation import frontier, frontiers
from scaling.present.collapsing import collapse
from scaling.present.comparing import comparison
from scaling.present.correlations import correlations
from scaling.present.diagnostics import prediction, residual_panels, residuals
from scaling.present.disparity import gaps
from scaling.present.hindsight import backtest, drift, scoreboard
from scaling.present.inside import attention_grid, attention_head, lens_figure, onset
from scaling.present.isocurves import isoflop
from scaling.present.landscape import surface
from scaling.present.learning import curves, learning_rate
from scaling.present.leaving import waste
from scaling.present.likelihoods import profile, profiles
from scaling.present.link import link
from scaling.present.pretraining import pretraining
from scaling.present.sides import approaches, exponents, sizes
from scaling.present.spending import spending
from scaling.present.style import save, table_of
from scaling.present.transfer import transfer
from scaling.present.tuned import tuning
from scaling.present.universes import multiverse

__all__ = [
    "approaches", "attention_grid", "attention_head", "backtest", "collapse", "comparison",
    "correlations", "curves", "drift", "exponents", "frontier", "frontiers", "gaps", "isoflop",
    "learning_rate", "lens_figure", "link", "multiverse", "onset", "overview", "prediction",
    "pretraining", "profile", "profiles", "residual_panels", "residuals", "save", "scoreboard", "sizes",
    "spending", "surface", "table_of", "transfer", "tuning", "waste",
]  # fmt: skip


def overview(
    runs: Runs,
    fit: Fit,
    iso: IsoFlops | None = None,
    *,
    envelope: Envelope | None = None,
    target: float | None = None,
    verification: pd.DataFrame | None = None,
) -> Figure:
    """Draw the study on one page: training curves, IsoFLOP profiles, frontier, prediction.

    Args:
        runs: the runs; fit: a law with an optimum in N and D.
        iso: IsoFLOP minima; without them the second panel is the fitted surface.
        envelope, target, verification: as in the single figures.

    Returns:
        The figure, 11 by 8 inches.
    """
    with style.panels(2, 2, size=(11.0, 8.0)) as (figure, axes):
        (top_left, top_right), (low_left, low_right) = axes
        curves(runs, envelope=envelope, ax=top_left)
        if iso is not None:
            isoflop(iso, ax=top_right)
        else:
            surface(fit, target=target, verification=verification, ax=top_right)
        frontier(iso, fit, target=target, verification=verification, ax=low_left)
        _predict_or_residuals(fit, verification, low_right)
        for letter, ax in zip("abcd", axes.flat, strict=True):
            ax.set_title(f"{letter}  {ax.get_title(loc='left')}")
    return figure


def _predict_or_residuals(fit: Fit, verification: pd.DataFrame | None, ax: Any) -> None:
    if fit.law.optimum is not None:
        prediction(fit, verification, ax=ax)
    else:
        residuals(fit, verification=verification, ax=ax)
