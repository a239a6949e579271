"""scaling plot [SWEEP or TABLE] [key=value ...]: figures of the runs and the law fitted to them.

  scaling plot quickstart                               results/quickstart/figures/*.png, each with its CSV
  scaling plot quickstart formats=png,svg,pdf           for a paper: fonts are embedded
  scaling plot quickstart figures=isoflop,frontier target.flops=1e15        these two, a plan marked
  scaling plot runs.csv out=mine holdout_above=1e12 figures=comparison      mine/figures/comparison.png
  scaling plot quickstart x=energy cost.watts=400       lowest loss against energy: loss_by_energy.png

Draws what the runs allow: overview, curves, curves_tokens, isoflop, frontier, prediction, surface,
waste, residuals, profile, correlations, collapse, learning_rate, tuning; link of a law from a loss to a
measure; pretraining of law=transfer_loss. By name only, for they fit many laws: approaches, comparison,
backtest, drift, multiverse; figures=all draws these too. docs/figures.md shows each. Keys are those of `scaling fit --help`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scaling.cli.analyse import Analysis, analyse, read_runs
from scaling.cli.fit import read_config, stated
from scaling.study.config import FitConfig
from scaling.study.errors import FitError

SAME = 0.05  # budgets closer than this, in logarithms, are one


def run_plot(arguments: Sequence[str]) -> int:
    """Draw every figure the runs allow, or those named."""
    config = read_config(arguments)
    if config.format is not None:
        raise FitError(
            f"format: is of `scaling fit`; figures have formats=. Write formats={config.format}."
        )
    names, formats = parse_figures(config.figures), _split(config.formats)
    _check_formats(formats)
    try:
        analysis = analyse(config)
    except FitError as error:
        return _draw_runs(config, names, formats, error)
    if config.x:
        print(_save_spending(analysis, config.x, formats))
        return 0
    save_figures(
        analysis,
        verification=stated(analysis),
        names=names,
        formats=formats,
        on_file=print,
        on_problem=_say,
    )
    return 0


def _draw_runs(config: FitConfig, names: Sequence[str] | None, formats: Sequence[str], error: FitError) -> int:  # fmt: skip
    """Draw what needs no law, where none could be fitted: curves of a sweep that has just begun.

    Raises:
        FitError: the one given, if there is no run either, or a figure is named that needs a law.
    """
    from scaling.analysis.frontier.isoflops import fit_isoflops
    from scaling.present.figures import draw_runs
    from scaling.present.figures import save_figures as save

    folder, runs = read_runs(config)  # what is wrong with the runs themselves is said here
    try:
        iso = fit_isoflops(runs)
    except FitError:
        iso = None
    if config.x or not set(names or ()) <= set(draw_runs(runs, iso)):
        raise error
    out = Path(config.out) if config.out else folder if folder.is_dir() else Path()
    _say(f"no law is fitted, so these figures are without one. {error}")
    save(out / "figures", formats=formats, only=names or (), on_file=print, on_problem=_say, runs=runs, iso=iso)  # fmt: skip
    return 0


def _say(text: str) -> None:
    print(f"scaling plot: {text}", file=sys.stderr)


def parse_figures(text: str | None) -> tuple[str, ...] | None:
    """Read `isoflop,frontier` or `all`; None for those that are drawn unless others are named.

    Raises:
        FitError: a figure that does not exist.
    """
    if text is None:
        return None
    from scaling.present.figures import CAPTIONS, check_names

    names = _split(text)
    if "all" in names:
        return tuple(CAPTIONS)
    check_names(names)
    return tuple(dict.fromkeys(names))


def save_figures(
    analysis: Analysis, *, names: Sequence[str] | None = None, formats: Sequence[str] = ("png",),
    on_file: Callable[[Path], None] | None = None, on_problem: Callable[[str], None] | None = None, **extra: Any,
) -> list[Path]:  # fmt: skip
    """Draw and save the figures; returns their paths.

    Args:
        names: which; None for all that these runs allow without fitting further laws.
        formats: of png, svg, pdf; on_file, on_problem: called with each picture once it is there, and with why one is left out.
        extra: as `draw_figures` takes it.
    """
    from scaling.present.figures import CAPTIONS, draw_figures
    from scaling.present.figures import save_figures as save

    study = {
        "runs": analysis.runs, "fit": analysis.fit, "iso": analysis.iso, "held": analysis.held,
        "target": analysis.config.target.flops, **extra,
    } | further(analysis, names or ())  # fmt: skip
    only = names or ()
    if names is not None and set(names) == set(CAPTIONS):  # all: what is impossible is left out
        only = tuple(draw_figures(**study))
    return save(
        analysis.out / "figures",
        formats=formats,
        only=only,
        on_file=on_file,
        on_problem=on_problem,
        **study,
    )


def further(analysis: Analysis, names: Sequence[str]) -> dict[str, Any]:
    """Make what the named figures show beyond one law: other approaches, choices, laws, cuts."""
    config, runs = analysis.config, _all_runs(analysis)
    law, objective = config.law, analysis.fit.objective.name
    made: dict[str, Any] = {}
    if not set(names) & {"approaches", "multiverse", "backtest", "drift", "comparison"}:
        return made
    from scaling.analysis.audits.multiverse import sensitivity
    from scaling.analysis.forecasts.backtesting import LAWS, backtest
    from scaling.analysis.forecasts.comparison import compare
    from scaling.analysis.frontier.sidebyside import approaches

    steps: dict[str, tuple[set[str], Callable[[], Any]]] = {
        "approaches": ({"approaches"}, lambda: approaches(runs, config.target.flops, law=law, objective=objective, level=config.level, seed=config.seed)),
        "backtest": ({"backtest", "drift"}, lambda: backtest(runs, list(dict.fromkeys([law, *LAWS])), objective=objective, level=config.level)),
        "comparison": ({"comparison"}, lambda: compare(runs, list(dict.fromkeys([law, "chinchilla", "chinchilla_k", "kaplan"])), holdout_above=_border(config, runs), objective=objective)),
        "universes": ({"multiverse"}, lambda: sensitivity(runs)),
    }  # fmt: skip
    with _progress() as say:
        for number, (name, (figures, make)) in enumerate(steps.items()):
            if not figures & set(names):
                continue
            say(name, number / len(steps))
            try:
                made[name] = make()
            except FitError:
                if len(names) == 1:  # asked for this alone: its own words say most
                    raise
    return made


def _all_runs(analysis: Analysis) -> Any:
    """Return the runs with those held out of the fit; further laws split them for themselves."""
    if analysis.held is None:
        return analysis.runs
    return read_runs(analysis.config)[1]


def _border(config: FitConfig, runs: Any) -> float:
    """Return the compute above which laws are compared: as asked, else the gap nearest half way up."""
    import numpy as np

    if config.holdout_above is not None:
        return config.holdout_above
    place = np.sort(np.log(runs.C))
    gaps = np.flatnonzero(np.diff(place) > SAME)
    if not len(gaps):
        raise FitError("comparison: all runs have one compute; laws are compared on larger runs than they were fitted to. Add a budget.")  # fmt: skip
    middles = (place[gaps] + place[gaps + 1]) / 2
    return float(np.exp(middles[np.abs(middles - (place[0] + place[-1]) / 2).argmin()]))


def _progress() -> Any:
    from scaling.cli.progress import step_progress

    return step_progress("fitting further laws")


def _split(text: str) -> tuple[str, ...]:
    return tuple(n.strip().lower() for n in text.strip("[]").split(",") if n.strip())


def _check_formats(formats: Sequence[str]) -> None:
    """Refuse a format before the work, so that a typo costs nothing."""
    from scaling.present.style import check_formats

    check_formats(formats)


def _save_spending(analysis: Analysis, axis: str, formats: Sequence[str]) -> Path:
    """Draw the lowest loss against what is paid; returns the picture's path."""
    from scaling.present import plot

    drawn = plot.spending(analysis.fit, axis=axis, speed=analysis.config.cost.speed)
    return plot.save(drawn, analysis.out / "figures" / f"loss_by_{axis}", formats=formats)[0]
