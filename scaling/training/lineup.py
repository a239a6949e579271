"""Which unfinished runs train next, and which of them together."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.study.trunks import find_trunks
from scaling.training.checkpoint import Progress, peek_checkpoint
from scaling.training.member import Member
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
    return [_slots(members, standing)[0]]


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
