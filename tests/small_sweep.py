"""Sweeps small enough for a test: as they are typed, in this process or in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from children import fresh_cache

from scaling.cli import main
from scaling.study.record import RunRecord, read_record

# 30 steps of a few thousand parameters, a tenth of a second each
SMALL = (
    "model.layers=1", "model.width=16", "model.heads=2", "model.context=32", "data.source=markov", "data.order=1", "data.vocab=32",
    "data.size=40000", "data.val_tokens=1024", "optim.batch_tokens=256", "budget.tokens=7680", "train.evals=2",
    "train.log_points=10", "train.device=cpu", "train.threads=1", "train.stack=1", "sweep=small",
)  # fmt: skip


def launch(capsys, *arguments: str) -> tuple[int, str]:
    """Launch the sweep in this process and in the current folder; return the exit code and what was said."""
    capsys.readouterr()
    code = main(["train", "-m", *SMALL, *arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


def start(
    folder: Path, *arguments: str, program: Sequence[str] = ("-m", "scaling"), **more
) -> subprocess.Popen:
    """Launch the sweep in a process of its own, which somebody may kill."""
    environment = os.environ | {"SCALING_CACHE": fresh_cache(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *program, "train", "-m", *SMALL, *arguments],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more,
    )  # fmt: skip


def finish(*children: subprocess.Popen, seconds: float = 300) -> list[str]:
    """Wait for launches to end and return what they said."""
    return [child.communicate(timeout=seconds)[0] for child in children]


def records(folder: Path, *, sweep: str = "small") -> list[RunRecord]:
    """Return the records of a sweep, by the order of their seeds."""
    found = [read_record(p.parent) for p in (folder / "results" / sweep).glob("*/run.json")]
    return sorted(found, key=lambda r: (r.seed, r.run_id))


def wait_until(condition: Callable[[], object], *, seconds: float = 300) -> None:
    """Wait until something has happened elsewhere."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def make_origins(folder: Path) -> Path:
    """Train the sweeps that others start from, in their shapes and for two steps; return the folder."""
    short = ("budget.tokens=2048", "optim.batch_tokens=1024", "model.context=64", "train.evals=1", "data.size=10k", "data.val_tokens=1024")  # fmt: skip
    source = ("data=markov", "data.order=1", "train.threads=1")
    words = ("model.kind=encoder", "model.params=16k", "data.vocab=32", "sweep=sentences")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("pretrain", "pretrain5"):
            assert main(["train", "pretrain", f"sweep={name}", "hydra/launcher=here", *source, *short]) == 0  # fmt: skip
        assert main(["train", *words, *source, *short]) == 0
    return folder
