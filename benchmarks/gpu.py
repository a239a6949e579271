"""Training speed on one GPU by size: share of its peak, memory, and nanoGPT beside it.

python -m benchmarks.gpu [FOLDER] [sizes] [steps]       e.g. /path/to/nanoGPT 10M,50M,150M 30

FOLDER is a checkout of nanoGPT; `-` leaves it out. It trains as its train.py does on a GPU: bfloat16
autocast, compiled, fused AdamW; contestants take turns of ten steps. Vocabulary 50,304, context
1,024, half a million tokens a step at the most, in micro-batches the engine chooses and nanoGPT is
given too. Without a GPU it says so and ends. Saved in benchmarks/results/gpu.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.nanogpt import build_gpt, load_nanogpt
from scaling.study.config import ModelConfig, OptimConfig, TrainConfig
from scaling.study.flops import flops_per_token
from scaling.study.shape import resolve_shape
from scaling.study.table import Table
from scaling.study.units import format_bytes, format_quantity
from scaling.training.device import choose_engine
from scaling.training.learner import Learner

CONTEXT, VOCAB = 1024, 50_304  # GPT-2's, as nanoGPT rounds it up
# layers, width, heads, sequences per step; GPT-2's aspect ratios
SIZES = {
    "10M": (6, 384, 6, 64), "50M": (8, 704, 11, 64), "150M": (12, 1024, 16, 64), "500M": (18, 1536, 24, 64),
    "1B": (24, 1792, 28, 64),
}  # fmt: skip
RESULTS = Path(__file__).parent / "results" / "gpu.json"
TURN = 10  # steps before the other's turn


def our_step(size: str) -> tuple[Callable[[], None], Learner]:
    """Return a step of our engine, compiled as a long run would be."""
    layers, width, heads, seqs = SIZES[size]
    model = ModelConfig(
        layers=layers, width=width, heads=heads, ffn=4 * width, context=CONTEXT, norm="layernorm", position="learned",
        activation="gelu", tied=True, bias=False,
    )  # fmt: skip
    shape = resolve_shape(model, vocab=VOCAB)
    engine = choose_engine(shape, batch_seqs=seqs, train=TrainConfig(device="cuda"), tokens=1e12)
    learner = Learner(shape, engine, optim=OptimConfig(), lr=1e-3, weight_decay=0.1, seed=0)
    tokens = np.random.default_rng(0).integers(VOCAB, size=(1, seqs, CONTEXT + 1))
    return lambda: void(learner.learn(tokens[..., :-1], tokens[..., 1:], lr=[1e-3])), learner


def void(_: object) -> None:
    """Take a value and give none."""


def nano_step(module, size: str, micro_seqs: int) -> Callable[[], None]:
    """Return nanoGPT's step, with gradient accumulation over micro-batches of the same size."""
    layers, width, heads, seqs = SIZES[size]
    values = {"n_layer": layers, "n_head": heads, "n_embd": width}
    model, optimizer = build_gpt(
        module, values | {"block_size": CONTEXT, "vocab_size": VOCAB}, weight_decay=0.1, device="cuda"
    )  # fmt: skip
    forward = torch.compile(model)
    x, y = (torch.randint(VOCAB, (seqs, CONTEXT), device="cuda") for _ in range(2))

    def step() -> None:
        for first in range(0, seqs, micro_seqs):
            part = slice(first, first + micro_seqs)
            with torch.autocast("cuda", torch.bfloat16):
                _, loss = forward(x[part], y[part])
            (loss * (len(x[part]) / seqs)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def time_turn(step: Callable[[], None]) -> tuple[float, int]:
    """Return seconds per step and the peak bytes of one turn."""
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(TURN):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / TURN, torch.cuda.max_memory_allocated()


def measure(module, size: str, steps: int) -> dict:
    """Return figures of one size."""
    torch.set_float32_matmul_precision("high")  # nanoGPT sets it; products are bfloat16 anyway
    ours, learner = our_step(size)
    contestants = {"ours": ours}
    if module is not None:
        contestants["nanoGPT"] = nano_step(module, size, learner.engine.micro_seqs)
    for step in contestants.values():
        for _ in range(3):
            step()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    peaks: dict[str, int] = {}
    for _ in range(max(1, steps // TURN)):
        for name, step in contestants.items():
            seconds, peaks[name] = time_turn(step)
            times[name].append(seconds)
    tokens = SIZES[size][3] * CONTEXT
    rate = {name: tokens / median(t) for name, t in times.items()}
    flops, peak = float(flops_per_token(learner.model.shape).counted), learner.engine.peak_flops()
    return {
        "size": size, "engine": repr(learner.engine), "tokens_per_second": rate, "flops_per_token": flops,
        "mfu": {name: r * flops / peak for name, r in rate.items()} if peak else None, "peak_bytes": peaks,
    }  # fmt: skip


def main(folder: str = "-", sizes: str = ",".join(SIZES), steps: str = "30") -> None:
    """Print the table and save the figures."""
    if not torch.cuda.is_available():
        raise SystemExit(
            "benchmarks.gpu: no CUDA device here; nothing was measured. Run it on a machine that has one."
        )
    module = None if folder == "-" else load_nanogpt(folder)
    rows, found = [], []
    for size in sizes.split(","):
        r = measure(module, size, int(steps))
        found.append(r)
        for name, rate in r["tokens_per_second"].items():
            mfu = f"{r['mfu'][name]:.1%}" if r["mfu"] else "-"
            ratio = f"{r['tokens_per_second']['ours'] / rate:.2f}"
            rows.append(
                [size, name, format_quantity(rate), mfu, format_bytes(r["peak_bytes"][name]), ratio]
            )
        torch.compiler.reset()
        torch.cuda.empty_cache()
    note = "Memory is of both while both are loaded. FLOPs count every product, attention over the full context."
    print(
        Table(
            ("N", "engine", "tokens/s", "MFU", "peak memory", "ours / this"),
            rows,
            title=torch.cuda.get_device_name(),
            note=note,
        ).markdown()
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"device": torch.cuda.get_device_name(), "sizes": found}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
