"""scaling status SWEEP [key=value ...]: which runs are done, running, waiting, failed or diverged.

  scaling status quickstart
  scaling status quickstart results=/shared/results

Reads records only; works beside any launcher and for any number of machines.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from scaling.cli import known_sweep, split_sweep
from scaling.cli.compose import compose_sweep
from scaling.cli.sweep import unique_plans
from scaling.study.errors import ConfigError, RecordError
from scaling.study.plan import RunPlan
from scaling.study.record import RunRecord, read_record
from scaling.study.table import Table
from scaling.study.units import format_duration, format_flops, format_quantity

SILENT_AFTER = 120.0  # s; a running record is refreshed every few seconds


def run_status(arguments: Sequence[str]) -> int:
    """Print the table of runs and one line of counts."""
    name, rest = split_sweep(arguments)
    if name is None:
        raise ConfigError("name a sweep, e.g. `scaling status quickstart`.")
    sweep = compose_sweep([f"sweeps={known_sweep(name)}", *rest])
    rows: list[tuple[str, ...]] = []
    counts: Counter[str] = Counter()
    for _, plan in unique_plans(sweep.points):
        state, record, note = run_state(plan)
        counts[state] += 1
        rows.append(_row(plan, state, record, note))
    folder = Path(str(sweep.base.results)) / sweep.name
    title = f"{sweep.name}: {', '.join(f'{n} {s}' for s, n in counts.items())} of {len(rows)} runs"
    header = ("run", "state", "N", "D", "C = 6ND", "progress", "loss", "time", "note")
    print(Table(header, rows, title=title, note=f"Records: {folder}"))
    return 0


def run_state(plan: RunPlan) -> tuple[str, RunRecord | None, str]:
    """Return a run's state, its record and a note.

    Returns:
        State: done, diverged, failed, running, interrupted (silent for two minutes), damaged, waiting.
    """
    try:
        record = read_record(plan.folder)
    except RecordError as error:
        if not (plan.folder / "run.json").exists():
            return "waiting", None, ""
        return "damaged", None, str(error)
    if record.status != "running":
        return record.status, record, record.reason or ""
    updated = datetime.fromisoformat(record.updated_at).timestamp() if record.updated_at else 0.0
    silent = time.time() - updated
    if silent > SILENT_AFTER:
        return (
            "interrupted",
            record,
            f"silent for {format_duration(silent)}; train the sweep again to continue",
        )
    return "running", record, record.reason or ""


def _row(plan: RunPlan, state: str, record: RunRecord | None, note: str) -> tuple[str, ...]:
    head = (
        plan.run_id,
        state,
        format_quantity(plan.params),
        format_quantity(plan.tokens),
        format_flops(plan.flops_6nd),
    )
    if record is None:
        return (*head, "-", "-", "-", note)
    progress = (record.steps or 0) / max(1, record.steps_planned or plan.steps)
    loss = "-" if record.val_loss is None else f"{record.val_loss:.4f}"
    return (*head, f"{100 * progress:.0f} %", loss, format_duration(record.seconds), note)
