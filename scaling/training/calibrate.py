"""How long a run will take on this machine: a few real steps of its shape, timed.

Steps are the trainer's own (gather, forward, backward, clip, AdamW) on random tokens.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from scaling.study.config import OptimConfig, TrainConfig
from scaling.study.objective import IGNORE
from scaling.study.shape import ModelShape
from scaling.training.data import TokenStore
from scaling.training.device import choose_engine
from scaling.training.evaluate import EVAL_TOKENS
from scaling.training.learner import Learner
from scaling.training.stack import StackedLearner

START_SECONDS = 0.3  # opening data, building model and records; measured 0.2 to 0.4 s on two cores
ROW_SECONDS = 0.5e-3  # one metrics row, with its share of renewing run.json


@dataclasses.dataclass(frozen=True)
class StepCost:
    """What a run's parts cost on this machine.

    Units: s per optimiser step, s per validation token, s per run, s per metrics row.
    """

    step: float
    val_token: float
    start: float = START_SECONDS
    row: float = ROW_SECONDS

    def run_seconds(self, *, steps: int, evals: int, val_tokens: float, rows: int = 200) -> float:
        """Return the expected seconds of a whole run, validation included."""
        return (
            self.start
            + steps * self.step
            + evals * val_tokens * self.val_token
            + min(rows, steps) * self.row
        )

    def to_dict(self) -> dict[str, float]:
        """Return a plain mapping; `StepCost(**mapping)` reads it back."""
        return dataclasses.asdict(self)


def measure_step_seconds(
    shape: ModelShape,
    batch_seqs: int,
    *,
    threads: int | None = None,
    seconds: float = 1.0,
    train: TrainConfig | None = None,
    optim: OptimConfig | None = None,
    models: int = 1,
) -> StepCost:
    """Time training steps and validation of a shape, after a warm-up.

    Args:
        shape: the model's.
        batch_seqs: sequences per optimiser step.
        threads: CPU threads a run will have; null: as torch is set now.
        seconds: about how long to measure; at least three steps are timed.
        train: device, precision and the like; defaults if null.
        optim: the optimiser; AdamW if null.
        models: how many train as one program; a step's cost is then the share of one.

    Returns:
        Median costs; they are as good as the machine is quiet.

    Raises:
        TrainError: the run does not fit in memory.
    """
    train = dataclasses.replace(train or TrainConfig(), threads=threads)
    before = torch.get_num_threads()
    try:
        engine = choose_engine(shape, batch_seqs=batch_seqs, train=train)
        learners = [
            Learner(
                shape, engine, optim=optim or OptimConfig(), lr=1e-4, weight_decay=0.1, seed=seed
            )
            for seed in range(models)
        ]
        learner = learners[0] if models == 1 else StackedLearner(learners)
        store = _random_tokens(shape, batch_seqs)
        eval_seqs = max(1, EVAL_TOKENS.get(engine.device.type, 4096) // shape.context)

        def step() -> None:
            inputs, targets = _gather(store, batch_seqs, shape)
            x, y = (np.repeat(part[None], models, axis=0) for part in (inputs, targets))
            loss, _ = learner.learn(x, y, lr=[1e-4] * models)
            loss[0].item()  # waits for the device

        def validate() -> None:
            x, y = (torch.as_tensor(a).to(engine.device) for a in _gather(store, eval_seqs, shape))
            with torch.inference_mode(), engine.autocast():
                learner.module(0)(x, y, reduction="none").double().mean(1).cpu()

        return StepCost(
            step=_time(step, 0.8 * seconds) / models,
            val_token=_time(validate, 0.2 * seconds) / (eval_seqs * shape.context),
        )
    finally:
        torch.set_num_threads(before)


def machine_label(train: TrainConfig) -> str:
    """Name what measured times hold for: the device a run would use, and the version of torch."""
    shape = ModelShape(1, 8, 1, 1, 8, 8, 8, 8)
    return f"{choose_engine(shape, batch_seqs=1, train=train).name()} torch {torch.__version__}"


def _random_tokens(shape: ModelShape, batch_seqs: int) -> TokenStore:
    count = max(1 << 20, 2 * batch_seqs * shape.context)
    tokens = np.random.default_rng(0).integers(shape.vocab, size=count, dtype=np.uint32)
    return TokenStore(shards=(tokens,), vocab=shape.vocab, sha256="")


def _gather(store: TokenStore, seqs: int, shape: ModelShape) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch as the kind of model takes it, of random tokens."""
    length = shape.source + shape.outputs if shape.source else shape.context
    starts = np.random.default_rng(seqs).integers(len(store) - length - 1, size=seqs)
    tokens = store.windows(starts, length + 1)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    if shape.outputs:  # the last ones are predicted
        targets = np.where(np.arange(length) < length - shape.outputs, IGNORE, targets)
        targets[:, 0] = 0 if shape.pairs or shape.classes else IGNORE
        if shape.classes:
            targets[:, 1:] = IGNORE
    return inputs, targets


def _time(act: Callable[[], Any], seconds: float) -> float:
    """Return the median time of an action, after two unmeasured calls."""
    for _ in range(2):
        act()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return median(times)
