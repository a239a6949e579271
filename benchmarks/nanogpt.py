"""Training speed against nanoGPT: the same shape, batch and vocabulary, step by step in turn.

python -m benchmarks.nanogpt FOLDER                     three sizes, about 4 minutes
python -m benchmarks.nanogpt FOLDER 0.1M,1M 20          some sizes, seconds per size
python -m benchmarks.nanogpt FOLDER 0.1M 20 loss        and the equal-loss check (2 minutes more)

FOLDER is a checkout of nanoGPT (github.com/karpathy/nanoGPT). Its own GPT, batches from a memory
map, optimiser and clipping are run as its train.py runs them on a CPU: float32, not compiled; and
in its best setting here, the fastest of autocast, compile, and both. One thread each. Rates are
tokens per second of CPU time, so that other programs on the machine do not count; contestants take
their steps in turn, and ratios are medians of neighbouring steps. `COMPILE=0` leaves out compiled
nanoGPT, whose compilation takes a minute a size. Saved in benchmarks/results/nanogpt.json.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import importlib.util
import io
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
import torch

from benchmarks.bytes import (
    CONTEXT,
    HELD_OUT,
    SIZES,
    VOCAB,
    batches,
    build_learner,
    gpt2_shape,
    held_out_loss,
    library_bytes,
    rate_at,
    train_ours,
)
from scaling.study.flops import flops_per_token
from scaling.study.table import Table
from scaling.study.units import format_quantity
from scaling.training.cpu import cpu_name
from scaling.training.data.store import TokenStore

RESULTS = Path(__file__).parent / "results" / "nanogpt.json"
Step = Callable[[], None]


def load_nanogpt(folder: str) -> type:
    """Return nanoGPT's module `model.py`, or end with a word on where to get it."""
    path = Path(folder) / "model.py"
    if not path.exists():
        raise SystemExit(
            f"{path}: not there. Give the folder of a nanoGPT checkout, github.com/karpathy/nanoGPT."
        )
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    return module  # type: ignore[return-value]


def build_gpt(module, sizes: dict[str, int], *, weight_decay: float, device: str):
    """Return nanoGPT's model of some sizes, as its GPTConfig names them, and its optimiser."""
    with contextlib.redirect_stdout(io.StringIO()):
        model = module.GPT(module.GPTConfig(**sizes, dropout=0.0, bias=False)).to(device)
        return model, model.configure_optimizers(weight_decay, 1e-3, (0.9, 0.95), device)


