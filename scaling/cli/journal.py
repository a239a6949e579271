"""Decisions of `scaling auto`, written down: what was known, chosen, expected, and what came.

`decisions.jsonl` is what a new start reads; `decisions.md` says the same to people. Both are written
whole, so that a kill leaves the old ones or the new ones.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.study.errors import RecordError
from scaling.study.record import write_atomic
from scaling.study.units import format_flops, format_quantity


@dataclass(frozen=True)
class Known:
    """What the runs so far tell.

    Args:
        runs: finished and fitted; spent: planned compute of all runs decided so far [FLOPs].
        value: N* [parameters] or loss [nats/token]; null: the law has no optimum there.
        low, high: the interval over all laws that the runs do not tell apart; null: open.
        within: how far its further end is off, a factor for N*, nats for the loss; null: open.
    """

    runs: int
    spent: float
    laws: tuple[str, ...]
    value: float | None
    low: float | None
    high: float | None
    within: float | None
    problem: str = ""


@dataclass(frozen=True)
class Decision:
    """One entry of the journal.

    Args:
        at: when [UTC]; action: train or stop; why: in words.
        flops, decide, asked: the target, what is decided about it, and how narrow it shall be.
        total: compute that may be spent [FLOPs]; level: of the intervals.
        known: before the decision; points: runs to train, as a sweep file has them; cost: theirs.
        expected: low and high of the fitted law's interval after them; null: not said.
    """

    at: str
    action: str
    why: str
    flops: float
    decide: str
    asked: float
    total: float
    level: float
    known: Known
    points: tuple[dict[str, Any], ...] = ()
    cost: float = 0.0
    expected: tuple[float, float] | None = None

    def same_as(self, other: Decision) -> bool:
        """Whether it says the same at another time."""
        return dataclasses.replace(self, at=other.at) == other


@dataclass
class Journal:
    """The decisions of one sweep, in order."""

    folder: Path
    entries: list[Decision] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Journal:
        """Read the journal of a results folder; empty if there is none.

        Raises:
            RecordError: the file is damaged.
        """
        path = folder / "decisions.jsonl"
        if not path.exists():
            return cls(folder)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            return cls(folder, [_read(json.loads(line)) for line in lines if line])
        except (ValueError, TypeError, KeyError) as error:
            raise RecordError(
                f"{path}: damaged ({error}). Mend the line, or delete the file: auto then decides anew, and finished runs stay."
            ) from None

    @property
    def rounds(self) -> list[Decision]:
        """The decisions to train."""
        return [d for d in self.entries if d.action == "train"]

    @property
    def points(self) -> list[dict[str, Any]]:
        """All runs that were decided, as a sweep file has them."""
        return [dict(p) for d in self.rounds for p in d.points]

    def add(self, decision: Decision) -> None:
        """Write a decision down, unless it is the last one again."""
        if self.entries and decision.same_as(self.entries[-1]):
            return
        self.entries.append(decision)
        lines = [json.dumps(dataclasses.asdict(d), ensure_ascii=False) for d in self.entries]
        write_atomic(self.folder / "decisions.jsonl", "\n".join(lines) + "\n")
        write_atomic(self.folder / "decisions.md", self.text())

    def text(self) -> str:
        """Return the journal for people, as Markdown."""
        parts = ["# Decisions", "", "Written by `scaling auto`; newest last."]
        for i, d in enumerate(self.entries):
            later = self.entries[i + 1].known if i + 1 < len(self.entries) else None
            parts += ["", *_entry(i, d, later)]
        return "\n".join(parts) + "\n"


def _read(values: dict[str, Any]) -> Decision:
    known = {**values["known"], "laws": tuple(values["known"]["laws"])}
    expected = values.get("expected")
    return Decision(**{
        **values, "known": Known(**known), "points": tuple(values["points"]),
        "expected": tuple(expected) if expected else None,
    })  # fmt: skip


def _entry(number: int, d: Decision, later: Known | None) -> Sequence[str]:
    what = {"size": "best size N*", "loss": "lowest loss"}[d.decide]
    lines = [
        f"## {number + 1}. {d.at}: {d.action}",
        "",
        f"- Asked: {what} at {format_flops(d.flops)} FLOPs, {describe_asked(d)}; at most {format_flops(d.total)} FLOPs in all.",
        f"- Known: {describe_known(d, d.known)}",
        f"- Decided: {d.action}, because {d.why}",
    ]
    if d.points:
        lines.append(f"- Runs: {len(d.points)}, {format_flops(d.cost)} FLOPs:")
        lines += [f"    - {', '.join(f'{k} {_number(v)}' for k, v in p.items())}" for p in d.points]
        if d.expected:
            lines.append(f"- Expected: {write_ends(d.decide, *d.expected)}, by {d.known.laws[0]}.")
        came = describe_known(d, later) if later else "not yet known."
        lines.append(f"- Came: {came}")
    return lines


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def describe_asked(d: Decision) -> str:
    """Say how narrow the interval shall be."""
    return f"within a factor of {d.asked:g}" if d.decide == "size" else f"within {d.asked:g} nats/token"  # fmt: skip


def describe_known(d: Decision, known: Known) -> str:
    """Say what the runs tell, with the interval over laws."""
    so_far = f"{known.runs} runs, {format_flops(known.spent)} FLOPs"
    if known.value is None:
        return f"nothing of it yet, from {so_far}: {known.problem}"
    value = format_quantity(known.value) if d.decide == "size" else f"{known.value:.4f} nats/token"
    span = "open" if known.low is None or known.high is None else write_ends(d.decide, known.low, known.high)  # fmt: skip
    return f"{value}, {100 * d.level:g} % interval {span}, over {' and '.join(known.laws)}; from {so_far}."


def write_ends(decide: str, low: float, high: float) -> str:
    """Write both ends of an interval."""
    if decide == "loss":
        return f"{low:.4f} to {high:.4f}"
    return f"{format_quantity(low)} to {format_quantity(high)}"


def describe_round(d: Decision, number: int) -> str:
    """Say what was decided, in two lines."""
    expected = f"; {write_ends(d.decide, *d.expected)} is expected" if d.expected else ""
    return (
        f"Round {number}: {describe_known(d, d.known)}\n"
        f"  Training {len(d.points)} more runs, {format_flops(d.cost)} FLOPs{expected}."
    )


def describe_end(d: Decision, *, rounds: int, folder: Path) -> str:
    """Say the answer, its interval, its cost, and why it ended."""
    what = {"size": "The best size", "loss": "The lowest loss"}[d.decide]
    tight = d.known.within is not None and d.known.within <= d.asked
    verdict = "" if tight else f" This is not {describe_asked(d)}, as was asked."
    return (
        f"{what} at {format_flops(d.flops)} FLOPs: {describe_known(d, d.known)}\n"
        f"Stopped after {rounds} rounds, because {d.why}{verdict}\n"
        f"Every decision: {folder / 'decisions.md'}"
    )
