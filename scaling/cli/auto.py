"""scaling auto [SWEEP] target.flops=... auto.flops=... [key=value ...]: train, fit, choose, until it is known.

  scaling auto quickstart target.flops=1e14 auto.flops=2e13                  the best size at 1e14 FLOPs
  scaling auto quickstart target.flops=1e14 auto.flops=2e13 target.within=1.2
  scaling auto quickstart target.flops=1e14 auto.flops=2e13 target.decide=loss target.within=0.02
  scaling auto data=zipf_memory target.flops=1e14 auto.flops=2e12 sweep=mine   no sweep: a first design of its own
  scaling auto quickstart target.flops=1e14 auto.flops=2e13 hydra/launcher=local limits.largest=300k

Trains SWEEP, fits it, and as long as the interval of what is decided at target.flops is too wide, chooses
further runs (as `scaling next` does), trains them and fits again. It stops when the interval, over all
laws that the runs do not tell apart, is narrow enough, or auto.flops is spent. Every decision is in
results/SWEEP/decisions.md (and .jsonl): what was known, chosen, expected, and what came. The runs are in
sweeps/SWEEP_auto.yaml, for status, fit and plot. Interrupted, the same command goes on: nothing is
trained twice, and auto.flops is never exceeded. More of it, or a narrower target.within, goes on too.

Keys of `scaling fit --help` and `scaling train --help` both work here.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from scaling.cli import known_sweep, split_sweep
from scaling.cli.analyse import Analysis, analyse
from scaling.cli.compose import Sweep, compose_fit
from scaling.cli.growing import (
    Growing,
    cost_of,
    describe_cost,
    followers_of,
    most_of,
    plan_point,
    plans_of,
    spent_beside,
    start_growing,
)
from scaling.cli.journal import (
    Decision,
    Journal,
    Known,
    describe_end,
    describe_round,
)
from scaling.cli.next import read_caps
from scaling.cli.progress import say
from scaling.cli.submissions import queued_runs
from scaling.cli.train import run_train
from scaling.study.config import FitConfig, RunConfig, config_keys
from scaling.study.errors import BusyError, ConfigError, FitError, TrainError
from scaling.study.plan import RunPlan
from scaling.study.record import check_writable, is_finished
from scaling.study.units import format_flops
from scaling.training.claim import Claim, find_holder

STATE = ".auto"  # folder below that of a sweep; holds the claim of the process that decides
WITHIN = {"size": 1.3, "loss": 0.02}  # unless asked otherwise: a factor, nats/token
# of a round's allowance; the least that is expected to be enough is taken
SHARES = (0.25, 0.5, 1.0)
REST = 0.25  # what would be left of the compute below this share of a round goes into the round
ROUNDING = 1e-9  # of sums of compute
CRUMBS = 0.01  # of all compute; less is not worth a round
POLL_SECONDS = 2.0
CURVE = (0.25, 0.5, 1.0, 2.0, 4.0)  # sizes of a curve, where the law has no optimum to aim at


@dataclass(frozen=True)
class Question:
    """What is asked of the whole: where, what, how narrow, and what it may cost."""

    flops: float
    decide: str
    asked: float
    total: float
    rounds: int

    @classmethod
    def from_config(cls, config: FitConfig) -> Question:
        """Check what must be given.

        Raises:
            ConfigError: no target, no budget, or conventions other than the sweep's.
        """
        target, auto = config.target, config.auto
        if target.flops is None or auto.flops is None:
            raise ConfigError(
                "auto: say what is to be known and what it may cost, e.g. `scaling auto quickstart target.flops=1e14 auto.flops=2e13`."
            )
        if config.params or config.flops:
            raise ConfigError(
                "auto: params= and flops= follow the sweep, whose sizes and budgets are counted so. Set model.params_convention or budget.convention."
            )
        asked = WITHIN[target.decide] if target.within is None else target.within
        if target.decide == "size" and asked <= 1:
            raise ConfigError(
                f"target.within: {asked:g} is no factor above 1. For a best size known to 30 % write target.within=1.3."
            )
        return cls(target.flops, target.decide, asked, auto.flops, auto.rounds)

    def text(self) -> str:
        what = {"size": "the best size N*", "loss": "the lowest loss"}[self.decide]
        return f"What is {what} at {format_flops(self.flops)} FLOPs?"


def run_auto(arguments: Sequence[str]) -> int:
    """Train, fit and choose until the answer is narrow enough or the budget is spent."""
    name, rest = split_sweep(arguments)
    fit_keys, train_keys = split_keys(rest)
    config = compose_fit(None, fit_keys)
    question = Question.from_config(config)
    growing = start_growing(
        known_sweep(name) if name else None, train_keys, flops=question.total,
        question=question.text(), results=Path(config.results),
    )  # fmt: skip
    config = compose_fit(growing.name, fit_keys)
    folder = Path(config.results) / growing.name
    with _alone(growing.name, folder / STATE):
        journal = Journal.read(folder)
        while True:
            # 1. train what was decided
            sweep = growing.write(journal.points)
            plans = plans_of(sweep)
            _check_cost(question, plans, journal)
            _train(growing, plans, folder)
            # 2. see what is known, and decide
            decision = decide(question, growing, sweep, analyse(config), folder, rounds=len(journal.rounds))  # fmt: skip
            journal.add(decision)
            if decision.action == "stop":
                say(describe_end(decision, rounds=len(journal.rounds), folder=journal.folder))
                return 0
            say(describe_round(decision, len(journal.rounds)), file=sys.stderr)


@contextmanager
def _alone(name: str, folder: Path) -> Iterator[None]:
    """Let one process at a time decide about a sweep; two would both spend what is left.

    Raises:
        TrainError: another one does.
    """
    check_writable(folder)
    claim = Claim(folder)
    try:
        claim.__enter__()
    except BusyError:
        who = find_holder(folder) or "another process"
        raise TrainError(
            f"{name}: {who} is at it already. `scaling status {name}` shows its runs; when it has ended, the same command goes on from its decisions."
        ) from None
    try:
        yield
    finally:
        claim.__exit__()


def split_keys(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate keys of the analysis from those of training; `results` and `sweep` serve both."""
    run = {k.name.split(".")[0] for k in config_keys(RunConfig)}
    fit = {k.name.split(".")[0] for k in config_keys(FitConfig)} - run
    heads = [a.lstrip("+~").partition("=")[0].split(".")[0] for a in arguments]
    ours = [a for a, h in zip(arguments, heads, strict=True) if h in fit or h == "results"]
    theirs = [a for a, h in zip(arguments, heads, strict=True) if h not in fit]
    return ours, theirs


