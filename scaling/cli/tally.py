"""How each run of a sweep stands, and the tables that say so: every run, or the sum of many."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.cli.planned import Planned
from scaling.study.ledger import Glance
from scaling.study.table import Table
from scaling.study.units import format_duration, format_flops, format_quantity

if TYPE_CHECKING:
    from scaling.cli.submissions import Queued

SILENT_AFTER = 120.0  # s; a running record is refreshed every few seconds
STATES = ("done", "running", "queued", "waiting", "interrupted", "diverged", "failed", "damaged")
ACTIVE = ("running", "queued", "waiting", "interrupted")  # something will come, or should
MOST_RUNS = 40  # more are condensed
MOST_ROWS = 15  # of one part of a condensed table
MOST_GROUPS = 20  # more are put together by powers of ten


@dataclass(frozen=True)
class RunLine:
    """One run in a table: what it is, and how far.

    Args:
        flops: 6ND; group: as in `Planned`; progress: share of the steps.
        speed: tokens/s; left: seconds, of a run that is under way.
    """

    run_id: str
    state: str
    note: str = ""
    params: int = 0
    tokens: int = 0
    flops: float = 0.0
    group: float = 0.0
    progress: float | None = None
    loss: float | None = None
    seconds: float | None = None
    speed: float | None = None
    left: float | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether nothing is at it, by the records."""
        return self.state in ("waiting", "interrupted")


def with_job(run: RunLine, ended: str | None) -> RunLine:
    """Add what became of the job that a stopped run was handed to."""
    if ended is None or not run.is_stopped:
        return run
    return replace(run, note="; ".join(filter(None, [run.note, ended])))


def stand(
    run: Planned, glance: Glance | None, folder: Path, queued: Queued | None = None
) -> RunLine:
    """Bring together what was planned, what the record says and what the queue says of a run."""
    state, note = state_of(glance, folder)
    if queued is not None and _may_go_on(state, queued):
        state, note = _queued_state(state, note, queued)
    line = RunLine(run.run_id, state, note, run.params, run.tokens, run.flops, run.group)
    if glance is None or state == "damaged":
        return line
    progress = (glance.steps or 0) / max(1, glance.steps_planned or run.steps)
    line = replace(line, progress=progress, loss=glance.val_loss, seconds=glance.seconds)
    if state != "running":
        return line
    return replace(line, speed=glance.tokens_per_second, left=_seconds_left(glance, progress))


def _may_go_on(state: str, queued: Queued) -> bool:
    """Whether a job says more of a run than its record; where nobody can be asked, a failed one is over."""
    if state == "failed":
        return queued.state != "unknown"
    return state in ("waiting", "interrupted", "running")


def _time_of(stamp: str | None) -> float:
    """Return a record's time [s]; long ago where it has none, or none that can be read."""
    with contextlib.suppress(ValueError, OverflowError):
        return datetime.fromisoformat(stamp or "").timestamp()
    return 0.0


def planned_of(name: str, glance: Glance) -> Planned:
    """Return what a record says was planned, for a folder without a sweep file."""
    params = glance.params or 0
    tokens = round(glance.tokens_target or glance.tokens or 0)
    flops = 6.0 * params * tokens
    return Planned(name, params, tokens, flops, glance.steps_planned or 1, params)


def find_repeats(runs: Sequence[Planned], glances: Mapping[str, Glance]) -> list[Planned]:
    """Return recorded runs that repeat diverged ones at a lower rate, each planned as what it repeats."""
    known = {run.run_id: run for run in runs}
    left = {n: g.retry_of for n, g in glances.items() if g.retry_of and n not in known}
    found: list[Planned] = []
    while ready := [name for name, first in left.items() if first in known]:
        for name in ready:  # one that repeats a repeat finds it known in the next round
            known[name] = replace(known[str(left.pop(name))], run_id=name)
            found.append(known[name])
    return found


