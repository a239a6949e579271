"""scaling status [SWEEP] [key=value ...]: which runs are done, running, waiting, failed or diverged.

  scaling status                                       every sweep of results/, with counts
  scaling status quickstart                            every run of a sweep, and the law so far
  scaling status quickstart --watch                    the same, live, until nothing runs or waits (q leaves)
  scaling status quickstart all=true                   every run; more than 40 are condensed otherwise
  scaling status quickstart fit=false                  without the law, which takes a second or two
  scaling status quickstart target.flops=1e14          is the law good enough to choose a size there?
  scaling status quickstart law=kaplan good_enough=1.2
  scaling status single                                a folder of results/ without a sweep file
  scaling status model.params=1M budget.tokens=20M     one run, by the keys it was trained with
  scaling status quickstart results=/shared/results

The law is good enough when the 90 % interval of the optimal size N* spans at most a factor of
good_enough (1.5), at the compute of the sweep's verify point, else at 10 times its largest budget;
target.flops= asks elsewhere.

Reads records only (and a cluster's queue, where runs were handed to one); works beside any launcher
and for any number of machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.cli import known_sweep, split_sweep, sweep_names, without_multirun
from scaling.cli.lawline import GOOD_ENOUGH, Question, law_line
from scaling.cli.options import is_true
from scaling.cli.planned import Planned, PlannedSweep, plan_sweep
from scaling.cli.tally import (
    MOST_RUNS,
    STATES,
    RunLine,
    condensed,
    find_repeats,
    planned_of,
    stand,
    state_of,
    table,
    with_job,
)
from scaling.study.config import FitConfig, RunConfig
from scaling.study.disk import disk_usage
from scaling.study.errors import ConfigError, did_you_mean
from scaling.study.ledger import Ledger
from scaling.study.table import Table
from scaling.study.units import format_bytes, parse_quantity

# keys of this verb; all others are a run's
OWN = {
    "all": "false", "fit": "true", "watch": "false", "every": "2", "law": FitConfig.law,
    "good_enough": str(GOOD_ENOUGH), "target.flops": "",
}  # fmt: skip
QUEUE_EVERY = 5  # looks between questions to a cluster's queue, which is shared by all its users


def run_status(arguments: Sequence[str]) -> int:
    """Print the table of runs and the law so far; without a name, a line for each sweep."""
    own, arguments = _take_own(arguments)
    name, rest = split_sweep(without_multirun(arguments))
    keys = [a for a in rest if not a.startswith("results=")]
    results = Path(_results(rest))
    if name is None and not keys:
        print(_overview(results))
        return 0
    board = _board(name, rest, keys, results)
    everything, with_law, question = is_true(own, "all"), is_true(own, "fit"), _question(own, board)
    if is_true(own, "watch"):
        _watch(board, question if with_law else None, everything=everything, every=own["every"])
        return 0
    runs = board.look()
    print(board.text(runs, everything=everything), flush=True)
    board.ledger.save()
    if with_law and len(runs) > 1:
        print(f"\n{board.law(question)}")
    return 0


@dataclass
class Board:
    """What one sweep's status is made of; `look` reads it again.

    Args:
        planned: the runs of a sweep file; null: those that have a record.
    """

    name: str
    folder: Path
    ledger: Ledger
    planned: PlannedSweep | None = None
    looks: int = 0
    queued: Mapping[str, Any] = field(default_factory=dict)
    ended: Mapping[str, str] = field(default_factory=dict)
    glances: dict[str, Any] = field(default_factory=dict)

    def look(self) -> list[RunLine]:
        """Return how every run stands now."""
        from scaling.cli.submissions import ended_runs, queued_runs

        self.glances = self.ledger.look()
        ask = self.looks % QUEUE_EVERY == 0
        if ask:
            self.queued = queued_runs(self.folder)
        self.looks += 1
        runs = self.planned.runs if self.planned else self._recorded()
        runs = [*runs, *find_repeats(runs, self.glances)]
        lines = [stand(run, self.glances.get(run.run_id), self.folder / run.run_id, self.queued.get(run.run_id)) for run in runs]  # fmt: skip
        if ask:
            self.ended = ended_runs(self.folder, [line.run_id for line in lines if line.is_stopped])
        return [with_job(line, self.ended.get(line.run_id)) for line in lines]

    def text(self, runs: list[RunLine], *, everything: bool = False) -> str:
        """Return the table of every run, or of many the sum."""
        if everything or len(runs) <= MOST_RUNS:
            return table(self.name, runs, self.folder).text()
        by = self.planned.by if self.planned else "parameters"
        return "\n\n".join(t.text() for t in condensed(self.name, runs, self.folder, by=by))

    def law(self, question: Question) -> str:
        """Return the line on the law so far."""
        return law_line(self.folder, question, self.glances, self.ledger.stamps())

    def _recorded(self) -> list[Planned]:
        return [planned_of(name, glance) for name, glance in self.glances.items()]


def _board(name: str | None, rest: Sequence[str], keys: Sequence[str], results: Path) -> Board:
    """Find the runs that a command line stands for."""
    if name is None or name in sweep_names():
        planned = plan_sweep(name, rest, results=str(results))
        folder = Path(planned.folder)
        return Board(planned.name, folder, Ledger(folder), planned)
    folder = _folder(name, results)
    if keys:
        raise ConfigError(
            f"{keys[0]}: {folder} is read from its records, as there is no sweep file of that name. Leave out all keys but results."
        )
    if (folder / "run.json").exists():  # one run: its sweep is the folder above
        board = Board(folder.name, folder.parent, Ledger(folder.parent))
        glances = board.ledger.look()
        run = planned_of(folder.name, glances[folder.name])
        board.planned = PlannedSweep(folder.name, str(folder.parent), [run], "parameters")
        return board
    board = Board(folder.name, folder, Ledger(folder))
    if not board.ledger.look():
        raise ConfigError(f"{folder}: no records. `scaling status` lists the sweeps that have any.")
    return board


def _watch(board: Board, question: Question | None, *, everything: bool, every: str) -> None:
    """Show the board until there is nothing more to see; with the law if there is a question to it."""
    from scaling.cli.watching import View, watch

    seconds = parse_quantity(every, key="every")
    if seconds <= 0:
        raise ConfigError(f"every: must be above 0 s; got {seconds:g}.")
    law: Callable[[], str] | None = (lambda: board.law(question)) if question else None
    view = View(
        board.name, board.look, lambda runs: board.text(runs, everything=everything), law, folder=board.folder,
    )  # fmt: skip
    watch(view, every=seconds)
    if board.folder.is_dir():
        board.ledger.save()


def _question(own: Mapping[str, str], board: Board) -> Question:
    """Return what is asked of the law.

    Raises:
        ConfigError: a number that is none, or out of bounds.
    """
    at = parse_quantity(own["target.flops"], key="target.flops") if own["target.flops"] else None
    if at is not None and at <= 0:
        raise ConfigError(f"target.flops: must be above 0 FLOPs; got {at:g}.")
    good_enough = parse_quantity(own["good_enough"], key="good_enough")
    if good_enough <= 1:
        raise ConfigError(f"good_enough: the ends of an interval have a ratio above 1; got {good_enough:g}.")  # fmt: skip
    return Question(own["law"], at or (board.planned.verify if board.planned else None), good_enough)  # fmt: skip


def _take_own(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Separate this verb's keys from those of runs."""
    own, rest = dict(OWN), []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument in ("--watch", "-w"):
            own["watch"] = "true"
        elif equals and key in OWN:
            own[key] = value.strip("'\"")
        else:
            rest.append(argument)
    return own, rest


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


def _overview(results: Path) -> Table:
    """One line per sweep that has records."""
    rows = []
    for folder in _subfolders(results):
        ledger = Ledger(folder)
        glances = ledger.look()
        counts = Counter(state_of(glance, folder / run)[0] for run, glance in glances.items())
        ledger.save()
        if counts:
            said = ", ".join(f"{counts[s]} {s}" for s in STATES if counts[s])
            rows.append((folder.name, str(counts.total()), format_bytes(disk_usage(folder)), said))
    if not rows:
        raise ConfigError(f"{results}: no records. Train something, or set results= to its folder.")
    note = "By records; `scaling status SWEEP` also counts runs that wait. Room: `scaling clean`."
    return Table(
        ("sweep", "runs", "on disk", "state"), rows, title=f"Records in {results}", note=note
    )
