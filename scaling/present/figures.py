"""All figures that a study allows, by file name: for `scaling plot` and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.analysis.audits.multiverse import Multiverse
from scaling.analysis.data.runs import Runs
from scaling.analysis.fits.fitting import Fit
from scaling.analysis.forecasts.backtesting import Backtest
from scaling.analysis.frontier.envelope import Envelope
from scaling.analysis.frontier.isoflops import IsoFlops
from scaling.analysis.frontier.sidebyside import Approaches
from scaling.present import plot, style

CAPTIONS = {
    "overview": "The study on one page.",
    "link": "The measure against the loss it is told from, with the law. Diamonds were not in the fit; the law is dashed beyond the others.",
    "curves": "Validation loss along every run; colour is size, the dashed line the lowest loss reached within each compute.",
    "isoflop": "Loss against size at equal compute. The star is the minimum of the curve, the bar its interval.",
    "frontier": "Optimal size and tokens against compute by both approaches. Dashed lines and paler bands lie beyond the runs.",
    "prediction": "The law's loss along the frontier and the held-out run: what was predicted for it and what was measured.",
    "residuals": "How far each run lies from the law. A law that fits leaves no pattern.",
    "surface": "The fitted loss over size and tokens, with the runs and the efficient path.",
    "profile": "How far the runs are from each value of a parameter once all others are refitted. A flat or open side is one the runs do not bound.",
    "approaches": "The exponent by every approach with its interval, and where each puts the optimal size.",
    "multiverse": "The optimal size in every fit, in order; below, the choices behind each, and how far each choice alone moves it.",
    "backtest": "Laws fitted to the smaller runs: their error on the larger ones, by how far these lie beyond the cut.",
    "drift": "The exponent as larger runs come into the fit; dotted is what all runs say.",
    "learning_rate": "Loss against the peak learning rate for each size and number of tokens.",
}


def draw_figures(
    runs: Runs, fit: Fit, iso: IsoFlops | None = None, *, envelope: Envelope | None = None,
    verification: pd.DataFrame | None = None, target: float | None = None, learning_rates: Runs | None = None, held: Runs | None = None,
    approaches: Approaches | None = None, universes: Multiverse | None = None, backtest: Backtest | None = None,
) -> dict[str, Callable[[], Any]]:  # fmt: skip
    """Return what draws each figure that these runs and this law allow, by name."""
    two_inputs, path = set(fit.law.inputs) == {"N", "D"}, fit.law.optimum is not None
    drawers: dict[str, tuple[bool, Callable[[], Any]]] = {
        "overview": (
            two_inputs,
            lambda: plot.overview(
                runs, fit, iso, envelope=envelope, target=target, verification=verification
            ),
        ),
        "link": (fit.law.inputs == ("x",), lambda: plot.link(fit, held)),
        "isoflop": (iso is not None, lambda: plot.isoflop(iso)),  # type: ignore[arg-type]
        "frontier": (
            path or iso is not None,
            lambda: plot.frontiers(iso, fit, target=target, verification=verification),
        ),
        "prediction": (path and two_inputs, lambda: plot.prediction(fit, verification)),
        "curves": (True, lambda: plot.curves(runs, envelope=envelope)),
        "surface": (
            two_inputs,
            lambda: plot.surface(fit, target=target, verification=verification),
        ),
        "residuals": (True, lambda: plot.residuals(fit, verification=verification)),
        "profile": (fit.intervals != "none", lambda: plot.profiles(fit)),
        "approaches": (approaches is not None, lambda: plot.approaches(approaches, target=target)),  # type: ignore[arg-type]
        "multiverse": (universes is not None, lambda: plot.multiverse(universes, quantity="N")),  # type: ignore[arg-type]
        "backtest": (backtest is not None, lambda: plot.backtest(backtest)),  # type: ignore[arg-type]
        "drift": (
            backtest is not None and bool(backtest.drift["a"].notna().any()),
            lambda: plot.drift(backtest),  # type: ignore[arg-type]
        ),
        "learning_rate": (learning_rates is not None, lambda: plot.learning_rate(learning_rates)),  # type: ignore[arg-type]
    }
    return {name: draw for name, (possible, draw) in drawers.items() if possible}


def save_figures(
    folder: str | Path, *, formats: Sequence[str] = ("png",), **study: Any
) -> list[Path]:
    """Draw and save every figure that a study allows, each with its data as CSV beside it.

    Args:
        folder: where to; made if missing.
        formats: of png, svg and pdf.
        study: runs, fit, iso and more, as `draw_figures` takes them.

    Returns:
        The pictures written, the overview first.
    """
    paths = []
    for name, draw in draw_figures(**study).items():
        drawn = draw()
        paths += [
            p for p in style.save(drawn, Path(folder) / name, formats=formats) if p.suffix != ".csv"
        ]
        style.close(drawn)
    return paths
