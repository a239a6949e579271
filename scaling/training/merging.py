"""Runs of one results folder brought into another: nothing finished is lost, nothing is overwritten.

A run is copied beside its place under a hidden name and then renamed into it, so that a kill leaves
it whole or not there. Where a further copy replaces an unfinished one, that is first renamed
`.RUN.before-merge`; if the kill comes just then, the next merge puts it back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scaling.study.errors import BusyError, RecordError
from scaling.study.record import FINISHED, RunRecord, read_record
from scaling.training.claim import Claim, find_holder

# What happened to a run. Both sides of "differs" are finished and disagree.
COPIED, TAKEN, SAME, KEPT, BUSY, DAMAGED, DIFFERS = (
    "copied", "replaced an unfinished copy", "there already", "the copy there is further on", "left out: being trained",
    "left out: damaged", "differs",
)  # fmt: skip
OUTCOMES = (COPIED, TAKEN, SAME, KEPT, BUSY, DAMAGED, DIFFERS)

_NOT_COPIED = ("claim.json",)  # whose process knows the old place only
_BEFORE = ".before-merge"
_WEIGHTS = "checkpoint"

# Two machines train one run to losses that differ by rounding: 1e-3 and more would be other text,
# other code or a fault, and a seed moves a loss by 1e-2.
SAME_LOSS = 1e-4  # of the loss


@dataclass(frozen=True)
class Merged:
    """What happened to one run, and what to say about it."""

    run: str  # sweep/run_id
    outcome: str
    note: str = ""


def find_runs(source: Path) -> list[tuple[Path, Path]]:
    """Return each run below a folder with its place in a results folder, SWEEP/RUN.

    Args:
        source: a results folder, a sweep's, or a run's.

    Raises:
        RecordError: there are no runs.
    """
    source = Path(os.path.abspath(source))
    if (source / "run.json").exists():
        found = [(source, Path(source.parent.name, source.name))]
    elif direct := _runs_in(source):
        found = [(run, Path(source.name, run.name)) for run in direct]
    else:
        sweeps = sorted(p for p in _folders(source))
        found = [(run, Path(sweep.name, run.name)) for sweep in sweeps for run in _runs_in(sweep)]
    if not found:
        raise RecordError(
            f"{source}: no runs there. Name a results folder, a sweep in one, or a run."
        )
    return found


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")


def _runs_in(sweep: Path) -> list[Path]:
    return sorted(p for p in _folders(sweep) if (p / "run.json").exists())


def merge_run(run: Path, target: Path, *, weights: bool = True) -> Merged:
    """Bring one run to its place, unless what is there is as good or better.

    Args:
        run: the folder to copy; it is not changed.
        target: where it belongs, RESULTS/SWEEP/RUN.
        weights: copy checkpoints of finished runs too; those of unfinished ones are always copied.
    """
    name = f"{target.parent.name}/{target.name}"
    try:
        new = read_record(run)
    except RecordError as error:
        return Merged(name, DAMAGED, str(error))
    if target.exists() and os.path.samefile(run, target):
        return Merged(name, SAME)
    if new.status not in FINISHED and (holder := find_holder(run)):
        return Merged(name, BUSY, f"by {holder}; merge again when it has ended")
    _tidy(target)
    if not target.exists():
        return _copy(run, target, weights=weights, name=name)
    old = _record(target)
    outcome, note = _choose(old, new)
    if outcome != TAKEN:
        return Merged(name, outcome, note)
    return _replace(run, target, weights=weights, name=name)


def _record(folder: Path) -> RunRecord | None:
    try:
        return read_record(folder)
    except RecordError:
        return None


def _choose(old: RunRecord | None, new: RunRecord) -> tuple[str, str]:
    """Say which of two records of one run stays: the finished one, else the one that is further on."""
    if old is None:  # damaged, or a folder without a record
        return TAKEN, ""
    if old.status in FINISHED and new.status in FINISHED:
        difference = _difference(old, new)
        return (DIFFERS, difference) if difference else (SAME, "")
    if old.status in FINISHED:
        return SAME, ""
    if new.status in FINISHED or (new.steps or 0) > (old.steps or 0):
        return TAKEN, ""
    return KEPT, ""


def _difference(old: RunRecord, new: RunRecord) -> str:
    """Say in what two finished records of one run disagree; an empty string if in nothing that counts."""
    for name in ("status", "data_hash", "steps", "numbers_version"):
        here, there = getattr(old, name), getattr(new, name)
        if here != there and None not in (here, there):
            return f"{name} is {here} there and {there} in the other"
    a, b = old.val_loss, new.val_loss
    if a is None or b is None:
        return "" if a is b else f"val_loss is {a} there and {b} in the other"
    if abs(a - b) > SAME_LOSS * max(abs(a), abs(b)):
        return f"val_loss is {a:.6g} there and {b:.6g} in the other"
    return ""


def _copy(run: Path, target: Path, *, weights: bool, name: str) -> Merged:
    part = _part(run, target, weights=weights)
    try:
        os.rename(part, target)
    except OSError:  # somebody made the folder meanwhile, and may train in it
        shutil.rmtree(part)
        return Merged(name, BUSY, "it appeared while it was copied; merge again")
    return Merged(name, COPIED)


def _replace(run: Path, target: Path, *, weights: bool, name: str) -> Merged:
    """Put a run in the place of an unfinished one that nobody trains."""
    part = _part(run, target, weights=weights)
    aside = target.with_name(f".{target.name}{_BEFORE}")
    try:
        with Claim(target):
            if _choose(_record(target), read_record(part))[0] != TAKEN:  # it went on meanwhile
                shutil.rmtree(part)
                return Merged(name, KEPT)
            os.rename(target, aside)
            os.rename(part, target)
    except BusyError as error:
        shutil.rmtree(part, ignore_errors=True)
        return Merged(name, BUSY, str(error))
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        _tidy(target)
        raise
    shutil.rmtree(aside)
    return Merged(name, TAKEN)


def _part(run: Path, target: Path, *, weights: bool) -> Path:
    """Copy a run under a hidden name beside its place; returns that name."""
    part = target.with_name(f".{target.name}.merging-{socket.gethostname()}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    kept = weights or read_record(run).status not in FINISHED
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(run, part, ignore=lambda folder, names: _left_out(Path(folder), names, run, kept))  # fmt: skip
        for file in ("run.json", "metrics.jsonl", "config.yaml"):
            _sync(part / file)
    except BaseException:  # Ctrl-C, a full disk: nothing half-copied stays
        shutil.rmtree(part, ignore_errors=True)
        raise
    return part


def _left_out(folder: Path, names: list[str], run: Path, weights: bool) -> list[str]:
    """What is not copied: claims, half-written files, links (which may lead anywhere), some weights."""
    skip = {n for n in names if n.startswith(".") or (folder / n).is_symlink()}
    if folder == run:
        skip |= {*_NOT_COPIED, *(() if weights else (_WEIGHTS,))} & set(names)
    return list(skip)


def _sync(file: Path) -> None:
    """Bring a file to disk before its folder gets its name."""
    if file.exists():
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())


def _tidy(target: Path) -> None:
    """Undo what a killed merge of this run has left: its halves, and a copy that was set aside."""
    aside = target.with_name(f".{target.name}{_BEFORE}")
    if aside.exists() and (target / "run.json").exists():
        shutil.rmtree(aside)
    elif aside.exists():
        with contextlib.suppress(OSError):  # a folder that is not empty is somebody's; both stay
            if target.exists():
                if not find_holder(target):  # a heartbeat that came just then made the folder anew
                    (target / "claim.json").unlink(missing_ok=True)
                target.rmdir()
            os.rename(aside, target)
    own = f".{target.name}.merging-{socket.gethostname()}-"
    for part in target.parent.glob(f"{own}*") if target.parent.is_dir() else ():
        if not _lives(part.name[len(own) :]):
            shutil.rmtree(part, ignore_errors=True)


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def merge_files(source: Path, target: Path) -> list[str]:
    """Copy what lies beside the runs of a sweep (sweep.yaml, forecasts) and is not there yet.

    Returns:
        Files that are there with another content; theirs stays.
    """
    differ = []
    for file in sorted(p for p in source.iterdir() if p.is_file() and not p.is_symlink()):
        if file.name[0] == ".":
            continue
        place = target / file.name
        if not place.exists():
            part = place.with_name(f".{file.name}.merging-{socket.gethostname()}-{os.getpid()}")
            shutil.copyfile(file, part)
            _sync(part)
            os.replace(part, place)
        elif place.read_bytes() != file.read_bytes() and file.suffix in (".yaml", ".json"):
            differ.append(str(place))
    return differ
