"""Where the runs of a sweep stand as it is launched again: what is left, and one line that says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaling.cli.compose import Point
from scaling.study.errors import DamagedError, RecordError
from scaling.study.plan import RunPlan
from scaling.study.record import FINISHED, RunRecord, mend_record, read_record
from scaling.study.retries import Tries, count_tries, failures_of
from scaling.training.claim import find_holder

Runs = list[tuple[Point, RunPlan]]
MOST_LISTED = 3  # values of a kind that a line names
MOST_CHARACTERS = 110  # of a reason in that line; the record has it whole


@dataclass(frozen=True)
class Standing:
    """One run as a launch finds it.

    state: done, diverged, running (elsewhere), interrupted, failed, waiting or unreadable (by
        another version, or not to be opened).
    share: of its steps that are done; note: who trains it, or what is wrong; tries: if it failed;
    mended: what was done about a damaged record.
    """

    state: str
    share: float = 0.0
    note: str = ""
    tries: Tries | None = None
    mended: str | None = None
    failures: int = 0

    @property
    def open(self) -> bool:
        """Whether there is something to train, here or elsewhere, without being asked for."""
        if self.tries is not None:
            return not self.tries.spent
        return self.state not in (*FINISHED, "unreadable")


def find_standing(plan: RunPlan, *, before: int = 0) -> Standing:
    """Return where a run stands; a damaged record is put right first.

    Args:
        plan: the run.
        before: failures that are not counted; see `count_tries`.
    """
    mended = None
    try:
        try:
            record = read_record(plan.folder, copy=False)
        except DamagedError:
            with contextlib.suppress(OSError):  # where nothing can be written
                mended = mend_record(plan.folder)
            record = read_record(plan.folder)
    except RecordError as error:
        there = (plan.folder / "run.json").exists() and not isinstance(error, DamagedError)
        holder = _holder(plan)
        return Standing(
            "unreadable" if there else "running" if holder else "waiting",
            note=str(error) if there else holder or "", mended=mended,
        )  # fmt: skip
    return _standing(plan, record, before, mended)


def _standing(plan: RunPlan, record: RunRecord, before: int, mended: str | None) -> Standing:
    share = (record.steps or 0) / plan.steps
    if record.status in FINISHED:
        return Standing(record.status, share, record.reason or "", mended=mended)
    if holder := _holder(plan):
        return Standing("running", share, holder, mended=mended)
    if record.status == "failed":
        tries = count_tries(record, plan.config, before=before)
        return Standing(
            "failed", share, tries.reason, tries, mended, failures=len(failures_of(record))
        )
    return Standing("interrupted", share, mended=mended)


def _holder(plan: RunPlan) -> str | None:
    return find_holder(plan.folder, takeover=plan.config.claim.takeover)


def failures_before(plans: Iterable[RunPlan]) -> dict[str, int]:
    """Return, by run id, the failures that no longer count, for runs with `retry.again`."""
    found = {}
    for plan in plans:
        if plan.config.retry.again:
            with contextlib.suppress(RecordError):
                found[plan.run_id] = len(failures_of(read_record(plan.folder)))
    return found


def describe_standings(standings: Sequence[Standing]) -> str:
    """Say in one line how a sweep stands: `12 runs: 7 done, 2 interrupted (continue at 40 %, 85 %), 3 waiting`."""
    groups: dict[str, list[Standing]] = {}
    for state in ("done", "diverged", "running", "interrupted", "failed", "unreadable", "waiting"):
        groups[state] = [s for s in standings if s.state == state]
    parts = []
    for state, found in groups.items():
        if found:
            detail = _DETAILS[state](found)
            parts.append(f"{len(found)} {state}" + (f" ({detail})" if detail else ""))
    return f"{count(len(standings), 'run')}: {', '.join(parts)}"


def _shares(found: Sequence[Standing]) -> str:
    shares = [f"{100 * s:.0f} %" for s in sorted(s.share for s in found)]
    if len(shares) > MOST_LISTED:
        shares = [f"{shares[0]} to {shares[-1]}"]
    return f"{'continues' if len(found) == 1 else 'continue'} at {', '.join(shares)}"


def _holders(found: Sequence[Standing]) -> str:
    return f"by {_listed(sorted({s.note for s in found}))}"


def _failures(found: Sequence[Standing]) -> str:
    """Say of each kind of failure how often it was met and which try comes now."""
    counts: dict[str, int] = {}
    for standing in found:
        assert standing.tries is not None
        text = f"{_try(standing.tries)}: {shorten(standing.tries.reason)}"
        counts[text] = counts.get(text, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return _listed([f"{n} x {t}" if n > 1 else t for t, n in ordered], between="; ")


def _try(tries: Tries) -> str:
    if not tries.spent:
        return f"try {tries.used + 1} of {tries.allowed}"
    if tries.used >= tries.allowed:
        return f"{count(tries.used, 'try', 'tries')} spent"
    return "not tried again"


def _unreadable(found: Sequence[Standing]) -> str:
    return f"left alone: {_listed((s.note for s in found), between='; ')}"


_DETAILS = {
    "done": lambda found: "",
    "diverged": lambda found: "stays" if len(found) == 1 else "stay",
    "running": _holders,
    "interrupted": _shares,
    "failed": _failures,
    "unreadable": _unreadable,
    "waiting": lambda found: "",
}


def describe_spent(standings: Mapping[str, Standing]) -> str:
    """Say which runs are not tried again, and how to ask for it; an empty string if there are none."""
    spent = [i for i, s in standings.items() if s.tries is not None and s.tries.spent]
    if not spent:
        return ""
    most = max(s.tries.allowed for i in spent if (s := standings[i]).tries is not None)
    return (
        f"{_listed(spent)}: failed and not tried again. Once the cause is cured say retry.again=true"
        f" (or retry.failed={most}, one try more)."
    )


def find_strays(folder: Path, plans: Iterable[RunPlan]) -> int:
    """Count the fitted runs of a sweep's folder that the sweep, as it now is, does not ask for."""
    known = {plan.run_id for plan in plans}
    strays = 0
    for path in folder.glob("[!.]*/run.json"):  # hidden: halves of a merge
        if path.parent.name not in known:
            with contextlib.suppress(RecordError):
                record = read_record(path.parent)
                strays += record.role == "fit" and record.retry_of is None
    return strays


def describe_strays(number: int, folder: Path) -> str:
    """Say that runs of another configuration stay where they are; an empty string for none."""
    if not number:
        return ""
    stays = "stays in the folder and is" if number == 1 else "stay in the folder and are"
    return (
        f"{count(number, 'run')} of {folder} {'is' if number == 1 else 'are'} not asked for by the sweep as it now is "
        f"(its configuration or design was changed); {stays} read by a fit. Move away what should not be fitted together."
    )


def count(number: int, one: str, many: str | None = None) -> str:
    """Write a number with its noun: `1 run`, `3 runs`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def shorten(text: str) -> str:
    """Return a reason's first line, cut to what fits into a summary."""
    first = (text.strip().splitlines() or [""])[0]
    return first if len(first) <= MOST_CHARACTERS else f"{first[: MOST_CHARACTERS - 3].rstrip()}..."


def _listed(texts: Iterable[str], *, between: str = ", ") -> str:
    texts = list(texts)
    more = len(texts) - MOST_LISTED
    return between.join(texts[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
