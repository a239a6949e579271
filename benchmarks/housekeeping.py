"""Seconds of housekeeping on many runs, and the size of a bundle.

    python -m benchmarks.housekeeping                 1,000 runs
    python -m benchmarks.housekeeping 10000

The runs are copies of those in results/sample under other names, with 4 KiB in the place of weights. CPU
time of this process; on a disk that is shared, waiting comes on top.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import scaling as sl
from scaling.analysis.data.bundling import write_bundle
from scaling.cli.clean import _remove
from scaling.study.disk import disk_usage
from scaling.study.record import read_record
from scaling.study.table import Table
from scaling.study.units import format_bytes
from scaling.training.leftovers import find_needed, survey_sweep
from scaling.training.merging import find_runs, merge_run

SAMPLE = Path(__file__).parent.parent / "results" / "sample"


def make_sweep(results: Path, runs: int) -> Path:
    """Write a sweep of so many finished runs, each with the record and curve of one of the sample."""
    models = sorted(SAMPLE.glob("llama-*"))
    texts = {m: {n: (m / n).read_text() for n in ("run.json", "metrics.jsonl", "config.yaml")} for m in models}  # fmt: skip
    for i in range(runs):
        model = models[i % len(models)]
        name = f"{model.name[:-8]}{i:08x}"
        folder = results / "many" / name
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "checkpoint" / "model.safetensors").write_bytes(bytes(4096))
        for file, text in texts[model].items():
            (folder / file).write_text(text.replace(model.name, name))
    return results / "many"


def seconds(act: Callable[[], object]) -> tuple[float, float, object]:
    """Return CPU seconds, seconds by the clock, and the result."""
    cpu, clock = time.process_time(), time.perf_counter()
    result = act()
    return time.process_time() - cpu, time.perf_counter() - clock, result


def main(runs: int) -> None:
    """Measure each step once and print the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        sweep = make_sweep(home / "results", runs)
        read_record(next(sweep.glob("*/")))  # imports are not what is measured

        def step(text: str, act: Callable[[], object]) -> object:
            cpu, clock, result = seconds(act)
            rows.append((text, f"{cpu:.2f}", f"{clock:.2f}"))
            return result

        step("disk used", lambda: disk_usage(sweep))
        survey = step("scaling clean: what would go, and whom others need", lambda: survey_sweep(sweep, find_needed(sweep.parent)))  # fmt: skip
        step("load the folder", lambda: sl.load(sweep))
        made = step("scaling bundle", lambda: write_bundle(sweep, home / "many.scaling.zip"))
        step("load the bundle", lambda: sl.load(made.path))  # type: ignore[attr-defined]
        places = find_runs(sweep)
        step("scaling merge into an empty folder", lambda: [merge_run(r, home / "new" / p) for r, p in places])  # fmt: skip
        step("scaling merge again", lambda: [merge_run(r, home / "new" / p) for r, p in places])
        step("scaling clean yes=true", lambda: _remove(survey))  # type: ignore[arg-type]
        size = (home / "many.scaling.zip").stat().st_size
        note = f"The bundle has {format_bytes(size)}, {size / runs / 1024:.2f} KiB a run; the folder without weights {format_bytes(disk_usage(sweep))}."  # fmt: skip
    print(Table(("step", "CPU s", "s by the clock"), rows, title=f"{runs} runs", note=note))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
