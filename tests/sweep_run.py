"""A sweep as a user starts it, for tests of what may happen to its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from children import fresh_cache
from small_run import numbers

from scaling.study.record import read_record

TINY = (
    "train", "-m", "model.params=3k", "data=markov", "data.vocab=64", "data.size=1.2M", "data.val_tokens=2048",
    "train.stack=1", "sweep=two",
)  # fmt: skip


def start_sweep(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    """Start `scaling train` of tiny runs in a folder."""
    own = {"SCALING_CACHE": fresh_cache(folder), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "scaling", *TINY, *arguments],
        cwd=folder, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", start_new_session=True,
    )  # fmt: skip


def wait_until(condition: Callable[[], object], *, seconds: float = 300) -> Any:
    """Return what the condition gives once that is true; a busy machine may take long."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def records(folder: Path, *, sweep: str = "two") -> dict:
    """Return the sweep's records by run id."""
    found = [read_record(p.parent) for p in sorted((folder / "results" / sweep).glob("*/run.json"))]
    return {r.run_id: r for r in found}


def losses(folder: Path, *, sweep: str = "two") -> dict:
    """Return by run what must not depend on how it was launched: every row, and the last losses."""
    ends = {
        i: (r.status, r.val_loss, r.train_loss) for i, r in records(folder, sweep=sweep).items()
    }
    return {i: (end, numbers(folder / "results" / sweep / i)) for i, end in ends.items()}


def saved_claims(folder: Path, *, sweep: str = "two") -> list[Path]:
    """Return the claims of runs that are in progress and have a checkpoint."""
    claims = (folder / "results" / sweep).glob("*/claim.json")
    return [c for c in claims if list(c.parent.glob("checkpoint/*.safetensors"))]


def kill_a_saved_run(folder: Path) -> str:
    """Kill, as the kernel does for want of memory, a process whose run has a checkpoint; return the run."""
    claim = wait_until(lambda: saved_claims(folder))[0]
    os.kill(json.loads(claim.read_text())["pid"], signal.SIGKILL)
    return claim.parent.name
