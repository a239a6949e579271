"""Text and shapes that the speed benchmarks share: bytes of Python's own library, three sizes."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from scaling.study.config import ModelConfig, OptimConfig, TrainConfig
from scaling.study.shape import ModelShape, resolve_shape
from scaling.training.device import choose_engine
from scaling.training.learner import Learner

CONTEXT, VOCAB = 256, 256
# layers, width, heads, sequences per step: the sizes of non-embedding parameters they are named for
SIZES = {"0.1M": (2, 64, 2, 32), "1M": (5, 128, 4, 16), "10M": (6, 384, 6, 8)}
HELD_OUT = 64 * CONTEXT  # bytes; the standard error of a paired difference is far below 0.002 nats


def library_bytes(most: int = 12_000_000) -> np.ndarray:
    """Return Python source text as bytes, files in the order of their names."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    parts, total = [], 0
    for path in sorted(folder.rglob("*.py")):
        if "site-packages" in path.parts or total > most:
            continue
        parts.append(path.read_bytes())
        total += len(parts[-1])
    return np.frombuffer(b"".join(parts), np.uint8)


def gpt2_shape(size: str) -> ModelShape:
    """Return the shape of a size: GPT-2's parts without biases, tied."""
    layers, width, heads, _ = SIZES[size]
    model = ModelConfig(
        layers=layers, width=width, heads=heads, ffn=4 * width, context=CONTEXT, norm="layernorm",
        position="learned", activation="gelu", tied=True, bias=False,
    )  # fmt: skip
    return resolve_shape(model, vocab=VOCAB)


def build_learner(size: str, *, seqs: int, weight_decay: float = 0.1, **train) -> Learner:
    """Return our learner of a size, with what `train` asks of the engine."""
    shape = gpt2_shape(size)
    engine = choose_engine(
        shape, batch_seqs=seqs, train=TrainConfig(device="cpu", threads=1, **train)
    )
    return Learner(shape, engine, optim=OptimConfig(), lr=1e-3, weight_decay=weight_decay, seed=0)


def batches(
    text: np.ndarray, steps: int, *, seqs: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield inputs and targets [1, seqs, context] from random places, the same for the same seed."""
    generator = np.random.default_rng(seed)
    windows = np.lib.stride_tricks.sliding_window_view(text, CONTEXT + 1)
    for _ in range(steps):
        tokens = windows[generator.integers(len(windows), size=seqs)].astype(np.int64)[None]
        yield tokens[..., :-1], tokens[..., 1:]


def rate_at(step: int, steps: int, peak: float) -> float:
    """Warm-up over a twentieth, cooldown over the last fifth: the schedule of both engines."""
    return peak * min(1.0, (step + 1) / (steps / 20), (steps - step) / (steps / 5))


def held_out_loss(model: Callable, text: np.ndarray) -> float:
    """Return the mean loss of `model(x, y)` over the held-out bytes, in nats per byte."""
    tokens = torch.from_numpy(text[: HELD_OUT + 1].astype(np.int64))
    x, y = tokens[:-1].view(-1, CONTEXT), tokens[1:].view(-1, CONTEXT)
    with torch.no_grad():
        losses = [float(model(x[i : i + 16], y[i : i + 16])) for i in range(0, len(x), 16)]
    return float(np.mean(losses))


def train_ours(
    learner: Learner, text: np.ndarray, *, steps: int, seqs: int, seed: int, lr: float = 3e-3
) -> float:
    """Train on all but the held-out bytes; return the loss on those."""
    for step, (x, y) in enumerate(batches(text[HELD_OUT:], steps, seqs=seqs, seed=seed)):
        learner.learn(x, y, lr=[rate_at(step, steps, lr)])

    def score(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with learner.engine.autocast():
            loss: torch.Tensor = learner.module(0)(x, y, reduction="none").mean()
            return loss

    return held_out_loss(score, text)
