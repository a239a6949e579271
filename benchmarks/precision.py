"""Does the engine's fast path move the loss? Paired runs over data orders, against float32.

python -m benchmarks.precision [orders] [steps]     4 orders of 400 steps: about 4 minutes on one core

Each order trains the same 0.1M model from the same weights on the same bytes in each setting; the
differences in held-out loss are averaged over orders. Saved in benchmarks/results/precision.json.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import math
from pathlib import Path
from statistics import mean, stdev

from benchmarks.bytes import build_learner, library_bytes, train_ours
from scaling.study.table import Table
from scaling.training.cpu import cpu_name

SETTINGS = {
    "float32, torch's kernels": {"precision": "float32", "attention": "sdpa"},
    "float32, compiled kernels": {"precision": "float32", "attention": "native"},
    "bfloat16, torch's kernels": {"precision": "bfloat16", "attention": "sdpa"},
    "bfloat16, compiled kernels": {"precision": "bfloat16", "attention": "native"},
}
SEQS = 16  # 4,096 bytes per step
RESULTS = Path(__file__).parent / "results" / "precision.json"


def losses(orders: int, steps: int) -> dict[str, list[float]]:
    """Return the held-out loss of each setting for each data order."""
    text = library_bytes()
    found: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for order in range(orders):
        for name, train in SETTINGS.items():
            learner = build_learner("0.1M", seqs=SEQS, **train)
            found[name].append(train_ours(learner, text, steps=steps, seqs=SEQS, seed=order))
            print(f"order {order}, {name}: {found[name][-1]:.4f}", file=sys.stderr, flush=True)
    return found


def main(orders: int = 4, steps: int = 400) -> None:
    """Print mean loss and mean paired difference to float32 with its standard error."""
    found = losses(orders, steps)
    exact = next(iter(found.values()))
    rows = []
    for name, values in found.items():
        gaps = [a - b for a, b in zip(values, exact, strict=True)]
        error = stdev(gaps) / math.sqrt(orders) if orders > 1 else float("nan")
        rows.append(
            [
                name,
                f"{mean(values):.4f}",
                f"{mean(gaps):+.4f}",
                f"{error:.4f}",
                f"{max(map(abs, gaps)):.4f}",
            ]
        )
    header = ("setting", "held-out loss", "minus float32", "standard error", "largest of one order")
    note = f"0.1M parameters, {steps} steps of {SEQS * 256:,} bytes, {orders} data orders; nats/byte; {cpu_name()}."
    print(Table(header, rows, title="Loss by precision", note=note).markdown())
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"steps": steps, "cpu": cpu_name(), "losses": found}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
