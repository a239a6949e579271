"""A run small enough for a test: a Markov source, a few thousand parameters, seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from scaling.study.config import RunConfig
from scaling.study.plan import RunPlan, make_plan
from scaling.study.record import read_metrics

STEPS, BATCH, CONTEXT = 60, 256, 32

NUMBERS = ("step", "tokens", "train_loss", "val_loss", "val_excess", "lr", "grad_norm")


def preset(name: str) -> dict[str, Any]:
    """Return the dotted keys of a preset in conf/model."""
    text = (Path(__file__).parent.parent / "conf" / "model" / f"{name}.yaml").read_text("utf-8")
    return {f"model.{key}": value for key, value in yaml.safe_load(text).items()}


def small_plan(folder: Path, **changes) -> RunPlan:
    """Plan 60 steps of 8 sequences of 32 tokens; `changes` are dotted keys."""
    values = {
        "model": {"layers": 2, "width": 16, "heads": 2, "context": CONTEXT},
        "data": {"source": "markov", "order": 1, "vocab": 32, "size": 40_000, "val_tokens": 2048, "cache": str(folder / "cache")},
        "budget": {"tokens": STEPS * BATCH},
        "optim": {"batch_tokens": BATCH, "lr": 0.01},
        "train": {"device": "cpu", "precision": "float32", "threads": 1, "evals": 3, "log_points": 20},
        "results": str(folder / "results"),
    }  # fmt: skip
    return make_plan(RunConfig.from_dict(values).replace(**changes))


def numbers(folder: Path) -> list[dict]:
    """Return a run's rows without what depends on the clock."""
    return [{k: row[k] for k in NUMBERS if k in row} for row in read_metrics(folder)]
