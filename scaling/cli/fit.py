"""scaling fit | plot | report [SWEEP or TABLE] [key=value ...]: from records to law, figures, page.

  scaling fit quickstart                                law, IsoFLOP minima, optimum at larger compute
  scaling fit quickstart law=chinchilla_k objective=mse_log intervals=delta
  scaling fit runs.csv columns.n_million=params units.params=M columns.final=val_loss
  scaling fit runs.csv "columns.params (M)=params"      a name with spaces, in quotes
  scaling fit runs.csv group=dataset                    each group alone, side by side
  scaling fit runs.csv fixed.E=1.7 priors=true holdout_above=1e21
  scaling fit quickstart target.params=1M target.tokens=20M      loss predicted for one run
  scaling fit quickstart target.loss=2.0                         least compute that reaches it
  scaling fit quickstart target.loss=2.0 target.inference=1T     cheapest to train and then use
  scaling fit quickstart target.flops=1e15 target.unique=10M     best size when text runs out
  scaling fit quickstart cost.watts=400 cost.rate=2.5 cost.currency=EUR      what the optimum costs
  scaling fit quickstart out=tables format=markdown,latex,csv    fit.json and tables for a paper
  scaling plot quickstart                               results/quickstart/figures/*.png
  scaling report quickstart                             results/quickstart/report.html

Each key is the argument of the same name in Python: scaling.fit(scaling.load(...), law=..., ...).
The mapping of a table's columns may also lie beside it, in runs.columns.yaml for runs.csv.

Keys:
{keys}
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling.cli import split_sweep
from scaling.cli.analyse import (
    Analysis,
    analyse,
    analyse_groups,
    results_folder,
    sweep_file,
    sweep_question,
    with_new_runs,
)
from scaling.cli.compose import compose_fit
from scaling.study.config import FitConfig, Key, config_keys
from scaling.study.errors import FitError
from scaling.study.pages import more_on_warnings
from scaling.study.table import Table
from scaling.study.units import format_flops

__all__ = ["Analysis", "analyse", "describe", "results_folder", "save_report", "sweep_file", "with_new_runs"]  # fmt: skip

_WIDTH = max(len(k.name) for k in config_keys(FitConfig))


def _key_lines(key: Key) -> str:
    """One key of the help: name, sentence, unit, choices and default, wrapped beside the name."""
    unit = f" [{key.unit}]" if key.unit else ""
    choices = f" {' | '.join(key.choices)}." if key.choices else ""
    default = "" if key.default is None else f" Default {str(key.default).lower()}."
    lines = textwrap.wrap(f"{key.text}{unit}{choices}{default}", 96 - _WIDTH)
    return f"  {key.name:{_WIDTH}}  " + f"\n{'':{_WIDTH + 4}}".join(lines)


__doc__ = (__doc__ or "").replace("{keys}", "\n".join(map(_key_lines, config_keys(FitConfig))))

# what `scaling VERB --help` says of the verbs that share this module
HELPS = {
    "report": """scaling report [SWEEP or TABLE] [key=value ...]: one page that opens in a browser.

  scaling report quickstart                             results/quickstart/report.html
  scaling report runs.csv out=mine law=chinchilla       mine/report.html

