"""scaling fit | plot | report | next [SWEEP] [key=value ...]: from records to law, figures, page.

  scaling fit quickstart                                law, IsoFLOP minima, optimum at larger compute
  scaling fit quickstart law=chinchilla_k objective=mse_log intervals=delta
  scaling fit quickstart target.params=1M target.tokens=20M        loss predicted for one run
  scaling plot quickstart                               results/quickstart/figures/*.png
  scaling report quickstart                             results/quickstart/report.html
  scaling next quickstart target.flops=1e13             sweeps/quickstart_next.yaml

Keys: {keys}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaling.cli import split_sweep, sweep_names
from scaling.cli.compose import compose_fit
from scaling.study.config import FitConfig, config_keys
from scaling.study.errors import FitError, RecordError, did_you_mean
from scaling.study.table import Table
from scaling.study.units import format_flops, format_quantity, format_with_interval

_WIDTH = max(len(k.name) for k in config_keys(FitConfig))
__doc__ = (__doc__ or "").replace(
    "{keys}",
    "\n"
    + "\n".join(
        f"  {k.name:{_WIDTH}}  {k.text}{' [' + k.unit + ']' if k.unit else ''}"
        + (f" {' | '.join(k.choices)};" if k.choices else "")
        + f" default {k.default}"
        for k in config_keys(FitConfig)
    ),
)


@dataclass(frozen=True)
class Analysis:
    """Everything the verbs show: runs, law, IsoFLOP minima where the design has them."""

    config: FitConfig
    folder: Path
    runs: Any
    fit: Any
    iso: Any | None
    iso_problem: str


def analyse(config: FitConfig) -> Analysis:
    """Load a sweep's records and fit them as the configuration says."""
    from scaling.analysis.fitting import fit
    from scaling.analysis.isoflops import fit_isoflops
    from scaling.analysis.runs import load

    folder = results_folder(config)
    params, flops = _conventions(config, folder)
    runs = load(folder).using(params=params, flops=flops, loss=config.loss)
    law = fit(
        runs,
        law=config.law,
        objective=config.objective,
        intervals=config.intervals,
        resamples=config.resamples,
        level=config.level,
        seed=config.seed,
    )
    try:
        iso, problem = fit_isoflops(runs), ""
    except (
        FitError
    ) as error:  # a grid or a ladder has no equal budgets; the law stands without them
        iso, problem = None, str(error)
    return Analysis(config, folder, runs, law, iso, problem)


def with_new_runs(analysis: Analysis) -> Analysis:
    """Return the same analysis with its table of runs read again, as after a verification run."""
    from scaling.analysis.runs import load

    runs = analysis.runs
    fresh = load(analysis.folder).using(params=runs.params, flops=runs.flops, loss=runs.loss)
    return replace(analysis, runs=fresh)


def _conventions(config: FitConfig, folder: Path) -> tuple[str | None, str | None]:
    """Return N and C as asked for, else as the sweep counted its sizes and budgets."""
    sweep = sweep_file(folder)
    params = config.params or (sweep.get("model") or {}).get("params_convention")
    return params, config.flops or (sweep.get("budget") or {}).get("convention")


def results_folder(config: FitConfig) -> Path:
    """Return the folder (or table) that the sweep names: under `results`, or a path of its own."""
    inside = Path(config.results) / config.sweep
    if inside.is_dir():
        return inside
    if Path(config.sweep).exists():
        return Path(config.sweep)
    root = Path(config.results)
    trained = sorted(f.name for f in root.iterdir() if f.is_dir()) if root.is_dir() else []
    raise FitError(
        f"{inside}: no such folder, and no path {config.sweep!r}.{did_you_mean(config.sweep, [*trained, *sweep_names()])} "
        f"Train the sweep first: scaling train SWEEP. Results are there for: {', '.join(trained) or 'none'}."
    )


def run_fit(arguments: Sequence[str]) -> int:
    """Print the law with its intervals, the IsoFLOP minima and the optimum at larger budgets."""
    analysis = analyse(_config(arguments))
    print(describe(analysis))
    path = analysis.fit.save(
        analysis.folder / "fit.json" if analysis.folder.is_dir() else "fit.json"
    )
    print(f"\nSaved: {path}")
    return 0


