"""What may be deleted of finished work, and what must stay because somebody still needs it.

Records, metrics, configurations and notes are never listed. A run is looked at again under its
claim before anything of it is deleted, so that a run that was started meanwhile loses nothing.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scaling.study.disk import disk_usage, newest_change
from scaling.study.errors import BusyError, RecordError
from scaling.study.pretrained import RUN_WEIGHTS
from scaling.study.record import FINISHED, RunRecord, read_record
from scaling.training.claim import Claim, find_holder
from scaling.training.data.cache import cache_folder

WEIGHTS, PARTS, CLAIMS = "checkpoints of finished runs", "half-written files", "dead claims"
KINDS = (WEIGHTS, PARTS, CLAIMS)

ABANDONED = 3600.0  # s; what a sweep's folder holds half-written for an hour, nobody is writing
OLD_CACHE = 30 * 86_400.0  # s; compiling anew costs a minute, so a month unused is long enough

_CHECKPOINTS = RUN_WEIGHTS.parent.name
_RUN_PARTS = (".run.json.", ".metrics.jsonl.", ".config.yaml.", ".writable.", ".claim.")
_SWEEP_PARTS = (".*.yaml.*", ".*.json.*", ".writable.*", ".*.merging-*")
# family, size, tokens, seed and hash, as `RunPlan.run_id` writes them
_SWEEP = re.compile(r"\bsweep:([\w.-]+)")  # whose runs others start from; `sweep: NAME` has a space
_RUN_ID = re.compile(r"[A-Za-z0-9]+-n[\w.]+-d[\w.]+-s\d+-[0-9a-f]{8}")


@dataclass(frozen=True)
class Leftover:
    """A file or folder that may go: its kind, the run it belongs to (empty: the sweep's), its bytes."""

    kind: str
    path: Path
    size: int
    run: str = ""


@dataclass
class Survey:
    """What a sweep's folder holds that may go, and why the rest of its checkpoints stays.

    kept: {reason: ids of the runs that keep their checkpoints for it}.
    """

    folder: Path
    leftovers: list[Leftover] = field(default_factory=list)
    kept: dict[str, list[str]] = field(default_factory=dict)
    runs: int = 0

    @property
    def size(self) -> int:
        """Bytes that can be freed."""
        return sum(item.size for item in self.leftovers)

    def keep(self, run: str, reason: str) -> None:
        """Note that a run keeps its checkpoints."""
        self.kept.setdefault(reason, []).append(run)


def survey_sweep(folder: Path, needed: Mapping[str, str]) -> Survey:
    """Look through a sweep's folder (or a run's) for what may go.

    Args:
        needed: {run id: why its checkpoints stay}, as `find_needed` returns.
    """
    survey = Survey(folder)
    for run in run_folders(folder):
        survey.runs += 1
        _survey_run(run, survey, needed)
    if (folder / "run.json").exists():
        return survey
    for path in _abandoned(folder):
        survey.leftovers.append(Leftover(PARTS, path, disk_usage(path)))
    return survey


def run_folders(folder: Path) -> list[Path]:
    """Return the folders of runs: this one if it is a run's, else those directly below it."""
    if (folder / "run.json").exists():
        return [folder]
    return sorted(p.parent for p in folder.glob("*/run.json") if p.parent.name[0] != ".")


def _survey_run(run: Path, survey: Survey, needed: Mapping[str, str]) -> None:
    if holder := find_holder(run):
        survey.keep(run.name, f"being trained ({holder})")
        return
    survey.leftovers += _parts(run)
    if (run / "claim.json").exists():
        survey.leftovers.append(Leftover(CLAIMS, run / "claim.json", 0, run.name))
    if not _files(run / _CHECKPOINTS):
        return
    if reason := _why_kept(run, needed):
        survey.keep(run.name, reason)
    else:
        survey.leftovers += _weights(run)


def _why_kept(run: Path, needed: Mapping[str, str]) -> str:
    """Why the checkpoints of a run stay; an empty string if they may go."""
    try:
        status = read_record(run).status
    except RecordError:
        return "record cannot be read"
    if status not in FINISHED:
        return "not finished, goes on from them" if status == "running" else f"{status}, tried again from them"  # fmt: skip
    return needed.get(run.name, "")


def _weights(run: Path) -> list[Leftover]:
    found = _files(run / _CHECKPOINTS)
    return [Leftover(WEIGHTS, p, p.stat().st_size, run.name) for p in found if p.name[0] != "."]


def _parts(run: Path) -> list[Leftover]:
    """Half-written files of a run that nobody holds."""
    found = [p for p in _files(run) if p.name.startswith(_RUN_PARTS)]
    found += [p for p in _files(run / _CHECKPOINTS) if p.name[0] == "."]
    return [Leftover(PARTS, p, p.stat().st_size, run.name) for p in found]


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []


def _abandoned(folder: Path) -> Iterator[Path]:
    """Half-written files beside the runs, and halves of a merge, that have not changed for an hour."""
    for path in sorted({p for pattern in _SWEEP_PARTS for p in folder.glob(pattern)}):
        if time.time() - newest_change(path) > ABANDONED:
            yield path


def find_needed(results: Path, sweep_files: Iterable[Path] = ()) -> dict[str, str]:
    """Return the runs whose checkpoints others need, with the reason.

    These are runs that a run or a sweep file starts from (model.init_from): without the weights, not
    even the name of such a run can be told. And runs on whose trunk another one is not finished.

    Args:
        results: folder of sweeps; sweep_files: files that may name runs, besides those in `results`.
    """
    records = [r for sweep in _sweeps(results) for r in _records(sweep)]
    files = [*sweep_files, *(s / "sweep.yaml" for s in _sweeps(results))]
    starts = {str(r.init_from) for r in records if r.init_from}
    starts |= {name for file in files for name in _named_runs(file, results)}
    needed = dict.fromkeys(starts, "others start from it")
    open_runs = [r for r in records if r.status not in FINISHED]
    parents = {r.parent for r in open_runs if r.parent}
    trunks = {r.trunk_hash for r in open_runs if r.trunk_hash}
    for record in records:
        if record.run_id in parents or record.trunk_hash in trunks:
            needed.setdefault(record.run_id, "its trunk has unfinished branches")
    return needed


def _sweeps(results: Path) -> list[Path]:
    if not results.is_dir():
        return []
    return sorted(p for p in results.iterdir() if p.is_dir() and p.name[0] != ".")


def _records(sweep: Path) -> Iterator[RunRecord]:
    for run in run_folders(sweep):
        try:
            yield read_record(run)
        except RecordError:
            continue  # its own checkpoints are kept for that; whom it needs cannot be told


def _named_runs(file: Path, results: Path) -> set[str]:
    """Run ids that occur in a sweep file, below whatever key and in whatever path; all runs of `sweep:NAME`."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, IsADirectoryError):
        return set()
    sweeps = set(_SWEEP.findall(text))
    return {*_RUN_ID.findall(text), *(f.name for s in sweeps for f in run_folders(results / s))}


def remove_leftovers(leftovers: Iterable[Leftover]) -> tuple[int, str]:
    """Delete the leftovers of one run, or of a sweep's own folder.

    Returns:
        Bytes that were freed, and why something stayed; empty if all is gone.
    """
    leftovers = list(leftovers)
    if not leftovers:
        return 0, ""
    if not leftovers[0].run:
        return sum(_remove(item.path) for item in leftovers), ""
    first = leftovers[0].path
    run = first.parent.parent if first.parent.name == _CHECKPOINTS else first.parent
    try:
        with Claim(
            run
        ):  # nobody starts it meanwhile; a dead claim is taken over and goes with ours
            finished = not _why_kept(run, {})
            freed = 0
            for item in leftovers:
                if item.kind != CLAIMS and (item.kind != WEIGHTS or finished):
                    freed += _remove(item.path)
            if not _files(run / _CHECKPOINTS) and (run / _CHECKPOINTS).is_dir():
                (run / _CHECKPOINTS).rmdir()
    except BusyError as error:
        return 0, str(error)
    return freed, ""


def _remove(path: Path) -> int:
    """Delete a file or folder; returns its bytes, 0 if somebody was faster."""
    size = disk_usage(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return size


def old_compilations() -> list[Leftover]:
    """Return what compiling has left in our cache folder and nothing has touched for a month."""
    folder = cache_folder(None) / "inductor"
    return [
        Leftover("compilations", path, disk_usage(path))
        for path in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if time.time() - newest_change(path, reads=True) > OLD_CACHE
    ]