class NanoGpt:
    """nanoGPT's model and train step.

    Args:
        module: its model.py. size: one of SIZES. bfloat16, compiled: its settings.
    """

    def __init__(
        self,
        module,
        size: str,
        *,
        bfloat16: bool = False,
        compiled: bool = False,
        weight_decay: float = 0.1,
    ):
        layers, width, heads, self.seqs = SIZES[size]
        values = {"n_layer": layers, "n_head": heads, "n_embd": width}
        self.model, self.optimizer = build_gpt(
            module, values | {"block_size": CONTEXT, "vocab_size": VOCAB}, weight_decay=weight_decay, device="cpu"
        )  # fmt: skip
        self.forward = torch.compile(self.model) if compiled else self.model
        self.bfloat16 = bfloat16

    def learn(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Take one step as its training loop does."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            _, loss = self.forward(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss.item()

    def step_on(self, path: Path) -> Step:
        """Return a step on random windows of a uint16 file, opened for each batch as its loader does."""

        def step() -> None:
            data = np.memmap(path, dtype=np.uint16, mode="r")
            places = torch.randint(len(data) - CONTEXT, (self.seqs,)).tolist()
            x, y = (
                torch.stack(
                    [
                        torch.from_numpy(data[i + o : i + o + CONTEXT].astype(np.int64))
                        for i in places
                    ]
                )
                for o in (0, 1)
            )
            self.learn(x, y)

        return step


def our_step(size: str, text: np.ndarray) -> tuple[Step, str]:
    """Return one step of our engine with its own loader, and what the engine chose."""
    seqs = SIZES[size][3]
    learner = build_learner(size, seqs=seqs)
    store = TokenStore(shards=(text,), vocab=VOCAB, sha256="")
    generator = np.random.default_rng(0)

    def step() -> None:
        tokens = store.windows(generator.integers(len(store) - CONTEXT - 1, size=seqs), CONTEXT + 1)
        loss, _ = learner.learn(tokens[None, :, :-1], tokens[None, :, 1:], lr=[1e-3])
        loss.item()

    engine = learner.engine
    return step, f"{engine.precision}, {engine.attention}{', compiled' if engine.compile else ''}"


def time_in_turn(steps: dict[str, Step], seconds: float) -> dict[str, list[float]]:
    """Return CPU seconds of steps of each contestant, taken one after another, warm-up left out."""
    for step in steps.values():
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.process_time() + seconds
    while time.process_time() < end or len(next(iter(times.values()))) < 5:
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    return times


def matmul_gflops(dtype: torch.dtype, rows: int, inner: int, columns: int) -> float:
    """Return the best GFLOP/s of a product of this shape in half a second of CPU time."""
    a, b = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
    best, end = float("inf"), time.process_time() + 0.5
    while time.process_time() < end:
        start = time.process_time()
        torch.nn.functional.linear(a, b)
        best = min(best, time.process_time() - start)
    return 2 * rows * inner * columns / best / 1e9


def _process(size: str, seconds: float, out) -> None:
    """Our engine alone in a process: tokens per second by the clock and by CPU time."""
    torch.set_num_threads(1)
    step, _ = our_step(size, library_bytes())
    step()
    steps, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        step()
        steps += 1
    tokens = steps * SIZES[size][3] * CONTEXT
    out.put((tokens / (time.perf_counter() - wall), tokens / (time.process_time() - cpu)))


def two_processes(size: str, seconds: float) -> tuple[float, float]:
    """Return tokens/s of two one-thread processes together, by the clock and by CPU time."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    workers = [context.Process(target=_process, args=(size, seconds, out)) for _ in range(2)]
    for worker in workers:
        worker.start()
    rates = [out.get() for _ in workers]
    for worker in workers:
        worker.join()
    return sum(r[0] for r in rates), sum(r[1] for r in rates)


def measure(module, size: str, seconds: float, path: Path, text: np.ndarray) -> dict:
    """Return all figures of one size."""
    layers, width, _, seqs = SIZES[size]
    tokens, shape = seqs * CONTEXT, gpt2_shape(size)
    ours, chosen = our_step(size, text)
    steps = {
        "ours": ours,
        "float32": NanoGpt(module, size).step_on(path),
        "bfloat16": NanoGpt(module, size, bfloat16=True).step_on(path),
    }
    if os.environ.get("COMPILE", "1") != "0":
        steps["compiled"] = NanoGpt(module, size, compiled=True).step_on(path)
        steps["bfloat16, compiled"] = NanoGpt(module, size, bfloat16=True, compiled=True).step_on(
            path
        )
    times = time_in_turn(steps, seconds)
    best = min((name for name in steps if name != "ours"), key=lambda name: median(times[name]))

    def ratio(name: str) -> list[float]:
        pairs = sorted(b / a for a, b in zip(times["ours"], times[name], strict=True))
        return [median(pairs), pairs[len(pairs) // 10], pairs[-1 - len(pairs) // 10]]

    ceiling = {
        str(dtype).removeprefix("torch."): matmul_gflops(dtype, tokens, width, 4 * width)
        for dtype in (torch.float32, torch.bfloat16)
    }
    clock, cpu = two_processes(size, max(5.0, seconds / 2))
    flops = float(flops_per_token(shape).counted)
    return {
        "size": size, "layers": layers, "width": width, "batch": seqs, "engine": chosen,
        "tokens_per_second": {name: tokens / median(times[name]) for name in steps},
        "best_setting": best, "ratio_to_shipped": ratio("float32"), "ratio_to_best": ratio(best),
        "flops_per_token": flops, "ceiling_gflops": ceiling,
        "two_processes_clock": clock, "two_processes_cpu": cpu,
    }  # fmt: skip


def row_of(r: dict) -> list[str]:
    """Return one line of the table."""
    rates, ceiling = r["tokens_per_second"], r["ceiling_gflops"]

    def spread(values: list[float]) -> str:
        return "{:.2f} [{:.2f}-{:.2f}]".format(*values)

    return [
        r["size"], format_quantity(rates["ours"]), format_quantity(rates["float32"]), spread(r["ratio_to_shipped"]),
        f"{format_quantity(rates[r['best_setting']])} ({r['best_setting']})", spread(r["ratio_to_best"]),
        f"{format_quantity(r['two_processes_clock'])} ({format_quantity(r['two_processes_cpu'])})",
        f"{rates['ours'] * r['flops_per_token'] / 1e9:.0f}",
        f"{rates['ours'] * r['flops_per_token'] / 1e9 / ceiling['bfloat16']:.0%} of {ceiling['bfloat16']:.0f}",
        f"{rates['float32'] * r['flops_per_token'] / 1e9 / ceiling['float32']:.0%} of {ceiling['float32']:.0f}",
    ]  # fmt: skip


HEADER = (
    "N", "ours, tokens/s", "nanoGPT as shipped", "ratio [10-90 %]", "its best here", "ratio [10-90 %]",
    "two processes, clock (CPU)", "GFLOP/s", "share of bf16 products", "nanoGPT: of fp32 products",
)  # fmt: skip


def nano_names(layers: int) -> dict[str, str]:
    """Return our parameter names and nanoGPT's for them."""
    names = {
        "embedding.weight": "transformer.wte.weight",
        "position": "transformer.wpe.weight",
        "norm.weight": "transformer.ln_f.weight",
    }
    parts = {
        "attention_norm": "ln_1", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj", "ffn_norm": "ln_2",
        "ffn.up": "mlp.c_fc", "ffn.down": "mlp.c_proj",
    }  # fmt: skip
    for i in range(layers):
        names |= {
            f"blocks.{i}.{a}.weight": f"transformer.h.{i}.{b}.weight" for a, b in parts.items()
        }
    return names


def equal_loss(
    module, text: np.ndarray, *, steps: int = 100, orders: int = 8
) -> dict[str, list[float]]:
    """Train nanoGPT and ours from the same weights on the same bytes; return held-out losses.

    nanoGPT as shipped (float32, exact GELU) and from weights moved by a millionth, which shows how far
    rounding alone carries two runs apart; ours (tanh GELU) in either precision. Weight decay is left
    out because the two decay different tensors.
    """
    seqs, size = 8, "0.1M"
    found: dict[str, list[float]] = {}
    for order in range(orders):
        for name, moved in (("nanoGPT", 0.0), ("nanoGPT, weights moved by 1e-6", 1e-6)):
            torch.manual_seed(order)
            nano = NanoGpt(module, size, weight_decay=0.0)
            weights = {n: p.detach().clone() for n, p in nano.model.named_parameters()}
            with torch.no_grad():
                for p in nano.model.parameters():
                    p.mul_(1 + moved * torch.randn_like(p))
            for step, (x, y) in enumerate(batches(text[HELD_OUT:], steps, seqs=seqs, seed=order)):
                for group in nano.optimizer.param_groups:
                    group["lr"] = rate_at(step, steps, 3e-3)
                nano.learn(torch.tensor(x[0]), torch.tensor(y[0]))
            model = nano.model
            loss = held_out_loss(lambda x, y, model=model: model(x, y)[1], text)
            found.setdefault(name, []).append(loss)
        for precision in ("float32", "bfloat16"):
            ours = build_learner(size, seqs=seqs, weight_decay=0.0, precision=precision)
            with torch.no_grad():
                for name, p in ours.model.named_parameters():
                    p.copy_(weights[nano_names(SIZES[size][0])[name]])
            loss = train_ours(ours, text, steps=steps, seqs=seqs, seed=order)
            found.setdefault(f"ours, {precision}", []).append(loss)
    return found


def loss_table(found: dict[str, list[float]]) -> Table:
    """Return mean differences to nanoGPT with their standard errors."""
    base, rows = found["nanoGPT"], []
    for name, losses in found.items():
        gaps = [a - b for a, b in zip(losses, base, strict=True)]
        error = stdev(gaps) / len(gaps) ** 0.5
        rows.append([name, f"{mean(losses):.4f}", f"{mean(gaps):+.4f}", f"{error:.4f}", f"{max(map(abs, gaps)):.4f}"])  # fmt: skip
    header = (
        "run",
        "held-out nats/byte",
        "minus nanoGPT",
        "standard error",
        "largest of one order",
    )
    return Table(
        header, rows, title=f"Equal loss, {len(base)} data orders", note="0.1M parameters."
    )


def main(
    folder: str = "nanoGPT", sizes: str = ",".join(SIZES), seconds: str = "45", check: str = ""
) -> None:
    """Print the table and save the figures."""
    torch.set_num_threads(1)
    module, text = load_nanogpt(folder), library_bytes()
    found: dict = {
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "malloc": os.environ.get("GLIBC_TUNABLES", ""),
        "sizes": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "train.bin"
        text.astype(np.uint16).tofile(path)
        for size in sizes.split(","):
            found["sizes"].append(measure(module, size, float(seconds), path, text))
            torch.compiler.reset()
    note = f"Ours: {found['sizes'][-1]['engine']}. Rates per second of CPU time, one thread, except by the clock where said."
    title = f"{found['cpu']}, torch {found['torch']}"
    print(Table(HEADER, [row_of(r) for r in found["sizes"]], title=title, note=note).markdown())
    if check:
        found["losses"] = equal_loss(module, text)
        print(loss_table(found["losses"]).markdown())
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
