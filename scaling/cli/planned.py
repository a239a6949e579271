"""The runs that a sweep file stands for, remembered beside its records.

Composing and planning ten thousand runs takes seconds, and starts Hydra; the answer depends on
nothing but the texts of configuration and planner. It is kept with a hash of those texts, and made
again when one of them is another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scaling.study.paths import data_dir
from scaling.study.record import write_atomic

# what a composition may read besides files, so that it is not remembered
_ELSEWHERE = ("oc.env", "now:", "init_from", "searchpath")


@dataclass(frozen=True)
class Planned:
    """One run of a sweep, as far as a table of many shows it.

    Args:
        group: what the table is condensed by: the budget in FLOPs, or the size.
    """

    run_id: str
    params: int
    tokens: int
    flops: float
    steps: int
    group: float


@dataclass(frozen=True)
class PlannedSweep:
    """The runs of a sweep and where their records are.

    Args:
        by: what `group` of a run is: FLOPs or parameters.
        verify: FLOPs of the run that checks the prediction, where the sweep names one.
    """

    name: str
    folder: str
    runs: list[Planned]
    by: str = "FLOPs"
    verify: float | None = None


def plan_sweep(name: str | None, overrides: Sequence[str], *, results: str) -> PlannedSweep:
    """Return the runs of a sweep file, or of a command line without one."""
    arguments = [*([f"sweeps={name}"] if name else []), *overrides]
    path = Path(results) / name / ".status" / "plan.json" if name else None
    key = _key(arguments) if path is not None and path.parent.parent.is_dir() else None
    if path is not None and key is not None and (known := _remembered(path, key)) is not None:
        return known
    planned = _compose(arguments)
    # only beside its own records; a sweep may be named otherwise than its file
    if path is not None and key is not None and Path(planned.folder) == path.parent.parent:
        with contextlib.suppress(OSError):  # somebody else's folder, or a full disk
            write_atomic(path, json.dumps({"key": key} | asdict(planned)) + "\n")
    return planned


def _compose(arguments: Sequence[str]) -> PlannedSweep:
    from scaling.cli.compose import compose_sweep
    from scaling.cli.sweep import unique_plans
    from scaling.study.units import parse_quantity

    sweep = compose_sweep(arguments)
    plans = [plan for _, plan in unique_plans(sweep.points)]
    by_budget = all(p.config.budget.flops is not None for p in plans)
    runs = [
        Planned(
            p.run_id, p.params, p.tokens, p.flops_6nd, p.steps,
            float(p.config.budget.flops or 0) if by_budget else p.params_target,
        )
        for p in plans
    ]  # fmt: skip
    asked = sweep.design.verify.get("budget.flops")
    verify = None if asked is None else parse_quantity(asked, key="design.verify.budget.flops")
    folder = Path(str(sweep.base.results)) / sweep.name
    return PlannedSweep(sweep.name, str(folder), runs, "FLOPs" if by_budget else "parameters", verify)  # fmt: skip


def _remembered(path: Path, key: str) -> PlannedSweep | None:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("key") != key:
            return None
        return PlannedSweep(**values | {"runs": [Planned(**run) for run in values["runs"]]})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # none, or cut: made again


def _key(arguments: Sequence[str]) -> str | None:
    """Return a hash of all that a composition depends on; null where that is not only files."""
    own = [*_texts(Path.cwd() / "conf", "**/*.yaml"), *_texts(Path.cwd() / "sweeps", "*.yaml")]
    sweeps = [*own, *_texts(data_dir("sweeps"), "*.yaml")]
    ours = [*_texts(data_dir("conf"), "**/*.yaml"), *_code()]
    if any(mark in text for mark in _ELSEWHERE for text in [*arguments, *_read(arguments, sweeps)]):
        return None
    said = repr([sys.version_info[:2], os.getcwd(), list(arguments), sweeps, ours])
    return hashlib.sha256(said.encode()).hexdigest()


def _read(arguments: Sequence[str], files: Sequence[tuple[str, str]]) -> list[str]:
    """Return the texts that a composition may read: of files that the arguments name, and that these name."""
    texts, waiting, seen = [], [" ".join(arguments)], set()
    while waiting:
        said = waiting.pop()
        for path, text in files:
            if path not in seen and Path(path).stem in said:  # rather one too many
                seen.add(path)
                texts.append(text)
                waiting.append(text)
    return texts


def _code() -> Iterable[tuple[str, str]]:
    """The planner itself: another rule gives other runs."""
    package = Path(__file__).parents[1]
    composing = ("compose.py", "design.py", "overrides.py")
    own = (text for name in composing for text in _texts(package / "cli", name))
    return [*_texts(package / "study", "*.py"), *own]


def _texts(folder: Path, pattern: str) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob(pattern)):
        with contextlib.suppress(OSError):
            yield str(path), path.read_text(encoding="utf-8", errors="replace")
