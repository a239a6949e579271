"""Eight models of one shape as one program against the same runs one after another.

python -m benchmarks.stacking              one thread, CPU time, about two minutes
python -m benchmarks.stacking threads      two threads, wall time: a quiet machine only
python -m benchmarks.stacking processes    two processes of one thread and four models each, wall time

Both sides are this project's engine, interleaved; ratios are medians over rounds with quartiles.
The stack is what `train.stack=auto` chooses; where that is 1, it is the plain engine itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from scaling.study.config import ModelConfig, OptimConfig, TrainConfig
from scaling.study.shape import ModelShape, count_params, resolve_shape
from scaling.study.table import Table
from scaling.study.units import format_quantity
from scaling.training.calibrate import machine_label
from scaling.training.device import Engine, choose_engine
from scaling.training.learner import Learner
from scaling.training.stack import StackedLearner, choose_stack

MODELS, CONTEXT, VOCAB = 8, 128, 256
WIDTHS, TOKENS = (20, 36, 64), (256, 512, 1024, 2048)  # 10k, 30k, 0.1M parameters in two layers
PRECISIONS = ("float32", "bfloat16")
ROUNDS, SECONDS = 9, 1.2  # rounds at most, and seconds after which a case has had enough of them

Case = tuple[int, int, str, int, int]  # width, tokens, precision, models, threads
Row = tuple[int, str, np.ndarray, np.ndarray]  # models in a stack, kernel, seconds of both sides


def main(mode: str = "") -> None:
    """Print the table of one mode."""
    rows = []
    for width in WIDTHS:
        for tokens in TOKENS:
            for precision in PRECISIONS:
                rows.append(_row(width, tokens, precision, mode))
                print(*rows[-1], flush=True, file=sys.stderr)
    header = ("N", "tokens/step", "precision", "kernels", "stack of", "alone, tokens/s", "stacked, tokens/s", "ratio")  # fmt: skip
    how = {"": "one thread, CPU time", "threads": "two threads", "processes": "two processes"}[mode]
    title = f"{MODELS} models, {how}; {machine_label(TrainConfig())}"
    print(Table(header, rows, title=title).markdown())


def _row(width: int, tokens: int, precision: str, mode: str) -> list[str]:
    if mode == "processes":
        case = (width, tokens, precision, MODELS // 2, 1)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            (stack, kernels, one, many), *others = pool.map(measure, [case, case])
        size = min(len(one), *(len(o[2]) for o in others))
        one = np.mean([one[:size], *(o[2][:size] for o in others)], axis=0)
        many = np.mean([many[:size], *(o[3][:size] for o in others)], axis=0)
    else:
        threads = 2 if mode == "threads" else 1
        stack, kernels, one, many = measure((width, tokens, precision, MODELS, threads))
    low, middle, high = np.quantile(one / many, [0.25, 0.5, 0.75])
    rates = [format_quantity(MODELS * tokens / np.median(times)) for times in (one, many)]
    params = format_quantity(count_params(_shape(width)).non_embedding)
    return [params, f"{tokens:,}", precision, kernels, str(stack), *rates, f"{middle:.2f} [{low:.2f}, {high:.2f}]"]  # fmt: skip


def measure(case: Case) -> Row:
    """Time rounds of one step of every model, one after another and stacked."""
    width, tokens, precision, models, threads = case
    shape, batch_seqs = _shape(width), tokens // CONTEXT
    train = TrainConfig(device="cpu", precision=precision, threads=threads)
    engine = choose_engine(shape, batch_seqs=batch_seqs, train=train)
    stack = choose_stack(shape, engine, batch_seqs=batch_seqs, runs=models)
    generator = np.random.default_rng(0)
    x = generator.integers(VOCAB, size=(models, batch_seqs, CONTEXT))
    alone = _step([_learner(shape, engine, k) for k in range(models)], x, 1)
    groups = [range(first, min(first + stack, models)) for first in range(0, models, stack)]
    learners = [[_learner(shape, engine, k) for k in group] for group in groups]
    stacked = _step([g[0] if len(g) == 1 else StackedLearner(g) for g in learners], x, stack)
    clock = time.process_time if threads == 1 and models == MODELS else time.perf_counter
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + SECONDS
    for number in range(ROUNDS + 1):
        for side, act in enumerate((alone, stacked)):
            start = clock()
            act()
            if number:  # the first round warms up
                times[side].append(clock() - start)
        if number >= 3 and time.perf_counter() > end:
            break
    return stack, engine.attention, np.array(times[0]), np.array(times[1])


def _step(learners: list, x: np.ndarray, size: int) -> Callable[[], None]:
    """Return one step of all learners, each on its models' batches."""

    def act() -> None:
        for number, learner in enumerate(learners):
            batch = x[number * size : (number + 1) * size]
            learner.learn(batch, batch, lr=[1e-3] * len(batch))

    return act


def _learner(shape: ModelShape, engine: Engine, seed: int) -> Learner:
    return Learner(shape, engine, optim=OptimConfig(), lr=1e-3, weight_decay=0.1, seed=seed)


def _shape(width: int) -> ModelShape:
    return resolve_shape(ModelConfig(layers=2, width=width, context=CONTEXT), vocab=VOCAB)


if __name__ == "__main__":
    main(*sys.argv[1:])
