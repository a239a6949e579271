"""Renew results/transfer from a finished sweep: records, configurations and a few rows of each curve.

python docs/make_transfer.py results/transfer
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from make_sample import ROOT, _copy

KEPT = ROOT / "results" / "transfer"
ROWS = 6  # of training loss; every validation row is kept


def keep_runs(source: Path, kept: Path) -> int:
    """Replace the runs in `kept` by those of `source`; return how many bytes they are."""
    for old in kept.glob("*/run.json"):
        shutil.rmtree(old.parent)
    files = []
    for run in sorted(path.parent for path in source.glob("*/run.json")):
        target = kept / run.name
        files += [_copy(run / name, target / name) for name in ("config.yaml", "run.json")]
        files.append(_thin(run / "metrics.jsonl", target / "metrics.jsonl"))
    files.append(_copy(source / "sweep.yaml", kept / "sweep.yaml"))
    return sum(file.stat().st_size for file in files)


def _thin(file: Path, target: Path) -> Path:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    training = [row for row in rows if "val_loss" not in row]
    few = [training[round(i * (len(training) - 1) / (ROWS - 1))] for i in range(ROWS)]
    kept = [row for row in rows if "val_loss" in row or row in few]
    target.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return target


if __name__ == "__main__":
    print(f"{keep_runs(Path(sys.argv[1]), KEPT):,} bytes in {KEPT.relative_to(ROOT)}")