def _check_cost(question: Question, plans: Sequence[RunPlan], journal: Journal) -> None:
    """Refuse to train more than there is: a large first design, or rounds decided when there was more."""
    done = all(is_finished(p.folder) for p in plans)
    if most_of(plans) <= question.total * (1 + ROUNDING) or (journal.rounds and done):
        return
    there = f"more than the {format_flops(question.total)} there is"
    if journal.rounds:
        raise ConfigError(
            f"auto.flops: what was decided before is {describe_cost(plans)}, {there}, and is not trained to its end. Raise auto.flops."
        )
    often = " if every run diverges and is repeated (retry.diverged)" if cost_of(plans) < most_of(plans) else ""  # fmt: skip
    raise ConfigError(
        f"auto.flops: the first design alone is {describe_cost(plans)}, {there}{often}. Raise auto.flops, or begin with a smaller sweep."
    )


def _train(growing: Growing, plans: Sequence[RunPlan], folder: Path) -> None:
    """Train what is missing by any launcher; wait by records for one that only submits."""
    if all(is_finished(p.folder) for p in plans):
        return
    run_train([growing.file.stem, *growing.overrides])
    told = False
    while missing := [p for p in plans if not is_finished(p.folder)]:
        queued = queued_runs(folder)
        under_way = [p for p in missing if p.run_id in queued or find_holder(p.folder)]
        if not under_way:
            say(
                f"{growing.name}: going on without {len(missing)} of {len(plans)} runs, which failed; `scaling status {growing.file.stem}` says why.",
                file=sys.stderr,
            )
            return
        if not told:
            say(f"{growing.name}: waiting for {len(under_way)} runs.", file=sys.stderr)
            told = True
        time.sleep(POLL_SECONDS)


def decide(
    question: Question, growing: Growing, sweep: Sweep, analysis: Analysis, folder: Path, *, rounds: int
) -> Decision:  # fmt: skip
    """Return what to do next: stop, or train runs that fit what is left of the budget.

    Args:
        sweep: all runs so far, composed; folder: of their records; rounds: how many were decided so far.
    """
    plans = plans_of(sweep)
    fit, counted = analysis.fit, [*plans, *followers_of(sweep)]
    spent = cost_of(counted) + spent_beside(folder, counted)
    known = look(question, fit, spent)

    def decision(action: str, why: str, **more: Any) -> Decision:
        at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return Decision(at, action, why, question.flops, question.decide, question.asked, question.total, fit.level, known, **more)  # fmt: skip

    left = question.total - spent
    if known.within is not None and known.within <= question.asked:
        return decision("stop", "the interval is narrow enough.")
    if left < CRUMBS * question.total:
        return decision(
            "stop", f"the compute is spent ({format_flops(max(left, 0.0))} FLOPs are left)."
        )
    if rounds >= question.rounds:
        return decision("stop", f"{rounds} rounds were trained, as many as auto.rounds allows.")
    allowance = min(left, spent)
    allowance = left if left - allowance < REST * allowance else allowance
    try:
        points, expected, why = _choose(question, growing, analysis, known, allowance, rounds + 1)
    except FitError as error:
        return decision("stop", f"no further run fits: {error}")
    points, cost = _within_budget(sweep, plans, points, left)
    if not points:
        return decision(
            "stop", f"no run costs less than the {format_flops(left)} FLOPs that are left."
        )
    return decision("train", why, points=tuple(points), cost=cost, expected=expected)


