"""From a configuration to runs, fit and IsoFLOP minima: what every verb of the analysis shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaling.cli import sweep_names
from scaling.study.config import FitConfig
from scaling.study.errors import FitError, RecordError, did_you_mean


@dataclass(frozen=True)
class Analysis:
    """Everything the verbs show: runs, law, IsoFLOP minima where the design has them.

    Args:
        folder: where the records are (or the table); out: where results are written.
        held: runs above `holdout_above`, kept out of the fit; None if none was asked for.
    """

    config: FitConfig
    folder: Path
    runs: Any
    fit: Any
    iso: Any | None
    iso_problem: str
    held: Any | None = None

    @property
    def out(self) -> Path:
        """The folder for what is written: `out`, else beside the records, else the current one."""
        if self.config.out:
            return Path(self.config.out)
        return self.folder if self.folder.is_dir() else Path()


def analyse(config: FitConfig) -> Analysis:
    """Load a sweep's records (or a table) and fit them as the configuration says."""
    from scaling.analysis.fits.fitting import fit
    from scaling.analysis.frontier.isoflops import fit_isoflops

    folder, runs = read_runs(config)
    runs, held = split_runs(runs, config.holdout_above)
    law = fit(runs, **fit_options(config))
    try:
        iso, problem = fit_isoflops(runs), ""
    except FitError as error:  # a grid or a ladder has no equal budgets; the law stands without
        iso, problem = None, str(error)
    return Analysis(config, folder, runs, law, iso, problem, held)


def analyse_groups(config: FitConfig) -> tuple[Path, Any]:
    """Fit each group of runs alone; returns where the runs are, and the fits."""
    from scaling.analysis.fits.groups import fit_groups

    folder, runs = read_runs(config)
    runs, _ = split_runs(runs, config.holdout_above)
    return folder, fit_groups(runs, by=config.group or "group", **fit_options(config))


def read_runs(config: FitConfig) -> tuple[Path, Any]:
    """Return where the runs are, and the runs in the conventions asked for."""
    from scaling.analysis.data.runs import load

    online = config.sweep.startswith("wandb:")
    folder = Path() if online else results_folder(config)
    params, flops = _conventions(config, folder)
    runs = load(config.sweep if online else folder, columns=config.columns, units=config.units)
    runs = runs.using(
        params=params, flops=flops, loss=config.loss, mixed=config.mixed, cost=config.cost
    )
    return folder, runs.where(**config.where) if config.where else runs


def fit_options(config: FitConfig) -> dict[str, Any]:
    """Return the keywords of `fit` that a configuration sets; the Python call takes the same."""
    options: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("law", "objective", "intervals", "resamples", "level", "seed", "fixed", "priors", "starts", "over", "weights")
    }  # fmt: skip
    return options if config.delta is None else options | {"delta": config.delta}


def split_runs(runs: Any, above: float | None) -> tuple[Any, Any | None]:
    """Split off the runs above a compute budget.

    Raises:
        FitError: nothing lies above it, or nothing below.
    """
    if above is None:
        return runs, None
    compute = runs.C
    beyond = np.asarray(compute > above)
    if not beyond.any() or beyond.all():
        raise FitError(
            f"holdout_above: {above:g} FLOPs leaves {int((~beyond).sum())} runs to fit and {int(beyond.sum())} to score; "
            f"the runs span {runs.C.min():.3g} to {runs.C.max():.3g}. Choose a budget between."
        )
    return runs.where(~beyond), runs.where(beyond)


def with_new_runs(analysis: Analysis) -> Analysis:
    """Return the same analysis with its table of runs read again, as after a verification run."""
    from scaling.analysis.data.runs import load

    runs = analysis.runs
    fresh = load(analysis.folder).using(
        params=runs.params,
        flops=runs.flops,
        loss=runs.loss,
        mixed=analysis.config.mixed,
        cost=runs.cost,
    )
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
    if Path(config.sweep).suffix:  # it reads as a file, so that training would not bring it
        beside = (
            sorted(f.name for f in Path(config.sweep).parent.glob("*.*"))
            if Path(config.sweep).parent.is_dir()
            else []
        )
        raise FitError(
            f"{config.sweep}: no such file.{did_you_mean(Path(config.sweep).name, beside)} Give the path of a table (.csv, .jsonl, .parquet), or the name of a sweep."
        )
    raise FitError(
        f"{inside}: no such folder, and no path {config.sweep!r}.{did_you_mean(config.sweep, [n for n in (*trained, *sweep_names()) if n != config.sweep])} "
        f"Train the sweep first: scaling train SWEEP. Results are there for: {', '.join(trained) or 'none'}."
    )


def sweep_question(folder: Path) -> str:
    """Return the question that the sweep file asked."""
    return (sweep_file(folder).get("design") or {}).get("question") or ""


def sweep_file(folder: Path) -> Mapping[str, Any]:
    """Read the copy of the sweep that was left beside its records; empty if there is none."""
    import yaml

    from scaling.analysis.data.bundles import Bundle, is_bundle

    path = folder / "sweep.yaml"
    bundled = Bundle(folder).text("sweep.yaml") if is_bundle(folder) else None
    if bundled is None and not path.is_file():
        return {}
    try:
        values = yaml.safe_load(path.read_bytes() if bundled is None else bundled)
    except (yaml.YAMLError, UnicodeDecodeError):
        values = None
    if not isinstance(values, dict):
        raise RecordError(
            f"{path}: damaged. Delete it; fit then counts as params= and flops= say, and training anew writes it again."
        )
    return values
