"""scaling merge FROM ... into=RESULTS: runs of other results folders, brought into one.

  scaling merge /mnt/cluster/results into=results      every sweep of a results folder
  scaling merge other/results/quickstart               one sweep, into ./results
  scaling merge a/results b/results into=all           several
  scaling merge quickstart.scaling.zip into=results    a bundle that somebody sent
  scaling merge other/results weights=false            without checkpoints of finished runs

Copies the runs that are missing. Of one run on both sides the finished copy stays, else the one that is
further on; two finished copies that agree are one. Two that disagree are reported, and nothing is
overwritten. Runs that are being trained are left out. Stop it at any time: the same command goes on.
A results folder can also just be moved or copied as a whole; nothing in it names its place.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from scaling.cli.options import is_true, split_options
from scaling.study.errors import ConfigError
from scaling.study.table import Table
from scaling.training.merging import (
    BUSY,
    COPIED,
    DAMAGED,
    DIFFERS,
    OUTCOMES,
    TAKEN,
    Merged,
    find_runs,
    merge_files,
    merge_run,
)

OPTIONS = {"into": "results", "weights": "true"}


def run_merge(arguments: Sequence[str]) -> int:
    """Copy run by run and print what happened; 1 if finished runs disagree or cannot be read."""
    names, options = split_options(arguments, OPTIONS)
    if not names:
        raise ConfigError("name what to merge, e.g. `scaling merge other/results into=results`.")
    into, weights = Path(options["into"]), is_true(options, "weights")
    for name in names:
        if not Path(name).exists():
            raise ConfigError(f"{name}: no such folder. Give the path of a results folder, a sweep's or a run's.")  # fmt: skip
    merged: list[Merged] = []
    differ: list[str] = []
    for name in names:
        one, other = _merge_source(Path(name), into, weights=weights)
        merged, differ = merged + one, differ + other
    print(_table(merged, into, differ))
    return int(any(m.outcome in (DIFFERS, DAMAGED) for m in merged))


def _merge_source(source: Path, into: Path, *, weights: bool) -> tuple[list[Merged], list[str]]:
    """Merge one results folder, sweep, run or bundle."""
    if source.is_file():
        from scaling.analysis.data.bundles import unpack_bundle

        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into, prefix=".merging-") as folder:
            return _merge_source(unpack_bundle(source, Path(folder)), into, weights=weights)
    from scaling.cli.progress import progress_bar

    runs = find_runs(source)
    merged = []
    with progress_bar() as bar:
        for run, place in bar.track(runs, description=f"merging {source.name}"):
            merged.append(merge_run(run, into / place, weights=weights))
    if (source / "run.json").exists():  # one run; what lies beside it was not asked for
        return merged, []
    sweeps = {run.parent: into / place.parent for run, place in runs}
    return merged, [f for old, new in sweeps.items() if new.is_dir() for f in merge_files(old, new)]


def _table(merged: Sequence[Merged], into: Path, differ: Sequence[str]) -> Table:
    counts = Counter((m.run.split("/")[0], m.outcome) for m in merged)
    rows = [
        (sweep, outcome, str(n))
        for (sweep, outcome), n in sorted(counts.items(), key=lambda i: (i[0][0], OUTCOMES.index(i[0][1])))
    ]  # fmt: skip
    lines = [f"{m.run}: {m.outcome}: {m.note}" for m in merged if m.outcome in (DIFFERS, BUSY, DAMAGED)]  # fmt: skip
    if any(m.outcome == DIFFERS for m in merged):
        lines.append(
            "Runs that differ are as they were on both sides. Look which is right (data_hash, software, notes.log), "
            "delete the other's folder, and merge again."
        )
    lines += [f"{file}: another content than in the other; it stays." for file in differ]
    moved = sum(m.outcome in (COPIED, TAKEN) for m in merged)
    return Table(("sweep", "what", "runs"), rows, title=f"{moved} of {len(merged)} runs came into {into}", note="\n".join(lines))  # fmt: skip
