"""All figures that a study allows, by file name: for `scaling plot` and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.analysis.audits.multiverse import Multiverse
from scaling.analysis.data.runs import Runs
from scaling.analysis.data.tuning import tuning_table
from scaling.analysis.fits.fitting import Fit
from scaling.analysis.forecasts.backtesting import Backtest
from scaling.analysis.forecasts.comparison import Comparison
from scaling.analysis.frontier.envelope import Envelope
from scaling.analysis.frontier.isoflops import IsoFlops
from scaling.analysis.frontier.normalised import Collapse, collapse
from scaling.analysis.frontier.sidebyside import Approaches
from scaling.present import plot, style, tuned
from scaling.study.errors import FitError, did_you_mean

CAPTIONS = {
    "overview": "The study on one page.",
    "link": "The measure against the loss it is told from, with the law. Diamonds were not in the fit; the law is dashed beyond the others.",
    "curves": "Validation loss along every run; colour is size, the dashed line the lowest loss reached within each compute.",
    "isoflop": "Loss against size at equal compute. The star is the minimum of the curve, the bar its interval.",
    "frontier": "Optimal size and tokens against compute by both approaches. Dashed lines and paler bands lie beyond the runs.",
    "prediction": "The law's loss along the frontier and the held-out run: what was predicted for it and what was measured.",
    "pretraining": "Runs from pre-trained weights beside runs from scratch, and the tokens that pre-training is worth; markers on the right are read off the runs without a law.",
    "curves_tokens": "The same against the tokens seen.",
    "residuals": "How far each run lies from the law, by compute, size and tokens. A law that fits leaves no pattern.",
    "surface": "The fitted loss over size and tokens, with the runs and the efficient path; shaded is what leaving it costs.",
    "waste": "The compute that a size off the optimum wastes, in percent of the least that reaches the same loss.",
    "correlations": "Correlations of the parameters, and the draws behind them. Where two are tied closely, the runs know only a combination.",
    "collapse": "Training curves near the efficient path, loss and compute over their ends. A curve that leaves the others has hyperparameters that do not fit its size.",
    "profile": "How far the runs are from each value of a parameter once all others are refitted. A flat or open side is one the runs do not bound.",
    "approaches": "The exponent by every approach with its interval, and where each puts the optimal size.",
    "multiverse": "The optimal size in every fit, in order; below, the choices behind each, and how far each choice alone moves it.",
    "backtest": "Laws fitted to the smaller runs: their error on the larger ones, by how far these lie beyond the cut.",
    "drift": "The exponent as larger runs come into the fit; dotted is what all runs say.",
    "comparison": "Laws fitted to the smaller runs, and their error on the larger ones.",
    "learning_rate": "Loss against the peak learning rate for each size and number of tokens.",
    "tuning": "Loss over learning rate and batch at one size and number of tokens.",
}

# What a figure needs that not every study has: said where one is asked for that cannot be drawn.
NEEDS = {
    "overview": "a law of N and D",
    "link": "a law that reads one loss, such as law=accuracy_from_loss with loss=accuracy",
    "isoflop": "budgets at which four sizes or more were trained, one of them with a minimum between",
    "frontier": "a law of N and D, or IsoFLOP minima",
    "prediction": "a law with an optimum in N and D",
    "pretraining": "the law transfer_loss: law=transfer_loss",
    "surface": "a law of N and D",
    "waste": "a law with an optimum in N and D",
    "profile": "intervals, so not intervals=none",
    "correlations": "intervals, so not intervals=none, and two parameters that are not held",
    "collapse": "training curves of two sizes or more within a factor 2 of the efficient path, and a law with a floor E",
    "approaches": "a law with an optimum in N and D",
    "multiverse": "a law with an optimum in N and D",
    "curves_tokens": "training curves: load the runs from their folders",
    "backtest": "runs at several compute budgets",
    "drift": "a law with the exponent a, and runs at several compute budgets",
    "comparison": "runs above a budget to hold out",
    "learning_rate": "runs of one size and number of tokens at three learning rates or more",
    "tuning": "six runs or more of one size and number of tokens over several learning rates and batches",
}


def draw_figures(
    runs: Runs, fit: Fit, iso: IsoFlops | None = None, *, envelope: Envelope | None = None,
    verification: pd.DataFrame | None = None, target: float | None = None, learning_rates: Runs | None = None, held: Runs | None = None,
    approaches: Approaches | None = None, universes: Multiverse | None = None, backtest: Backtest | None = None,
    comparison: Comparison | None = None,
) -> dict[str, Callable[[], Any]]:  # fmt: skip
    """Return what draws each figure that these runs and this law allow, by name."""
    two_inputs, path = set(fit.law.inputs) == {"N", "D"}, fit.law.optimum is not None
    collapsed = _collapse(fit) if path and two_inputs else None
    own = draw_runs(runs, iso, envelope=envelope, learning_rates=learning_rates)
    drawers: dict[str, tuple[bool, Callable[[], Any]]] = {
        "overview": (
            two_inputs,
            lambda: plot.overview(
                runs, fit, iso, envelope=envelope, target=target, verification=verification
            ),
        ),
        "link": (fit.law.inputs == ("x",), lambda: plot.link(fit, held)),
        "isoflop": ("isoflop" in own, own.get("isoflop", _nothing)),
        "frontier": (
            path or iso is not None,
            lambda: plot.frontiers(iso, fit, target=target, verification=verification),
        ),
        "prediction": (path and two_inputs, lambda: plot.prediction(fit, verification)),
        "pretraining": (fit.law.name == "transfer_loss", lambda: plot.pretraining(fit)),
        **{name: (name in own, own.get(name, _nothing)) for name in ("curves", "curves_tokens")},
        "collapse": (collapsed is not None, lambda: plot.collapse(collapsed)),  # type: ignore[arg-type]
        "surface": (
            two_inputs,
            lambda: plot.surface(fit, target=target, verification=verification),
        ),
        "waste": (path and two_inputs, lambda: plot.waste(fit, _budgets(fit, target))),
        "residuals": (
            True,
            lambda: (
                plot.residual_panels(fit, verification=verification)
                if "N" in fit.law.inputs
                else plot.residuals(fit, verification=verification)
            ),
        ),
        "profile": (fit.intervals != "none", lambda: plot.profiles(fit)),
        "correlations": (
            fit.intervals != "none" and len(fit.law.names) - len(fit.fixed) > 1,
            lambda: plot.correlations(fit),
        ),
        "approaches": (approaches is not None, lambda: plot.approaches(approaches, target=target)),  # type: ignore[arg-type]
        "multiverse": (universes is not None, lambda: plot.multiverse(universes, quantity="N")),  # type: ignore[arg-type]
        "backtest": (backtest is not None, lambda: plot.backtest(backtest)),  # type: ignore[arg-type]
        "drift": (
            backtest is not None and bool(backtest.drift["a"].notna().any()),
            lambda: plot.drift(backtest),  # type: ignore[arg-type]
        ),
        "comparison": (comparison is not None, lambda: plot.comparison(comparison, runs)),  # type: ignore[arg-type]
        **{name: (name in own, own.get(name, _nothing)) for name in ("learning_rate", "tuning")},
    }
    return {name: draw for name, (possible, draw) in drawers.items() if possible}


def draw_runs(
    runs: Runs, iso: IsoFlops | None = None, *, envelope: Envelope | None = None, learning_rates: Runs | None = None
) -> dict[str, Callable[[], Any]]:  # fmt: skip
    """Return what draws each figure that needs no law, by name: for runs too few to fit one."""
    swept = learning_rates or runs
    rates = learning_rates is not None or len(tuning_table(runs)) > 0
    drawers: dict[str, tuple[bool, Callable[[], Any]]] = {
        "isoflop": (iso is not None, lambda: plot.isoflop(iso)),  # type: ignore[arg-type]
        "curves": (True, lambda: plot.curves(runs, envelope=envelope)),
        "curves_tokens": (len(runs.curves()) > 0, lambda: plot.curves(runs, against="D")),
        "learning_rate": (rates, lambda: plot.learning_rate(swept)),
        "tuning": (_sweeps_both(swept), lambda: plot.tuning(swept)),
    }
    return {name: draw for name, (possible, draw) in drawers.items() if possible}


def save_figures(
    folder: str | Path, *, formats: Sequence[str] = ("png",), only: Sequence[str] = (),
    on_file: Callable[[Path], None] | None = None, on_problem: Callable[[str], None] | None = None, **study: Any,
) -> list[Path]:  # fmt: skip
    """Draw and save every figure that a study allows, each with its data as CSV beside it.

    Args:
        folder: where to; made if missing.
        formats: of png, svg and pdf.
        only: names of figures; all if empty.
        on_file: called with each picture once it is written; on_problem: with why a figure that was
            not named could not be drawn.
        study: runs, fit, iso and more, as `draw_figures` takes them; without a fit, what needs no law.

    Returns:
        The pictures written, the overview first.

    Raises:
        FitError: an unknown name, or a figure that this study does not allow, with what it needs.
    """
    check_names(only)
    known = ("runs", "iso", "envelope", "learning_rates")
    drawers = draw_figures(**study) if study.get("fit") is not None else draw_runs(**{k: v for k, v in study.items() if k in known})  # fmt: skip
    for name in only:
        if name not in drawers:
            raise FitError(f"figures: {name} needs {NEEDS.get(name, 'more than these runs have')}.")
    paths: list[Path] = []
    for name in only or drawers:
        try:
            drawn = drawers[name]()
        except FitError as error:
            if only or on_problem is None:
                raise
            on_problem(f"{name} is left out: {error}")
            continue
        paths += _save(drawn, Path(folder) / name, formats, on_file)
    return paths


def _save(
    drawn: Any, path: Path, formats: Sequence[str], on_file: Callable[[Path], None] | None
) -> list[Path]:
    """Write a figure and give it up; returns its pictures."""
    pictures = [p for p in style.save(drawn, path, formats=formats) if p.suffix != ".csv"]
    style.close(drawn)
    for picture in pictures if on_file is not None else ():
        on_file(picture)  # type: ignore[misc]
    return pictures


def check_names(names: Sequence[str]) -> None:
    """Refuse a figure that does not exist.

    Raises:
        FitError: names the figures there are.
    """
    for name in names:
        if name not in CAPTIONS:
            raise FitError(f"figures: {name!r} is none of {', '.join(CAPTIONS)}.{did_you_mean(name, CAPTIONS)}")  # fmt: skip


def _nothing() -> None:
    """Stand for what draws a figure that these runs do not allow."""


def _collapse(fit: Fit) -> Collapse | None:
    try:
        return collapse(fit)
    except FitError:  # no curves, or none near the path: the other figures stand without
        return None


def _sweeps_both(runs: Runs) -> bool:
    return {"lr", "batch_tokens"} <= set(runs.frame) and len(tuned.cells(runs)) > 0


def _budgets(fit: Fit, target: float | None) -> list[float] | None:
    """Return the ends of the runs and the planned budget; None, so those of the figure, without one."""
    return None if target is None else [fit.runs.C.min(), fit.runs.C.max(), target]