def state_of(glance: Glance | None, folder: Path) -> tuple[str, str]:
    """Return the state of a run and a note.

    Returns:
        State: done, diverged, failed, running, interrupted (by a notice, or silent for two
        minutes and held by no process), damaged, waiting.
    """
    if glance is None:
        return "waiting", ""
    reason = glance.reason or ""
    if glance.status != "running":
        again = f"repeats {glance.retry_of} at a lower rate" if glance.retry_of else ""
        return glance.status, "; ".join(filter(None, [reason, again]))
    if reason.startswith("interrupted"):  # it said so itself as it left
        return "interrupted", reason
    silent = time.time() - _time_of(glance.updated_at)
    if silent <= SILENT_AFTER:
        return "running", reason
    from scaling.training.claim import find_holder  # a long evaluation or compilation is silent

    said = f"silent for {format_duration(silent)}"
    if holder := find_holder(folder):
        return "running", f"{said}, but {holder} is at it"
    return "interrupted", f"{said}; train the sweep again to continue"


def _queued_state(state: str, note: str, queued: Queued) -> tuple[str, str]:
    """What a job in a queue makes of a run's own state."""
    job = f"{queued.engine} job {queued.job}"
    if state == "running":
        return state, ", ".join(filter(None, [note, job]))
    reason = f" ({queued.reason})" if queued.reason else ""
    how = {"running": "has started", "pending": "waits"}.get(queued.state, "may wait")
    before = f"; {state} before: {note}" if note else ""
    return "queued", f"{job} {how}{reason}{before}"


def _seconds_left(glance: Glance, progress: float) -> float | None:
    """Estimate from the run's own time; runs stacked into one program share theirs."""
    if not progress or not glance.seconds:
        return None
    return glance.seconds * (glance.stacked or 1) * (1 - progress) / progress


def seconds_left(runs: Iterable[RunLine]) -> float | None:
    """Estimate when all is done if as much computes on as does now; null while nothing does."""
    rate = rest = 0.0
    for run in runs:
        share = run.progress or 0.0
        if run.state in ACTIVE:
            rest += run.flops * (1 - share)
        if run.state == "running" and run.left:
            rate += run.flops * (1 - share) / run.left
    return rest / rate if rate else None


def table(name: str, runs: Sequence[RunLine], folder: Path) -> Table:
    """Return one row per run; columns that no run fills are left out."""
    return Table(*_columns(runs), title=headline(name, runs), note=f"Records: {folder}")


def headline(name: str, runs: Sequence[RunLine]) -> str:
    """Return the counts of states, and when it will be over."""
    counts = Counter(run.state for run in runs)
    said = ", ".join(f"{counts[s]} {s}" for s in STATES if counts[s])
    left = seconds_left(runs)
    return f"{name}: {said} of {len(runs)} runs" + (f"; about {format_duration(left)} left at this rate" if left else "")  # fmt: skip


def condensed(name: str, runs: Sequence[RunLine], folder: Path, *, by: str) -> list[Table]:
    """Return the counts, what runs, what failed and why, and a summary by budget or size.

    Args:
        by: the unit of the runs' groups: FLOPs or parameters.
    """
    parts = [Table(*_summary(runs, by), title=headline(name, runs))]
    going = [r for r in runs if r.state == "running"]
    if going:
        going.sort(key=lambda r: r.left if r.left is not None else float("inf"))
        more = _more(len(going))
        parts.append(Table(*_columns(going[:MOST_ROWS]), title="Running, the next to end first", note=more))  # fmt: skip
    bad = [r for r in runs if r.state in ("interrupted", "diverged", "failed", "damaged", "queued")]
    if bad:
        rows = _reasons(bad)
        parts.append(Table(("state", "runs", "reason", "which"), rows[:MOST_ROWS], note=_more(len(rows))))  # fmt: skip
    last = "all=true lists every run."
    parts[-1] = replace(parts[-1], note="\n".join(filter(None, [parts[-1].note, f"Records: {folder}. {last}"])))  # fmt: skip
    return parts


