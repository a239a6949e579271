"""Train one run from its plan to its record; go on where an interrupted one stopped."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaling.study.errors import DataError, TrainError
from scaling.study.plan import RunPlan
from scaling.study.record import RunRecord, check_writable
from scaling.training.checkpoint import (
    Progress,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
    save_weights,
)
from scaling.training.claim import Claim
from scaling.training.data import TokenData, prepare
from scaling.training.device import Engine, choose_engine
from scaling.training.evaluate import Evaluation, evaluate
from scaling.training.interrupt import Interrupt
from scaling.training.learner import Learner
from scaling.training.logbook import Logbook, OnProgress, finished_record
from scaling.training.optim import Schedule
from scaling.training.simulated import simulate_run

EVAL_DECADES = 2.0  # validation points spread over the last two decades of tokens

# A run that ends this far above ln V, the loss of uniform guessing, has diverged. Fresh weights
# score at most 0.5 nats above it (logits of variance 1).
DIVERGED_ABOVE = 1.0  # nats/token


def train(plan: RunPlan, *, on_progress: OnProgress | None = None) -> RunRecord:
    """Train a run to the end of its plan and return its record.

    A run that is already done or has diverged is returned as it is; one that was interrupted goes
    on from its last checkpoint, to the bit. A notice (Ctrl-C, SIGTERM, SIGUSR1) saves a checkpoint,
    leaves the record `running`, and then raises KeyboardInterrupt or SystemExit.

    Args:
        plan: the run; everything is written below `plan.folder`.
        on_progress: called at every metrics row with step, steps, tokens and the newest
            train_loss, val_loss [nats/token] and tokens_per_second.

    Returns:
        The record with status `done`, or `diverged` with the reason.

    Raises:
        TrainError: it does not fit in memory, or another process is training it.
        RecordError: the folder cannot be written.
        DataError: the data is missing, damaged, or would be repeated more than `data.max_epochs`.
    """
    # 1. what is finished is not trained again
    record = finished_record(plan.folder)
    if record is not None:
        return record
    check_writable(plan.folder)

    # 2. one process per run; another may have finished it meanwhile
    with _explained(plan.folder), Claim(plan.folder) as claim:
        record = finished_record(plan.folder)
        if record is not None:
            return record
        book = Logbook(plan, on_progress=on_progress)
        if claim.taken_over:
            book.note(claim.taken_over)
        try:
            if plan.config.data.source == "zipf_memory":
                return simulate_run(plan, book)
            return _train(plan, book, claim)
        except Exception as error:  # recorded, whatever it is, and raised again
            with contextlib.suppress(OSError):  # on a full disk even this may fail
                book.end("failed", f"{type(error).__name__}: {error}")
            raise


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say of a full disk or a lost share which run it stopped and how that goes on."""
    try:
        yield
    except OSError as error:
        raise TrainError(
            f"{folder}: stopped by the file system ({error.strerror or error}). Free some space or repair it; "
            "started again, the run goes on from its last checkpoint."
        ) from error


def _train(plan: RunPlan, book: Logbook, claim: Claim) -> RunRecord:
    # 1. device and data
    engine = choose_engine(plan.shape, batch_seqs=plan.batch_seqs, train=plan.config.train)
    data = prepare(plan.config.data, context=plan.shape.context)
    check_data(plan, data)
    book.describe(engine, data)

    # 2. model and optimiser, new or from the last whole checkpoint
    run = Run(plan, engine, data, book)
    progress, problems = load_checkpoint(
        plan.folder, run.learner.model, run.learner.optimizer, run_hash=run.identity
    )
    for problem in problems:
        book.note(problem)
    run.restore(progress)
    book.go_on_from(progress.step)

    # 3. steps, with rows, validation and checkpoints at their times
    with Interrupt() as interrupt:
        for step in run.steps():
            claim.beat()
            if interrupt.signal:
                run.save()
                reason = f"interrupted by {interrupt.signal.name} at step {step}; start it again to go on"
                book.end("running", reason)
                interrupt.stop()
    if run.diverged:
        return book.end("diverged", run.diverged)

    # 4. the final evaluation is the run's result
    result = run.validate()
    book.evaluated(result)
    too_high = math.log(plan.shape.vocab) + DIVERGED_ABOVE
    if not result.loss < too_high:
        return book.end(
            "diverged",
            f"final validation loss {result.loss:.3g} is above {too_high:.3g}, worse than uniform guessing. Lower optim.lr_scale.",
        )
    if plan.config.train.keep_checkpoint:
        save_weights(plan.folder, run.learner.model)
    record = book.end("done")
    remove_checkpoints(plan.folder)
    return record


def check_data(plan: RunPlan, data: TokenData) -> None:
    """Refuse data that does not suit the plan.

    Raises:
        DataError: another vocabulary, or more epochs than `data.max_epochs`.
    """
    if data.vocab != plan.shape.vocab:
        raise DataError(
            f"data.vocab: the tokenizer has {data.vocab} tokens, the plan {plan.shape.vocab}. Set data.vocab={data.vocab}."
        )
    epochs, most = plan.tokens / data.unique_tokens, plan.config.data.max_epochs
    if epochs > most:
        raise DataError(
            f"data.max_epochs: {plan.run_id} would see its {data.unique_tokens:,} unique tokens {epochs:.6g} times and "
            f"{most:g} are allowed. Set data.max_epochs={math.ceil(epochs)}, a smaller budget, or a larger source."
        )


