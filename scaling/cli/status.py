"""scaling status [SWEEP] [key=value ...]: which runs are done, running, waiting, failed or diverged.

  scaling status                                       every sweep of results/, with counts
  scaling status quickstart                            every run of a sweep
  scaling status single                                a folder of results/ without a sweep file
  scaling status model.params=1M budget.tokens=20M     one run, by the keys it was trained with
  scaling status quickstart results=/shared/results

Reads records only; works beside any launcher and for any number of machines.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from scaling.cli import known_sweep, split_sweep, sweep_names, without_multirun
from scaling.cli.compose import compose_sweep
from scaling.cli.sweep import unique_plans
from scaling.study.config import RunConfig
from scaling.study.errors import ConfigError, RecordError, did_you_mean
from scaling.study.record import RunRecord, read_record
from scaling.study.table import Table
from scaling.study.units import format_duration, format_flops, format_quantity

SILENT_AFTER = 120.0  # s; a running record is refreshed every few seconds


def run_status(arguments: Sequence[str]) -> int:
    """Print the table of runs and one line of counts; without a name, a line for each sweep."""
    name, rest = split_sweep(without_multirun(arguments))
    keys = [a for a in rest if not a.startswith("results=")]
    results = Path(_results(rest))
    if name is None and not keys:
        print(_overview(results))
    elif name is None or name in sweep_names():
        print(_planned([*([f"sweeps={name}"] if name else []), *rest]))
    else:
        print(_recorded(_folder(name, results), keys))
    return 0


def _results(overrides: Sequence[str]) -> str:
    asked = [a.partition("=")[2].strip("'\"") for a in overrides if a.startswith("results=")]
    return asked[-1] if asked else RunConfig.results


def _folder(name: str, results: Path) -> Path:
    """Return the folder of records that a name stands for: below `results`, or a path.

    Raises:
        ConfigError: neither is there, nor a sweep file of that name.
    """
    for folder in (results / name, Path(name)):
        if folder.is_dir():
            return folder
    trained = [f.name for f in _subfolders(results)]
    if did_you_mean(name, trained):
        raise ConfigError(
            f"{results / name}: no such folder.{did_you_mean(name, trained)} `scaling status` lists what is there."
        )
    known_sweep(name)  # says which sweeps there are
    raise AssertionError("a known sweep is planned")


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _run_folders(folder: Path) -> list[Path]:
    """Return the folders of runs: this one, if it is a run's, else those below it."""
    if (folder / "run.json").exists():
        return [folder]
    return [f for f in _subfolders(folder) if (f / "run.json").exists()]


def _overview(results: Path) -> Table:
    """One line per sweep that has records."""
    rows = []
    for folder in _subfolders(results):
        counts = Counter(run_state(run)[0] for run in _run_folders(folder))
        if counts:
            said = ", ".join(f"{n} {s}" for s, n in counts.most_common())
            rows.append((folder.name, str(counts.total()), said))
    if not rows:
        raise ConfigError(f"{results}: no records. Train something, or set results= to its folder.")
    note = "By records; `scaling status SWEEP` also counts runs that wait."
    return Table(("sweep", "runs", "state"), rows, title=f"Records in {results}", note=note)


def _planned(overrides: Sequence[str]) -> Table:
    """Every run that a sweep file, or the command line, stands for."""
    sweep = compose_sweep(overrides)
    plans = [plan for _, plan in unique_plans(sweep.points)]
    rows = []
    for plan in plans:
        head = (plan.run_id, plan.params, plan.tokens, plan.flops_6nd, plan.steps)
        rows.append(_row(*head, *run_state(plan.folder)))
    return _table(sweep.name, rows, Path(str(sweep.base.results)) / sweep.name)


def _recorded(folder: Path, keys: Sequence[str]) -> Table:
    """Every run that has a record in a folder."""
    if keys:
        raise ConfigError(
            f"{keys[0]}: {folder} is read from its records, as there is no sweep file of that name. Leave out all keys but results."
        )
    runs = _run_folders(folder)
    if not runs:
        raise ConfigError(f"{folder}: no records. `scaling status` lists the sweeps that have any.")
    return _table(folder.name, [_recorded_row(run) for run in runs], folder)


def _recorded_row(folder: Path) -> tuple[str, ...]:
    state, record, note = run_state(folder)
    if record is None:
        return folder.name, state, "-", "-", "-", "-", "-", "-", note
    by_total = record.params_convention == "total"
    params = (record.params_total if by_total else record.params_non_embedding) or 0
    tokens = round(record.tokens_target or record.tokens or 0)
    return _row(
        folder.name, params, tokens, 6.0 * params * tokens, record.steps_planned or 1, state, record, note
    )  # fmt: skip


def _table(name: str, rows: Sequence[tuple[str, ...]], folder: Path) -> Table:
    counts = Counter(row[1] for row in rows)
    title = f"{name}: {', '.join(f'{n} {s}' for s, n in counts.items())} of {len(rows)} runs"
    header = ("run", "state", "N", "D", "C = 6ND", "progress", "loss", "time", "note")
    return Table(header, rows, title=title, note=f"Records: {folder}")


def run_state(folder: Path) -> tuple[str, RunRecord | None, str]:
    """Return the state of the run in a folder, its record and a note.

    Returns:
        State: done, diverged, failed, running, interrupted (by a notice, or silent for two
        minutes), damaged, waiting.
    """
    try:
        record = read_record(folder)
    except RecordError as error:
        if not (folder / "run.json").exists():
            return "waiting", None, ""
        return "damaged", None, str(error)
    reason = record.reason or ""
    if record.status != "running":
        return record.status, record, reason
    if reason.startswith("interrupted"):  # it said so itself as it left
        return "interrupted", record, reason
    updated = datetime.fromisoformat(record.updated_at).timestamp() if record.updated_at else 0.0
    silent = time.time() - updated
    if silent > SILENT_AFTER:
        note = f"silent for {format_duration(silent)}; train the sweep again to continue"
        return "interrupted", record, note
    return "running", record, reason


def _row(
    name: str,
    params: int,
    tokens: int,
    flops: float,
    steps: int,
    state: str,
    record: RunRecord | None,
    note: str,
) -> tuple[str, ...]:
    head = (name, state, format_quantity(params), format_quantity(tokens), format_flops(flops))
    if record is None:
        return (*head, "-", "-", "-", note)
    progress = (record.steps or 0) / max(1, record.steps_planned or steps)
    loss = "-" if record.val_loss is None else f"{record.val_loss:.4f}"
    return (*head, f"{100 * progress:.0f} %", loss, format_duration(record.seconds), note)