def _more(count: int) -> str:
    return f"... and {count - MOST_ROWS} more" if count > MOST_ROWS else ""


def _columns(runs: Sequence[RunLine]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return header and rows of a table of single runs."""
    header = ("run", "state", "N", "D", "C = 6ND", "progress", "loss", "time", "tokens/s", "left", "note")  # fmt: skip
    rows = [_row(run) for run in runs]
    optional = {"tokens/s": "-", "left": "-", "note": ""}
    keep = [
        i for i, h in enumerate(header)
        if h not in optional or any(row[i] != optional[h] for row in rows)
    ]  # fmt: skip
    return tuple(header[i] for i in keep), [tuple(row[i] for i in keep) for row in rows]


def _row(run: RunLine) -> tuple[str, ...]:
    known = run.params > 0
    size = (format_quantity(run.params), format_quantity(run.tokens), format_flops(run.flops))
    progress = "-" if run.progress is None else f"{100 * run.progress:.0f} %"
    loss = "-" if run.loss is None else f"{run.loss:.4f}"
    return (
        run.run_id, run.state, *(size if known else ("-", "-", "-")), progress, loss,
        format_duration(run.seconds), format_quantity(run.speed), format_duration(run.left), run.note,
    )  # fmt: skip


def _summary(runs: Sequence[RunLine], by: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return counts and the range of losses by budget or size."""
    write = format_flops if by == "FLOPs" else format_quantity
    groups: dict[str, list[RunLine]] = {}
    many = len({run.group for run in runs}) > MOST_GROUPS
    for run in sorted(runs, key=lambda r: r.group):
        groups.setdefault(_decade(run.group, write) if many else write(run.group), []).append(run)
    states = [s for s in STATES if any(run.state == s for run in runs)]
    rows = []
    for label, members in groups.items():
        counts = Counter(run.state for run in members)
        losses = [run.loss for run in members if run.loss is not None and run.state == "done"]
        span = (f"{min(losses):.4f}", f"{max(losses):.4f}") if losses else ("-", "-")
        rows.append((label, str(len(members)), *(str(counts[s]) if counts[s] else "-" for s in states), *span))  # fmt: skip
    first = "C [FLOPs]" if by == "FLOPs" else "N"
    return (first, "runs", *states, "least loss", "most"), rows


def _decade(value: float, write: object) -> str:
    if value <= 0:
        return "-"
    power = int(f"{value:.15e}".split("e")[1])
    assert callable(write)
    return f"{write(10.0**power)} to {write(10.0 ** (power + 1))}"


def _reasons(runs: Sequence[RunLine]) -> list[tuple[str, ...]]:
    """Return one row per state and reason, the commonest first; numbers in a reason may differ."""
    groups: dict[tuple[str, str], list[RunLine]] = {}
    for run in runs:
        key = re.sub(r"\d+", "0", run.note.replace(run.run_id, ""))
        groups.setdefault((run.state, key), []).append(run)
    ordered = sorted(groups.items(), key=lambda g: (STATES.index(g[0][0]), -len(g[1])))
    return [
        (state, str(len(members)), members[0].note or "-", _which(members))
        for (state, _), members in ordered
    ]


def _which(runs: Sequence[RunLine]) -> str:
    names = ", ".join(run.run_id for run in runs[:2])
    return names + (f" and {len(runs) - 2} more" if len(runs) > 2 else "")


def changes(before: Mapping[str, RunLine], now: Mapping[str, RunLine]) -> list[str]:
    """Return a line for each run whose state has changed."""
    lines = []
    for name, run in now.items():
        old = before.get(name)
        if old is None or old.state != run.state:
            loss = f", loss {run.loss:.4f}" if run.loss is not None and run.state == "done" else ""
            lines.append(f"{name}: {run.state}{loss}" + (f" ({run.note})" if run.note else ""))
    return lines
