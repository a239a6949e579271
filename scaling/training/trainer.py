"""Train runs from their plans to their records; go on where an interrupted one stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scaling.study.errors import BusyError, DataError, ScalingError, TrainError
from scaling.study.plan import RunPlan
from scaling.study.record import RunRecord, check_writable, mend_record, read_record
from scaling.training.checkpoint import remove_parts
from scaling.training.claim import Claim
from scaling.training.data import TokenData, prepare
from scaling.training.device import Engine, choose_engine
from scaling.training.energy import Meter, open_meter
from scaling.training.foresight import check_data
from scaling.training.interrupt import Interrupt, Notice
from scaling.training.learner import Learner
from scaling.training.lineup import line_up
from scaling.training.logbook import Logbook, OnProgress, finished_record
from scaling.training.member import Member
from scaling.training.simulated import simulate_run
from scaling.training.stack import build_stack
from scaling.training.team import Slot, Team, is_out_of_memory
from scaling.training.world import World, join


def train(plan: RunPlan, *, on_progress: OnProgress | None = None) -> RunRecord:
    """Train a run to the end of its plan and return its record.

    A run that is already done or has diverged is returned as it is; one that was interrupted goes
    on from its last checkpoint, to the bit. A notice (Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2) saves a checkpoint,
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
    return train_together([plan], on_progress=on_progress)[0]


def train_together(
    plans: Sequence[RunPlan], *, on_progress: OnProgress | None = None
) -> list[RunRecord]:
    """Train several runs in this process, sharing what can be shared.

    Runs on one trunk (see `scaling.study.trunks`) train their common steps once; runs of one shape
    train as one stacked program where that is faster. Each has the losses it would have had alone.

    Args:
        plans: the runs; one that cannot be trained does not stop the others.
        on_progress: as in `train`, called for every run.

    Returns:
        Their records, in order.

    Raises:
        ScalingError: the first one's error, after all others were trained; else as `train`.
    """
    with contextlib.ExitStack() as stack:
        # 1. of several processes the first does all that follows, the others what it asks of them
        world = stack.enter_context(join(plans[0].config.train)) if plans else None
        if world is not None and not world.first:
            # FSDP takes seconds to import, which a run of one process does not need
            from scaling.training.distributed import follow

            return follow(world)
        # 2. everything that can be taken, then team after team
        interrupt = stack.enter_context(Interrupt())
        job = Job(interrupt, on_progress, world)
        stack.callback(job.close)
        try:
            for plan in plans:
                job.take(plan, stack)
            job.run()
        except Notice:
            job.leave()
            interrupt.stop()
        if job.errors:
            raise job.first_error()
        records = [read_record(plan.folder) for plan in plans]
        if world is not None:
            world.result = records
        return records


