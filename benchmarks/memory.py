"""Memory estimate against measured peak on a CPU: python -m benchmarks.memory

Each shape takes two steps in a process of its own; the peak of its resident memory above what it held
before the model was built is compared with `memory_estimate`. Peaks are Linux's own (VmHWM).
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import re
from pathlib import Path

from scaling.study.config import ModelConfig, OptimConfig, TrainConfig
from scaling.study.shape import ModelShape, resolve_shape
from scaling.study.table import Table
from scaling.study.units import format_bytes

# parameters, vocabulary, context, sequences per pass
CASES = [
    (1e6, 256, 256, 16),
    (1e6, 32_000, 256, 8),
    (10e6, 256, 256, 16),
]
WAYS = [("sdpa", False), ("sdpa", True), ("matmul", False)]


def main() -> None:
    """Measure every case and print a table."""
    rows = []
    context = multiprocessing.get_context("spawn")
    for params, vocab, length, seqs in CASES:
        for attention, recompute in WAYS:
            with context.Pool(1) as pool:
                estimate, peak = pool.apply(
                    measure, (params, vocab, length, seqs, attention, recompute)
                )
            print(f"{params:.0e} {vocab} {attention}: {estimate / peak:.2f}", flush=True)
            rows.append(
                (f"{params:.0e}", f"{vocab:,}", f"{seqs} x {length}", attention, "yes" if recompute else "no",
                 format_bytes(estimate), format_bytes(peak), f"{estimate / peak:.2f}")
            )  # fmt: skip
    header = (
        "params",
        "vocabulary",
        "pass",
        "attention",
        "recompute",
        "estimate",
        "measured",
        "ratio",
    )
    print(Table(header, rows, note="float32, one thread; ratio is estimate / measured.").text())


def measure(
    params: float, vocab: int, length: int, seqs: int, attention: str, recompute: bool
) -> tuple[float, float]:
    """Return the estimated and the measured peak in bytes of two steps of a shape."""
    import torch

    from scaling.training.device import choose_engine
    from scaling.training.learner import Learner

    torch.set_num_threads(1)
    shape: ModelShape = resolve_shape(
        ModelConfig(params=params, context=length), vocab=vocab, params=params
    )
    train = TrainConfig(
        device="cpu", precision="float32", attention=attention, recompute=recompute, compile=False,
        micro_batch_tokens=seqs * length,
    )  # fmt: skip
    engine = choose_engine(shape, batch_seqs=seqs, train=train)
    tokens = torch.randint(vocab, (1, seqs, length + 1)).numpy()
    # the libraries' own first allocations are not the model's
    warm = Learner(
        dataclasses.replace(shape, layers=1),
        engine,
        optim=OptimConfig(),
        lr=1e-4,
        weight_decay=0.1,
        seed=0,
    )
    warm.learn(tokens[:, :1, :-1], tokens[:, :1, 1:], lr=[1e-4])
    del warm
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    learner = Learner(shape, engine, optim=OptimConfig(), lr=1e-4, weight_decay=0.1, seed=0)
    for _ in range(2):
        learner.learn(tokens[:, :, :-1], tokens[:, :, 1:], lr=[1e-4])
    return engine.memory(shape).total, _status("VmHWM") - before


def _status(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024.0 * int(found[1])


if __name__ == "__main__":
    main()