The page holds the question, the verdict with its warnings, figures to point at and zoom, a table of
runs that sorts, filters and leads to their curves, the fit, the next sweep, and how to repeat and
cite it. It needs no network and no server: send the file.
Keys are those of `scaling fit --help`.""",
}


def run_fit(arguments: Sequence[str]) -> int:
    """Print the law with its intervals, IsoFLOP minima, optimum and decisions; write what is asked."""
    from scaling.analysis.writing import make_folder, parse_formats, write_results

    config = read_config(arguments)
    formats = parse_formats(config.format)  # before the work, so that a typo costs nothing
    if config.out:
        make_folder(config.out)
    if config.group:
        return _fit_groups(config, formats)
    analysis = analyse(config)
    tables = decide(analysis)
    told = "\n\n".join(t.text() for t in [analysis.fit.summary(), *tables])
    print("\n".join(filter(None, [told, more_on_warnings(told)])))
    paths = write_results(analysis.fit, tables, analysis.out, formats=formats)
    print("\nSaved: " + ", ".join(map(str, paths)))
    return 0


def _fit_groups(config: FitConfig, formats: Sequence[str]) -> int:
    """Fit each group alone; print them side by side and write one set of files per group."""
    from scaling.analysis.writing import write_results

    folder, groups = analyse_groups(config)
    print(groups.summary().text())
    out = Path(config.out) if config.out else folder if folder.is_dir() else Path()
    paths = []
    for label, fit in groups:
        stem = "fit_" + "".join(c if c.isalnum() or c in "-." else "_" for c in str(label))
        paths += write_results(fit, [], out, formats=formats, stem=stem)
    print("\nSaved: " + ", ".join(map(str, paths)))
    return 0


def run_report(arguments: Sequence[str]) -> int:
    """Write the self-contained page."""
    analysis = analyse(read_config(arguments))
    typed = shlex.join(["scaling", "report", *(a for a in arguments if not a.startswith("out="))])
    path = save_report(analysis, verification=stated(analysis), command=typed)
    print(f"Open in a browser: {path}")
    return 0


def stated(analysis: Analysis) -> Any:
    """Return the check of a prediction that was stated beside the records; a table has none."""
    from scaling.cli.verify import stated_check

    return stated_check(analysis) if analysis.folder.is_dir() else None


def read_config(arguments: Sequence[str]) -> FitConfig:
    """Return the configuration of a command line."""
    return compose_fit(*split_sweep(arguments))


def describe(analysis: Analysis) -> str:
    """Return the fit in text: parameters, IsoFLOP minima, optimum, target, warnings."""
    return "\n\n".join(t.text() for t in [analysis.fit.summary(), *decide(analysis)])


def decide(analysis: Analysis) -> list[Table]:
    """Return the tables beside the parameters: minima, optimum, what was asked, held-out runs."""
    from scaling.analysis.allocation import decisions, lifetime

    fit, target = analysis.fit, analysis.config.target
    tables = [analysis.iso.summary()] if analysis.iso is not None else []
    budgets = (
        [target.flops]
        if target.flops
        else [k * float(max(analysis.runs.C)) for k in (1, 10, 100, 1000)]
    )
    if {"N", "D"} <= set(fit.law.inputs) <= {"N", "D", "C", "M"}:
        tables.append(decisions.best_size(fit, budgets).summary())
        tables += _costs(analysis, budgets)
    if target.params and target.tokens:
        tables.append(fit.predict(N=target.params, D=target.tokens).table())
    if target.loss:
        tables.append(decisions.smallest_compute(fit, loss=target.loss).summary())
    if target.inference:
        tables.append(
            lifetime.cheapest_lifetime(
                fit, inference_tokens=target.inference, **_quality(analysis, budgets[0])
            ).summary()
        )
    if target.unique:
        tables.append(lifetime.data_limited(fit, budgets, unique=target.unique).summary())
    return [*tables, *([_held_out(analysis, analysis.held)] if analysis.held is not None else [])]


def _costs(analysis: Analysis, budgets: Sequence[float]) -> list[Table]:
    """Return what the optimum costs, where more than FLOPs is known of that."""
    from scaling.analysis.allocation.spending import is_priced, optimum_costs

    speed = analysis.config.cost.speed
    if not is_priced(analysis.runs, speed=speed):
        return []
    return [optimum_costs(analysis.fit, budgets, speed=speed).summary()]


def _quality(analysis: Analysis, budget: float) -> dict[str, Any]:
    """Which quality a model for inference should have: a loss, a model, or the best at a budget."""
    target = analysis.config.target
    if target.loss:
        return {"loss": target.loss}
    if target.params and target.tokens:
        return {"quality_of": (target.params, target.tokens)}
    best = analysis.fit.optimal(budget).iloc[0]
    return {"quality_of": (best["N"], best["D"])}


def _held_out(analysis: Analysis, held: Any) -> Table:
    """How the fit predicts the larger runs that it has not seen."""
    import numpy as np

    fit = analysis.fit
    own = {k: held.column(fit.law.columns.get(k, k)) for k in fit.law.inputs if k not in "NDCM"}
    p = fit.predict(**own) if own else fit.predict(N=held.N, D=held.D)
    error = np.asarray(p.loss) / held.L - 1.0
    inside = int(p.contains(held.L).sum())
    rows = [
        ["runs held out", str(len(held.L))],
        ["largest compute, as a multiple of the largest fitted", f"{held.C.max() / fit.runs.C.max():.3g}"],
        ["mean error of the loss", f"{100 * error.mean():+.2g} %"],
        ["mean absolute error", f"{100 * np.abs(error).mean():.2g} %"],
        [f"inside the {100 * fit.level:g} % interval of one run", f"{inside} of {len(held.L)}"],
    ]  # fmt: skip
    title = f"Runs above {format_flops(analysis.config.holdout_above)} FLOPs, predicted by {fit.law.name}"
    return Table(["", "value"], rows, title=title, note=f"{held.conventions}.")


def save_report(analysis: Analysis, *, verification: Any = None, command: str = "") -> Path:
    """Write the report page; returns its path."""
    from scaling.cli.gallery import make_gallery
    from scaling.cli.next import propose
    from scaling.cli.progress import figure_progress
    from scaling.present.report import write_report

    try:
        proposal = propose(analysis)
    except FitError as error:  # a law without an optimum, a convention that cannot be aimed at
        proposal = f"None is proposed: {error}"
    sweep, folder = analysis.config.sweep, str(analysis.folder)
    with figure_progress() as on_figure:
        return write_report(
            analysis.out / "report.html", runs=analysis.runs, fit=analysis.fit, iso=analysis.iso,
            verification=verification, question=sweep_question(analysis.folder),
            gallery=make_gallery(analysis.folder), proposal=proposal, command=command,
            sweep=sweep, source=sweep if sweep.startswith("wandb:") else folder, on_figure=on_figure,
        )  # fmt: skip
