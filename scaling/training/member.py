"""One run in memory, apart from its weights: where it is, what it counts, what it writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scaling.study.plan import RunPlan
from scaling.study.record import RunRecord
from scaling.study.trunks import branch_step
from scaling.training.checkpoint import (
    Progress,
    remove_checkpoints,
    save_checkpoint,
    save_weights,
)
from scaling.training.data import TokenData
from scaling.training.device import Engine
from scaling.training.evaluate import Evaluation
from scaling.training.logbook import Logbook
from scaling.training.objectives import build_objective
from scaling.training.optim import Schedule
from scaling.training.prefetch import Ahead

EVAL_DECADES = 2.0  # validation points spread over the last two decades of tokens

# A run that ends this far above ln V, the loss of uniform guessing, has diverged. Fresh weights
# score at most 0.5 nats above it (logits of variance 1).
DIVERGED_ABOVE = 1.0  # nats/token


class Member:
    """One run: its plan, schedule, counters and book.

    Members may share weights while their schedules agree (a trunk), or train side by side in one
    program (a stack); each counts and writes as if it were alone.
    """

    def __init__(self, plan: RunPlan, engine: Engine, data: TokenData, book: Logbook) -> None:
        self.plan, self.engine, self.data, self.book = plan, engine, data, book
        self.objective = build_objective(plan)
        self.schedule = Schedule.from_plan(plan)
        self.row_steps = log_points(plan.steps, plan.config.train.log_points)
        self.eval_steps = eval_points(plan.steps, plan.config.train.evals)
        self.loss_sum = torch.zeros((), dtype=torch.float32, device=engine.device)
        self.reason: str | None = None  # why it diverged
        self.ended = False  # nothing is left to do for it in this process
        # on a CPU a batch is 1 % of a step, and the core is busy
        self._ahead = Ahead(self._read, pin=True) if engine.device.type == "cuda" else None
        self.restore(Progress(run_hash=self.identity))

    @property
    def identity(self) -> str:
        """What a checkpoint must belong to: the run, and the very tokens it was trained on.

        A plan names its text, but the text may change: other files, another Python's library.
        """
        return f"{self.plan.hash}-{self.data.data_hash}"

    @property
    def leaves_at(self) -> int:
        """Steps after which it no longer shares weights with a longer run of its trunk."""
        return branch_step(self.plan)

    def restore(self, progress: Progress) -> None:
        """Take up the counters of a checkpoint."""
        self.step, self.loss_count = progress.step, progress.loss_count
        self.loss_sum.fill_(progress.loss_sum)
        self.seconds, self.train_seconds = progress.seconds, progress.train_seconds
        self.row_seconds = progress.row_seconds
        self.joules = progress.joules if progress.step else 0.0

    def progress(self, shared: Mapping[str, dict] | None = None) -> Progress:
        """Return the counters for a checkpoint, with those of runs on the same trunk."""
        return Progress(
            run_hash=self.identity, step=self.step, loss_sum=self.loss_sum.item(), loss_count=self.loss_count,
            seconds=self.seconds, train_seconds=self.train_seconds, row_seconds=self.row_seconds,
            joules=self.joules, shared=dict(shared or {}),
        )  # fmt: skip

    def batch(self) -> tuple[Any, Any]:
        """Return inputs and targets of the next step; on a GPU they were read meanwhile."""
        return self._ahead.take(self.step) if self._ahead else self._read(self.step)

    def _read(self, step: int) -> tuple[Any, Any]:
        plan = self.plan
        return self.data.batch(
            step,
            batch_seqs=plan.batch_seqs,
            context=plan.shape.context,
            seed=plan.order_seed,
            objective=self.objective,
        )

    def count(self, loss: Tensor) -> None:
        """Take in the training loss of a step that was done."""
        self.loss_sum += loss
        self.loss_count += 1
        self.step += 1

    def add_time(self, seconds: float, *, training: bool) -> None:
        """Book time as training or as something else."""
        self.seconds += seconds
        if training:
            self.train_seconds += seconds
            self.row_seconds += seconds

    def add_energy(self, joules: float | None) -> None:
        """Book energy; once a stretch is not known (null), the whole is not."""
        self.joules = None if joules is None or self.joules is None else self.joules + joules

    def write_row(self, norm: float) -> None:
        """Write the mean training loss since the last row; a loss that is not finite ends the run."""
        loss = self.loss_sum.item() / self.loss_count
        if not math.isfinite(loss):
            self.reason = f"training loss is {loss} at step {self.step} of {self.plan.steps}. Lower optim.lr_scale."
        rate = self.loss_count * self.plan.batch_tokens / self.row_seconds
        self.book.refresh(**self._speed())
        self.book.add(
            self._where() | {
                "train_loss": loss, "lr": self.schedule.lr_at(self.step - 1),
                "grad_norm": norm, "tokens_per_second": rate,
            }
        )  # fmt: skip
        self.loss_sum.zero_()
        self.loss_count, self.row_seconds = 0, 0.0

    def write_evaluation(self, result: Evaluation) -> None:
        """Write a row of validation, unless it was written before a kill."""
        if not self.has_row("val_loss"):
            self.book.add(self._where() | {"val_loss": result.loss, "val_excess": result.excess})

    def has_row(self, *names: str) -> bool:
        """Return whether a row of this step holds these values."""
        here = [row for row in self.book.rows if row["step"] == self.step]
        return any(all(name in row for name in names) for row in here)

    def write_sets(self, values: dict[str, dict[str, Any]]) -> None:
        """Take the scores of further validation sets into the record, and write a row of them."""
        if values:
            losses = {f"val_loss/{name}": v["loss"] for name, v in values.items()}
            if not self.has_row(*losses):
                self.book.add(self._where() | losses)
            self.book.refresh(val_sets=values)

    def save(
        self, tensors: Mapping[str, Tensor], *, shared: Mapping[str, dict] | None = None
    ) -> None:
        """Write a checkpoint and say so in the record; the rows before it are on disk first."""
        self.book.sync()
        save_checkpoint(self.plan.folder, tensors, self.progress(shared))
        self.refresh()

    def refresh(self) -> None:
        """Bring the record to where the run is."""
        where = self._where() | {"seconds": self.seconds}
        self.book.refresh(now=True, energy_joules=self.joules, **where)

    def branch(self, tensors: Mapping[str, Tensor], parent: Member) -> None:
        """Leave the trunk: from here on the run is alone, with a checkpoint of its own."""
        self.book.refresh(
            parent=parent.plan.run_id,
            parent_tokens=self.step * self.plan.batch_tokens,
            parent_seconds=self.seconds,
            parent_joules=self.joules,
        )
        self.save(tensors)

    def finish(self, result: Evaluation, tensors: Mapping[str, Tensor]) -> RunRecord:
        """Take the final evaluation as the run's result and close the book."""
        self.book.evaluated(result)
        too_high = math.log(self.plan.shape.vocab) + DIVERGED_ABOVE
        if not result.loss < too_high:
            return self.close(
                "diverged",
                f"final validation loss {result.loss:.3g} is above {too_high:.3g}, worse than uniform guessing. Lower optim.lr_scale.",
            )
        if self.plan.config.train.keep_checkpoint:
            save_weights(self.plan.folder, tensors)
        record = self.close("done")
        remove_checkpoints(self.plan.folder)
        return record

    def close(self, status: str, reason: str | None = None) -> RunRecord:
        """Write the last word on the run; what comes after it can no longer change it."""
        self.book.refresh(energy_joules=self.joules)
        record = self.book.end(status, reason)
        self.ended = True
        return record

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