def look(question: Question, fit: Any, spent: float) -> Known:
    """Return what a fit knows of the question, over all laws that the runs do not tell apart."""
    from scaling.analysis.allocation.aim import Aim
    from scaling.analysis.allocation.rivals import standing

    found = standing(fit, Aim(question.flops, question.decide))

    def number(x: float) -> float | None:
        return float(x) if math.isfinite(x) and x > 0 else None

    value = number(found.value)
    problem = "" if value else f"the law {fit.law.name} has no optimum there."
    low, high = number(found.low), number(found.high)
    within = number(found.within) if value and low and high else None
    return Known(len(fit.runs), spent, found.laws, value, low, high, within, problem)


def _choose(
    question: Question, growing: Growing, analysis: Analysis, known: Known, allowance: float, round_: int
) -> tuple[list[dict[str, Any]], tuple[float, float] | None, str]:  # fmt: skip
    """Return runs as a sweep file has them, the interval expected, and the reason.

    Raises:
        FitError: nothing fits the limits.
    """
    from scaling.analysis.allocation.aim import Aim
    from scaling.analysis.allocation.choice import choose_runs
    from scaling.analysis.allocation.design import make_promise

    config, fit = analysis.config, analysis.fit
    if known.value is None:
        curve = _curve(fit.runs, allowance)
        why = "the law has no optimum at the target yet; a curve at a larger budget will show where it lies."  # fmt: skip
        return [growing.as_point(C, N, seed=round_) for C, N in curve], None, why
    for share in SHARES:
        chosen = choose_runs(
            fit, Aim(question.flops, question.decide), allowance=share * allowance,
            most=config.points or 12, caps=read_caps(config), seed=config.seed + round_,
        )  # fmt: skip
        if _expected_within(question, known, chosen.narrowing) <= question.asked:
            break
    points = [growing.as_point(C, N, seed=round_) for C, N in zip(chosen.C, chosen.N, strict=True)]
    wide = "over an open range" if known.within is None else _width(question, known.within)
    why = f"the interval reaches {wide} from the estimate; these runs say most about it for {format_flops(chosen.C.sum())} FLOPs."
    return points, make_promise(fit, chosen).expected, why


def _expected_within(question: Question, known: Known, narrowing: float) -> float:
    """Return how far the interval over laws will reach, if it narrows as the fitted law's does."""
    if known.within is None:
        return math.inf
    if question.decide == "loss":
        return known.within * narrowing
    return float(known.within**narrowing)


def _width(question: Question, within: float) -> str:
    return f"a factor of {within:.3g}" if question.decide == "size" else f"{within:.3g} nats/token"


def _curve(runs: Any, allowance: float) -> list[tuple[float, float]]:
    """Return (C, N) of one IsoFLOP curve around the best size seen at the largest budgets."""
    C = allowance / len(CURVE)
    large = runs.C.max() <= 3 * runs.C
    best = int(runs.L[large].argmin())
    middle = float(runs.N[large][best] * math.sqrt(C / runs.C[large][best]))
    return [(C, middle * k) for k in CURVE]


def _within_budget(
    sweep: Sweep, plans: Sequence[RunPlan], points: Sequence[dict[str, Any]], left: float
) -> tuple[list[dict[str, Any]], float]:
    """Return the new runs, as far as their exact plans cost no more than is left, and their cost.

    The trainer hits a size within 1 or 2 per cent, so that a plan may cost a little more than asked.
    Where diverged runs are repeated, there is room left for each of them.
    """
    known, kept, cost, most = {p.run_id for p in plans}, [], 0.0, 0.0
    for point in points:
        plan = plan_point(sweep.base, point)
        if plan is None or plan.run_id in known or most + most_of([plan]) > left:
            continue
        known.add(plan.run_id)
        kept.append(point)
        cost, most = cost + cost_of([plan]), most + most_of([plan])
    return kept, cost