class Run:
    """One run in memory: model, optimiser, and where it is."""

    def __init__(self, plan: RunPlan, engine: Engine, data: TokenData, book: Logbook) -> None:
        self.plan, self.engine, self.data, self.book = plan, engine, data, book
        self.learner = Learner(
            plan.shape, engine, optim=plan.config.optim, lr=plan.lr, weight_decay=plan.weight_decay, seed=plan.config.seed
        )  # fmt: skip
        self.schedule = Schedule.from_plan(plan)
        self.loss_sum = torch.zeros((), dtype=torch.float32, device=engine.device)
        self.diverged: str | None = None
        self.restore(Progress(run_hash=self.identity))

    @property
    def identity(self) -> str:
        """What a checkpoint must belong to: the run, and the very tokens it was trained on.

        A plan names its text, but the text may change: other files, another Python's library.
        """
        return f"{self.plan.hash}-{self.data.data_hash}"

    def restore(self, progress: Progress) -> None:
        """Take up the counters of a checkpoint."""
        self.step, self.loss_count = progress.step, progress.loss_count
        self.loss_sum.fill_(progress.loss_sum)
        self.seconds, self.train_seconds, self.row_seconds = (
            progress.seconds,
            progress.train_seconds,
            progress.row_seconds,
        )
        self._mark = self._saved = time.perf_counter()

    def steps(self) -> Iterator[int]:
        """Train step by step; yields after each step that is a time to look up, and at the end."""
        train = self.plan.config.train
        rows = log_points(self.plan.steps, train.log_points)
        evals = eval_points(self.plan.steps, train.evals)
        while self.step < self.plan.steps:
            norm = self.take_step()
            if self.step in rows:
                self.write_row(norm)
                if self.diverged:
                    return
            if self.step in evals and self.step < self.plan.steps:
                self.validate()
            if time.perf_counter() - self._saved > train.checkpoint_seconds:
                self.save()
            yield self.step

    def take_step(self) -> Tensor:
        """Do one optimiser step; returns the gradient norm before clipping."""
        plan, context = self.plan, self.plan.shape.context
        inputs, targets = self.data.batch(
            self.step, batch_seqs=plan.batch_seqs, context=context, seed=plan.order_seed
        )
        try:
            loss, norm = self.learner.learn(inputs, targets, lr=self.schedule.lr_at(self.step))
        except torch.OutOfMemoryError as error:
            half = max(1, self.engine.micro_seqs // 2) * context
            raise TrainError(
                f"{plan.run_id}: out of device memory. Set train.micro_batch_tokens={half}."
            ) from error
        self.loss_sum += loss
        self.loss_count += 1
        self.step += 1
        return norm

    def write_row(self, norm: Tensor) -> None:
        """Write the mean training loss since the last row; a loss that is not finite ends the run."""
        loss = self.loss_sum.item() / self.loss_count  # waits for the device
        self._lap(training=True)
        if not math.isfinite(loss):
            self.diverged = f"training loss is {loss} at step {self.step} of {self.plan.steps}. Lower optim.lr_scale."
        rate = self.loss_count * self.plan.batch_tokens / self.row_seconds
        self.book.refresh(**self._speed())
        self.book.add(
            self._where() | {
                "train_loss": loss, "lr": self.schedule.lr_at(self.step - 1),
                "grad_norm": norm.item(), "tokens_per_second": rate,
            }
        )  # fmt: skip
        self.loss_sum.zero_()
        self.loss_count, self.row_seconds = 0, 0.0

    def validate(self) -> Evaluation:
        """Evaluate on the held-out tokens and write a row."""
        self._lap(training=True)
        result = evaluate(
            self.learner.model,
            self.data,
            context=self.plan.shape.context,
            autocast=self.engine.autocast,
        )
        self._lap(training=False)
        self.book.add(self._where() | {"val_loss": result.loss, "val_excess": result.excess})
        return result

    def save(self) -> None:
        """Write a checkpoint."""
        self._lap(training=True)
        progress = Progress(
            run_hash=self.identity, step=self.step, loss_sum=self.loss_sum.item(), loss_count=self.loss_count,
            seconds=self.seconds, train_seconds=self.train_seconds, row_seconds=self.row_seconds,
        )  # fmt: skip
        if self.learner.is_finite():  # else the next row ends the run
            save_checkpoint(self.plan.folder, self.learner.model, self.learner.optimizer, progress)
        self.book.refresh(
            now=True,
            step=self.step,
            tokens=self.step * self.plan.batch_tokens,
            seconds=self.seconds,
        )
        self._lap(training=False)
        self._saved = time.perf_counter()

    def _where(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.step * self.plan.batch_tokens,
            "seconds": round(self.seconds, 3),
        }

    def _speed(self) -> dict[str, Any]:
        """Throughput and memory so far."""
        rate = self.step * self.plan.batch_tokens / self.train_seconds
        peak = self.engine.peak_flops()
        return {
            "tokens_per_second": rate,
            "mfu": rate * self.plan.flops.counted / peak if peak else None,
            "memory_bytes": self.engine.peak_memory(),
        }

    def _lap(self, *, training: bool) -> None:
        """Book the time since the last lap as training or as something else."""
        now = time.perf_counter()
        self.seconds += now - self._mark
        if training:
            self.train_seconds += now - self._mark
            self.row_seconds += now - self._mark
        self._mark = now


def log_points(steps: int, count: int) -> frozenset[int]:
    """Return the steps after which a training row is written, evenly spaced; the last is one."""
    return frozenset(
        math.ceil(steps * i / min(count, steps)) for i in range(1, min(count, steps) + 1)
    )


def eval_points(steps: int, count: int) -> frozenset[int]:
    """Return the steps after which the model is validated, evenly in log tokens; the last is one."""
    first = max(1.0, steps / 10**EVAL_DECADES)
    ratio = (steps / first) ** (1 / max(1, count - 1))
    return frozenset(round(steps / ratio**i) for i in range(count))
