"""Training throughput by size on one CPU thread, beside the machine's matrix ceiling.

python -m benchmarks.throughput            sizes 10k to 1M, about half a minute
python -m benchmarks.throughput 10k 10M    other sizes
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from scaling.study.config import RunConfig, TrainConfig
from scaling.study.plan import make_plan
from scaling.study.table import Table
from scaling.study.units import format_quantity
from scaling.training.calibrate import machine_label, measure_step_seconds
from scaling.training.device import choose_engine

SIZES = ("10k", "30k", "100k", "300k", "1M")


def main(sizes: Sequence[str] = SIZES) -> None:
    """Time real training steps of the plan's own batch and print tokens and FLOPs per second."""
    torch.set_num_threads(1)
    rows = []
    for size in sizes:
        plan = make_plan(RunConfig.from_dict({"model": {"params": size, "context": 64}}))
        engine = choose_engine(plan.shape, batch_seqs=plan.batch_seqs, train=TrainConfig(threads=1))
        cost = measure_step_seconds(plan.shape, plan.batch_seqs, threads=1, seconds=3.0)
        rate = plan.batch_tokens / cost.step
        rows.append(
            [size, f"{plan.shape.layers} x {plan.shape.width}", f"{plan.batch_tokens:,}", engine.precision,
             format_quantity(rate), f"{rate * plan.flops.counted / 1e9:.1f}", format_quantity(1 / cost.val_token)]
        )  # fmt: skip
    ceiling = {
        name: matmul_gflops(dtype)
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    note = (
        "Matrix ceiling, one thread, 1024^3: "
        + ", ".join(f"{n} {g:.0f} GFLOP/s" for n, g in ceiling.items())
        + "."
    )
    header = (
        "N",
        "layers x width",
        "tokens/step",
        "precision",
        "tokens/s",
        "GFLOP/s (counted)",
        "validation tokens/s",
    )
    print(Table(header, rows, title=machine_label(TrainConfig()), note=note).markdown())


def matmul_gflops(dtype: torch.dtype, size: int = 1024, seconds: float = 1.0) -> float:
    """Return the best GFLOP/s of a square matrix product within a second."""
    a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


if __name__ == "__main__":
    main(sys.argv[1:] or SIZES)