class Job:
    """What one process trains, one team after another."""

    def __init__(
        self,
        interrupt: Interrupt,
        on_progress: OnProgress | None = None,
        world: World | None = None,
    ) -> None:
        self.interrupt, self.on_progress, self.world = interrupt, on_progress, world
        self.books: list[Logbook] = []
        self.claims: dict[Path, Claim] = {}
        self.members: list[Member] = []  # not finished
        self.errors: dict[Path, Exception] = {}
        self._data: dict[str, TokenData] = {}
        self._meters: dict[str, Meter | None] = {}  # by device

    def take(self, plan: RunPlan, stack: contextlib.ExitStack) -> None:
        """Claim a run and open its book and data; finished runs are left as they are."""
        # 1. what is finished is not trained again
        with self._recording(plan.folder, plan, None):
            if finished_record(plan.folder) is not None:
                return
            check_writable(plan.folder)
            # 2. one process per run; another may have finished it meanwhile
            claim = stack.enter_context(Claim(plan.folder, takeover=plan.config.claim.takeover))
            mended = mend_record(plan.folder)
            if finished_record(plan.folder) is not None:
                return
            self.claims[plan.folder] = claim
            remove_parts(plan.folder)
            # 3. its book, and all that may be wrong with its data or this machine
            book = Logbook(plan, on_progress=self.on_progress)
            self.books.append(book)
            with self._recording(plan.folder, plan, book):
                if claim.taken_over:
                    book.note(claim.taken_over)
                if mended:
                    book.warn(mended)
                if plan.config.data.source == "zipf_memory":
                    simulate_run(plan, book)
                    return
                self.members.append(self._member(plan, book))

    def run(self) -> None:
        """Train team after team until every member has an end."""
        while self.members:
            slots: list[Slot] = [self.members]
            team = None
            try:
                slots = line_up(self.members)
                if self.world is not None:  # processes are not for models so small that they stack
                    slots = slots[:1]
                team = self._team(slots)
                if not team.load():  # a checkpoint was damaged: they are no longer in step
                    team = self._team(slots[:1])
                    team.load()
                self._train(team)
            except Exception as error:
                stopped = slots if team is None else team.slots
                self._fail([m for slot in stopped for m in slot], error)
                self.interrupt.check()
                if self.world is not None:  # the others may wait in the middle of a step
                    return
            self.members = [m for m in self.members if not m.ended]

    def close(self) -> None:
        """End the threads that measure energy."""
        for meter in filter(None, self._meters.values()):
            meter.close()

    def first_error(self) -> Exception:
        """Return what to raise: that a run is another process's only if nothing else is wrong."""
        return min(self.errors.values(), key=lambda error: isinstance(error, BusyError))

    def leave(self) -> None:
        """Say in the records that are still open what ended this process."""
        assert self.interrupt.signal is not None
        for book in self.books:
            if book.record.status == "running":
                step = f" at step {book.record.steps}" if book.record.steps else ""
                book.end(
                    "running",
                    f"interrupted by {self.interrupt.signal.name}{step}; start it again to go on",
                )

    def _member(self, plan: RunPlan, book: Logbook) -> Member:
        engine = self._engine(plan)
        key = repr((plan.config.data, plan.shape.context))
        if key not in self._data:
            self._data[key] = prepare(plan.config.data, context=plan.shape.context)
        data = self._data[key]
        check_data(plan, data)
        book.describe(engine, data)
        return Member(plan, engine, data, book)

    def _engine(self, plan: RunPlan) -> Engine:
        size, beside = 1, 1
        if self.world is not None:
            from scaling.training.distributed import check_rows

            size, beside = self.world.size, self.world.place.local_size
            check_rows(plan.batch_seqs, size)
        return choose_engine(
            plan.shape, batch_seqs=plan.batch_seqs, train=plan.config.train, tokens=plan.tokens,
            processes=size, beside=beside,
        )  # fmt: skip

    def _team(self, slots: Sequence[Slot]) -> Team:
        """Build the learner of a line-up: one model, or a stack of them."""
        engine: Engine = slots[0][0].engine
        plans = [slot[0].plan for slot in slots]
        if self.world is not None:
            from scaling.training.distributed import DistributedLearner

            learner: Any = DistributedLearner(self.world, plans[0], engine)
        elif len(plans) == 1:
            learner = Learner.from_plan(plans[0], engine)
        else:
            learner = build_stack(plans, engine)
        return Team(learner, engine, slots, self._meter(engine))

    def _meter(self, engine: Engine) -> Meter | None:
        """Return what measures the devices of this job's runs; null where some are elsewhere."""
        place = None if self.world is None else self.world.place
        if place is not None and place.local_size != place.size:
            return None
        name = str(engine.device)
        if name not in self._meters:
            self._meters[name] = open_meter(engine.device, devices=place.size if place else 1)
        return self._meters[name]

    def _train(self, team: Team) -> None:
        """Take a team to its end; members that branch off stay for a later team."""
        if self.world is None:  # several processes have to stay in step
            team.prompt = self.interrupt.prompt
        with self.interrupt.deferred():
            team.open_books()
            try:
                for _ in team.steps():
                    for claim in self.claims.values():
                        claim.beat()
                    if self.world is not None and not self.interrupt.signal:
                        self.interrupt.signal = self.world.notice()
                    self.interrupt.check()
                team.finish()
            except (Notice, DataError):  # not the fault of what was trained
                team.save_if_whole()
                raise

    def _fail(self, members: Sequence[Member], error: Exception) -> None:
        """Record an error with every run that it stopped, and go on with the others.

        Runs of the team that had ended, or had left it, are not touched.
        """
        for member in (m for m in members if not m.ended):
            member.ended = True
            if not self.claims[member.plan.folder].lost:
                with contextlib.suppress(OSError):  # on a full disk even this may fail
                    member.book.fail(error)
            self.errors[member.plan.folder] = _explained(error, member.plan.folder)

    @contextlib.contextmanager
    def _recording(self, folder: Path, plan: RunPlan, book: Logbook | None) -> Iterator[None]:
        """Keep an error for the end, and in the record if there is one."""
        try:
            yield
        except Exception as error:  # recorded, whatever it is, and raised at the end
            if book is not None:
                with contextlib.suppress(OSError):
                    book.fail(error)
            self.errors[folder] = _explained(error, folder)


def _explained(error: Exception, folder: Path) -> Exception:
    """Say of a full disk, a lost share or used-up memory which run it stopped and how that goes on."""
    if is_out_of_memory(error):
        first = (str(error).strip().splitlines() or ["MemoryError"])[0]
        return TrainError(
            f"{folder}: out of memory ({first}). Free some, or set a smaller train.micro_batch_tokens or train.stack=1; "
            "started again, the run goes on from its last checkpoint."
        )
    if not isinstance(error, OSError) or isinstance(error, ScalingError):
        return error
    explained = TrainError(
        f"{folder}: stopped by the file system ({error.strerror or error}). Free some space or repair it; "
        "started again, the run goes on from its last checkpoint."
    )
    explained.__cause__ = error
    return explained
