"""Which unfinished runs train next, and which of them together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from scaling.study.trunks import find_trunks
from scaling.training.checkpoint import Progress, peek_checkpoint
from scaling.training.member import Member
from scaling.training.stack import choose_stack, stack_key
from scaling.training.team import Slot


def line_up(members: Sequence[Member]) -> list[Slot]:
    """Choose the members that train next, by slot.

    A slot is a run and those that are still on its trunk. Slots that are at one step, have one
    shape and batch, and end together train as one stack where that is faster.

    Args:
        members: unfinished runs, at least one.

    Returns:
        Slots of one team; in each, the run that goes on longest comes first.
    """
    standing = {m.plan.run_id: peek_checkpoint(m.plan.folder, run_hash=m.identity) for m in members}
    first, *others = _slots(members, standing)
    alike = [
        first,
        *(s for s in others if _in_step(first[0], standing) == _in_step(s[0], standing)),
    ]
    head = first[0]
    most = choose_stack(
        head.plan.shape, head.engine, batch_seqs=head.plan.batch_seqs, runs=len(alike), most=head.plan.config.train.stack
    )  # fmt: skip
    return alike[:most]


def _in_step(head: Member, standing: dict[str, Progress | None]) -> Hashable:
    """What slots of one stack have in common: what can be stacked, where they are, where they end."""
    progress = standing[head.plan.run_id]
    return stack_key(head.plan, head.engine), head.plan.steps, progress.step if progress else 0


def _slots(members: Sequence[Member], standing: dict[str, Progress | None]) -> list[Slot]:
    """Put every member in a slot: fresh ones with the trunk they belong to."""
    by_id = {m.plan.run_id: m for m in members}
    own = [m for m in members if standing[m.plan.run_id] is not None]
    slots: list[Slot] = [[m] for m in own]
    carried: set[str] = set()
    for slot in slots:  # runs that were on its trunk when it was saved
        progress = standing[slot[0].plan.run_id]
        assert progress is not None
        joining = [r for r in progress.shared if r in by_id and standing[r] is None]
        slot += [by_id[r] for r in joining if r not in carried]
        carried |= set(joining)
    fresh = [m for m in members if standing[m.plan.run_id] is None and m.plan.run_id not in carried]
    for trunk in find_trunks([m.plan for m in fresh]):
        slots.append([by_id[p.run_id] for p in trunk.runs])
    return slots
