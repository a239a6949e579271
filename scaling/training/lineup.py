"""Which unfinished runs train next, and which of them together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

from scaling.study.plan import RunPlan
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
    # by folder: one run may be asked for in two sweeps, which keep a record each
    standing = {m.plan.folder: peek_checkpoint(m.plan.folder, run_hash=m.identity) for m in members}
    first, *others = _slots(members, standing)
    alike = [
        first,
        *(s for s in others if _in_step(first[0], standing) == _in_step(s[0], standing)),
    ]
    head = first[0]
    if head.plan.config.finetune.parts != "all":  # a stack trains every weight
        return [first]
    most = choose_stack(
        head.plan.shape, head.engine, batch_seqs=head.plan.batch_seqs, runs=len(alike), most=head.plan.config.train.stack
    )  # fmt: skip
    return alike[:most]


Standing = dict[Path, Progress | None]  # the newest checkpoint of each run, by its folder


def _in_step(head: Member, standing: Standing) -> Hashable:
    """What slots of one stack have in common: what can be stacked, where they are, where they end."""
    progress = standing[head.plan.folder]
    return stack_key(head.plan, head.engine), head.plan.steps, progress.step if progress else 0


def _slots(members: Sequence[Member], standing: Standing) -> list[Slot]:
    """Put every member in a slot: fresh ones with the trunk they belong to."""
    by_folder = {m.plan.folder: m for m in members}
    slots: list[Slot] = [[m] for m in members if standing[m.plan.folder] is not None]
    carried: set[Path] = set()
    for slot in slots:  # runs that were on its trunk when it was saved
        progress = standing[slot[0].plan.folder]
        assert progress is not None
        saved = [slot[0].plan.folder.parent / run_id for run_id in progress.shared]
        joining = [f for f in saved if f in by_folder and standing[f] is None and f not in carried]
        slot += [by_folder[f] for f in joining]
        carried |= set(joining)
    fresh: dict[Hashable, list[RunPlan]] = {}
    for m in members:
        if standing[m.plan.folder] is None and m.plan.folder not in carried:
            fresh.setdefault(_arithmetic(m), []).append(m.plan)
    for plans in fresh.values():
        slots += [[by_folder[p.folder] for p in trunk.runs] for trunk in find_trunks(plans)]
    return slots


def _arithmetic(member: Member) -> Hashable:
    """What a trunk's steps are computed with and on; a branch that would take others goes alone.

    Compilation aside: `auto` chooses it by the length of a run, see docs/trunks.md.
    """
    return replace(member.engine, compile=False, graphs=False), member.data.data_hash
