"""Runs that train in lockstep: one learner, and in each of its slots the runs that share weights.

A run alone is a team of one. Members of one slot are on one trunk and leave it when their cooldown
begins; slots of one learner are a stack of models of one shape, each with its own batches and rate.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from scaling.study.errors import TrainError
from scaling.training.checkpoint import Progress, load_checkpoint
from scaling.training.device import Engine
from scaling.training.energy import Meter
from scaling.training.evaluate import Evaluation, evaluate, evaluate_sets
from scaling.training.huggingface import starting_tensors
from scaling.training.learner import Learner
from scaling.training.member import Member
from scaling.training.model import Transformer
from scaling.training.scores import MissingScores
from scaling.training.stack import StackedLearner

Slot = list[Member]  # members that share weights; the first is the one that goes on longest


class Team:
    """Members, their learner, and the steps they take together.

    Args:
        learner: as many slots as `slots` has.
        engine: what it executes on.
        slots: members by slot, all at one step after `load`; the first of each goes on longest.
        meter: what measures energy; null: nothing does.
    """

    def __init__(
        self, learner: Learner | StackedLearner, engine: Engine, slots: Sequence[Slot],
        meter: Meter | None = None,
    ) -> None:  # fmt: skip
        self.learner, self.engine, self.meter = learner, engine, meter
        self.slots = [list(slot) for slot in slots]
        self.step = 0
        self.half_done = False  # within a step: weights are neither old nor new
        self.prompt: Callable[[], AbstractContextManager] = contextlib.nullcontext
        self._scores: dict[int, Evaluation] = {}  # of this step, by slot
        self._first = True
        self._saved_step = -1
        self._mark = self._saved = time.perf_counter()

    @property
    def members(self) -> list[Member]:
        """Members that are still training here."""
        return [m for slot in self.slots for m in slot if m.reason is None]

    def load(self) -> bool:
        """Restore every slot from its first member's checkpoint.

        Returns:
            Whether all slots are at one step, so that the team can go on together.
        """
        steps = set()
        for number, slot in enumerate(self.slots):
            head = slot[0]
            progress, problems = load_checkpoint(
                head.plan.folder,
                lambda tensors, number=number: self.learner.load(number, tensors),  # type: ignore[misc]
                run_hash=head.identity,
            )
            head.book.warn(*problems)
            if problems and progress.step == 0:
                head.book.warn(
                    "none of its checkpoints can be used; it starts again from the first step"
                )
            if head.plan.source is not None and progress.step == 0:
                self.learner.begin(number, self._begun(number, head))
            head.restore(progress)
            for member in slot[1:]:
                member.restore(_shared(progress, member))
            steps.add(progress.step)
        self.step = max(steps)
        return len(steps) == 1

    def _begun(self, number: int, head: Member) -> dict[str, Tensor]:
        """Return the weights of a slot that starts from others: theirs, and fresh ones where they have none."""
        source, shape = head.plan.source, head.plan.shape
        assert source is not None
        fresh = functools.partial(self.learner.weights, number)
        return starting_tensors(source, shape, rows=head.plan.rows, fresh=fresh)

    def open_books(self) -> None:
        """Cut the rows that will be written again."""
        for member in self.members:
            member.book.refresh(stacked=len(self.slots) if len(self.slots) > 1 else None)
            member.book.go_on_from(member.step)
            member.book.measured_by(
                self.meter.source if self.meter else None, again=member.step > 0
            )
        if self.meter:
            self.meter.take()  # until now it was nobody's
        self._mark = self._saved = time.perf_counter()

    def steps(self) -> Iterator[int]:
        """Train step by step to the end of every slot's first member; yields after every step."""
        # not the longest plan of all: a branch may cool down past the end of its trunk
        last = max(slot[0].plan.steps for slot in self.slots)
        every = min(m.plan.config.train.checkpoint_seconds for m in self.members)
        if self.step:  # a notice may have come before these were done
            self._validate_due()
            self._let_go()
        while self.step < last and self.members:
            norms = self._take_step()
            self._write_rows(norms)
            self._validate_due()
            self._let_go()
            self._drop_diverged()
            if time.perf_counter() - self._saved > every:
                self.save()
            yield self.step

    def save(self) -> None:
        """Write a checkpoint of every slot, with the counters of all who share it."""
        self._lap(training=True)
        for number, slot in enumerate(self.slots):
            if all(m.ended for m in slot):
                continue
            alive = [m for m in slot if m.reason is None]
            if alive and self.learner.is_finite(number):  # else it ends at a row
                head = max(alive, key=lambda m: m.leaves_at)
                shared = {m.plan.run_id: _counters(m) for m in alive if m is not head}
                head.save(self.learner.tensors(number), shared=shared)
            for member in slot:
                member.refresh()
        self._lap(training=False)
        self._saved, self._saved_step = time.perf_counter(), self.step

    def save_if_whole(self) -> None:
        """Write checkpoints before the process ends, unless a step is half done or they are there."""
        if not self.half_done and self._saved_step != self.step and self.step > 0:
            self.save()

    def finish(self) -> None:
        """Evaluate those that reached their end and close every book that is still open here."""
        self.learner.settle()
        for number, slot in enumerate(self.slots):
            for member in slot:
                if member.reason is not None:
                    member.close("diverged", member.reason)
                else:
                    self._validate(number, [member])
                    self._score_sets(number, member)
                    self._take_measures(number, member)
                    member.finish(self._scores[number], self.learner.weights(number))

    def _take_step(self) -> list[Tensor]:
        """Do one optimiser step in every slot; returns gradient norms before clipping."""
        heads = [slot[0] for slot in self.slots]
        batches = [head.batch() for head in heads]
        rates = [head.schedule.lr_at(self.step) for head in heads]
        if len(batches) == 1:  # no copy
            inputs, targets = (part[None] for part in batches[0])
        else:
            inputs, targets = (np.stack(parts) for parts in zip(*batches, strict=True))
        self.half_done = True
        # before the first step ends nothing is new, and it may compile for a minute
        with self.prompt() if self._first else contextlib.nullcontext():
            losses, norms = self._learn(inputs, targets, rates)
        self._first = False
        for slot, loss in zip(self.slots, losses.unbind(), strict=True):
            for member in slot:
                member.count(loss)
        self.step += 1
        self.half_done = False
        self._scores = {}
        return list(norms.unbind())

    def _learn(
        self, inputs: np.ndarray, targets: np.ndarray, rates: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        try:
            return self.learner.learn(inputs, targets, lr=rates)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainError(self._too_large()) from error

    def _too_large(self) -> str:
        plan, where = self.slots[0][0].plan, self.engine.device
        if len(self.slots) > 1:
            return f"{plan.run_id}: out of memory on {where} with {len(self.slots)} runs in one program. Set train.stack=1."
        if self.engine.micro_seqs == 1:
            return f"{plan.run_id}: out of memory on {where} with one sequence at a time. Set train.recompute=true, or free some memory."
        half = self.engine.micro_seqs // 2 * plan.shape.context
        return f"{plan.run_id}: out of memory on {where}. Set train.micro_batch_tokens={half}."

    def _write_rows(self, norms: Sequence[Tensor]) -> None:
        due = [(n, m) for n, m in self._numbered() if self.step in m.row_steps]
        if not due:
            return
        values = {n: norms[n].item() for n in {n for n, _ in due}}  # waits for the device
        self._lap(training=True)
        for number, member in due:
            member.write_row(values[number])

    def _validate_due(self) -> None:
        for number, member in self._numbered():
            due = self.step in member.eval_steps and self.step < member.plan.steps
            if due and not member.has_row("val_loss"):
                self._validate(number, [member])

    def _validate(self, number: int, members: Sequence[Member]) -> None:
        """Score the weights of a slot, once per step, and write a row for each member."""
        self._lap(training=True)
        if number not in self._scores:
            with self.prompt():
                self._scores[number] = evaluate(
                    self.learner.module(number),
                    members[0].data,
                    context=members[0].plan.shape.context,
                    objective=members[0].objective,
                    autocast=self.engine.autocast,
                )
        self._lap(training=False)
        for member in members:
            member.write_evaluation(self._scores[number])

    def _score_sets(self, number: int, member: Member) -> None:
        """Score the further validation sets of a run that has reached its end."""
        with self.prompt():
            values = evaluate_sets(
                self.learner.module(number),
                member.data.sets,
                context=member.plan.shape.context,
                objective=member.objective,
                autocast=self.engine.autocast,
            )
        self._lap(training=False)
        member.write_sets(values)

    def _take_measures(self, number: int, member: Member) -> None:
        """Judge a run that has reached its end by more than its loss, where it learned more than text."""
        if member.objective is None:
            return
        from scaling.training.measures import take_all

        model = self.learner.plain(number)
        if not isinstance(model, Transformer):
            member.book.warn(
                f"measures: no process has the whole model under train.parallel=fsdp, so none were taken. Take them from the kept weights: scaling evaluate {member.plan.folder} measures=true"
            )
            return
        try:
            with self.prompt():
                found = take_all(
                    model,
                    member.data,
                    member.plan,
                    autocast=self.engine.autocast,
                )
            member.book.refresh(measures={**(member.book.record.measures or {}), **found} or None)
        except MissingScores as error:
            member.book.warn(str(error))
        self._lap(training=False)

    def _let_go(self) -> None:
        """Send off the members whose own cooldown begins; they go on alone later."""
        for number, slot in enumerate(self.slots):
            leaving = [m for m in slot[1:] if m.leaves_at == self.step and m.reason is None]
            if leaving:
                self._lap(training=True)
                tensors = self.learner.tensors(number)
                for member in leaving:
                    member.branch(tensors, slot[0])
                    slot.remove(member)
                self._lap(training=False)

    def _drop_diverged(self) -> None:
        """Close the slots whose runs have diverged, so that the others no longer pay for them."""
        kept = [n for n, slot in enumerate(self.slots) if any(m.reason is None for m in slot)]
        if not 0 < len(kept) < len(self.slots) or not isinstance(self.learner, StackedLearner):
            return
        self._lap(training=True)
        for member in (m for n, slot in enumerate(self.slots) if n not in kept for m in slot):
            member.close("diverged", member.reason)
        self.slots = [self.slots[n] for n in kept]
        self.learner, self._scores = self.learner.keep(kept), {}
        self._lap(training=False)

    def _numbered(self) -> list[tuple[int, Member]]:
        return [(n, m) for n, slot in enumerate(self.slots) for m in slot if m.reason is None]

    def _lap(self, *, training: bool) -> None:
        """Book time and energy since the last lap; slots that train together share them equally."""
        now = time.perf_counter()
        joules = self.meter.take() if self.meter else None
        for member in self.members:
            member.add_time((now - self._mark) / len(self.slots), training=training)
            member.add_energy(None if joules is None else joules / len(self.slots))
        self._mark = now


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is used up: torch has a type for GPUs, a text for CPUs."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "bad_alloc" in text
    )


def _counters(member: Member) -> dict[str, float]:
    """What a member on another's trunk needs to go on: its counters, under its own identity."""
    progress = member.progress()
    names = (
        "run_hash",
        "step",
        "loss_sum",
        "loss_count",
        "seconds",
        "train_seconds",
        "row_seconds",
        "joules",
    )
    return {name: getattr(progress, name) for name in names}


def _shared(progress: Progress, member: Member) -> Progress:
    """Return where a member of a trunk is by its head's checkpoint; at the start if that is fresh."""
    if progress.step == 0:
        return Progress(run_hash=member.identity)
    return Progress(**progress.shared[member.plan.run_id])