def run_plot(arguments: Sequence[str]) -> int:
    """Draw every figure the runs allow."""
    from scaling.cli.verify import stated_check

    analysis = analyse(_config(arguments))
    for path in save_figures(analysis, verification=stated_check(analysis)):
        print(path)
    return 0


def run_report(arguments: Sequence[str]) -> int:
    """Write the self-contained page."""
    from scaling.cli.verify import stated_check

    analysis = analyse(_config(arguments))
    path = save_report(analysis, verification=stated_check(analysis))
    print(f"Open in a browser: {path}")
    return 0


def run_next(arguments: Sequence[str]) -> int:
    """Propose the next sweep and write it as a file that `scaling train` reads."""
    from scaling.analysis.design import next_sweep

    config = _config(arguments)
    analysis = analyse(config)
    budgets = (
        [config.target.flops]
        if config.target.flops
        else [c * max(analysis.runs.C) for c in (3, 10)]
    )
    path = Path("sweeps") / f"{Path(config.sweep).name}_next.yaml"
    path.parent.mkdir(exist_ok=True)
    next_sweep(analysis.fit, C=budgets, points=config.points).save(path)
    print(f"{path}\nTrain it: scaling train {path.stem}")
    return 0


def _config(arguments: Sequence[str]) -> FitConfig:
    return compose_fit(*split_sweep(arguments))


def describe(analysis: Analysis) -> str:
    """Return the fit in text: parameters, IsoFLOP minima, optimum, target, warnings."""
    parts = [analysis.fit.summary().text()]
    if analysis.iso is not None:
        parts.append(analysis.iso.summary().text())
    parts.append(optimum_table(analysis).text())
    target = analysis.config.target
    if target.params and target.tokens:
        parts.append(analysis.fit.predict(N=target.params, D=target.tokens).table().text())
    return "\n\n".join(parts)


def optimum_table(analysis: Analysis) -> Table:
    """Compute-optimal N, D and loss at the asked or at growing budgets."""
    target = analysis.config.target.flops
    budgets = [target] if target else [k * float(max(analysis.runs.C)) for k in (1, 10, 100, 1000)]
    rows = []
    for row in analysis.fit.optimal(budgets).to_dict("records"):
        cells = [format_flops(row["C"])]
        for name in ("N", "D", "tokens_per_param"):
            lo, hi = row.get(f"{name}_lo"), row.get(f"{name}_hi")
            cells.append(
                format_quantity(row[name])
                + (f" [{format_quantity(lo)}, {format_quantity(hi)}]" if lo is not None else "")
            )
        cells.append(
            " ".join(format_with_interval(row["loss"], row.get("loss_lo"), row.get("loss_hi")))
        )
        rows.append(cells)
    return Table(
        ("C [FLOPs]", "N*", "D*", "tokens/param", "loss [nats/token]"), rows,
        title=f"Compute-optimal allocation, {analysis.fit.law.name} ({analysis.runs.conventions})",
    )  # fmt: skip


def save_figures(analysis: Analysis, **extra: Any) -> list[Path]:
    """Draw and save the figures; returns their paths."""
    from scaling.present.figures import save_figures as save

    return save(
        analysis.folder / "figures", runs=analysis.runs, fit=analysis.fit, iso=analysis.iso, **extra
    )


def save_report(analysis: Analysis, *, verification: Any = None) -> Path:
    """Write the report page; returns its path."""
    from scaling.present.report import write_report

    return write_report(
        analysis.folder / "report.html", runs=analysis.runs, fit=analysis.fit, iso=analysis.iso,
        verification=verification, question=sweep_question(analysis.folder),
    )  # fmt: skip


def sweep_question(folder: Path) -> str:
    """Return the question that the sweep file asked."""
    return (sweep_file(folder).get("design") or {}).get("question") or ""


def sweep_file(folder: Path) -> dict[str, Any]:
    """Read the copy of the sweep that was left beside its records; empty if there is none."""
    import yaml

    path = folder / "sweep.yaml"
    if not path.is_file():
        return {}
    try:
        values = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError):
        values = None
    if not isinstance(values, dict):
        raise RecordError(
            f"{path}: damaged. Delete it; fit then counts as params= and flops= say, and training anew writes it again."
        )
    return values
