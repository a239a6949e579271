"""Which runs to train next: those that say most about what will be decided, or IsoFLOP curves.

How the choice is made is in `choice`; this module turns it into a sweep file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from scaling.analysis.allocation.aim import DECISIONS, Aim
from scaling.analysis.allocation.choice import Caps, Chosen, choose_runs
from scaling.analysis.allocation.rivals import Standing
from scaling.analysis.data.bundles import config_text
from scaling.analysis.data.runs import Runs
from scaling.analysis.data.tables import number
from scaling.analysis.fits.fitting import Fit
from scaling.study.config import RunConfig, config_keys, config_values
from scaling.study.errors import FitError
from scaling.study.record import write_atomic
from scaling.study.table import Table
from scaling.study.units import format_flops, format_quantity

# What a proposed run sets itself, and what belongs to a machine rather than to the study.
NOT_CARRIED = (
    "model.params", "model.width", "model.ffn", "budget.", "data.cache", "train.device", "train.threads",
    "tracker.", "role", "sweep", "results",
)  # fmt: skip

# in ln N and ln C, which a proposed run is asked for by: sizes are met within 1 % (study/shape.py),
# and both of a pair may be off
SAME = 0.02
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where it is there: ten times as fast


@dataclass(frozen=True)
class Point:
    """One proposed run: budget [FLOPs] and size [parameters], with the tokens that follow.

    Args:
        seed: of its own, where a run of the fit is where this one would be; null: the study's.
    """

    C: float
    N: float
    D: float
    seed: int | None = None


@dataclass(frozen=True)
class Promise:
    """What proposed runs are expected to bring: the interval of the aim now and after them.

    Args:
        now: what is known of the aim; level: of the intervals, e.g. 0.9.
        narrowing: expected width after the runs over the width now, in logs, by the fitted law.
        bracket: how many runs bracket the optimum, whatever the law; one alone, where limits leave no more, is no bracket.
    """

    now: Standing
    level: float
    narrowing: float
    bracket: int = 0

    @property
    def expected(self) -> tuple[float, float]:
        """The fitted law's interval expected after the runs, if the value stays where it is."""
        value, power = self.now.value, self.narrowing
        with np.errstate(all="ignore"):
            lo, hi = (value * (end / value) ** power for end in (self.now.lo, self.now.hi))
        return float(lo), float(hi)

    def sentence(self) -> str:
        """Say the interval now and the one expected."""
        aim = self.now.aim
        what = f"{DECISIONS[aim.decide]} at {format_flops(aim.flops)} FLOPs"
        now = write_span(aim, self.now.lo, self.now.hi)
        then = write_span(aim, *self.expected)
        return f"{what} is known as {now} ({100 * self.level:g} %); {then} is expected after these runs, {self.narrowing:.0%} of the width."

    def reasons(self) -> str:
        """Say why these runs, and what other laws would have the interval be."""
        now = self.now
        said = f"The first {self.bracket} bracket the optimum at the largest budget, whatever the law. The others" if self.bracket > 1 else "The runs"  # fmt: skip
        said += f" say most about it by {' and '.join(now.laws)}, given a misfit that would not show yet."
        if len(now.laws) > 1:
            said += f"\nThe runs so far do not tell these laws apart; over both the interval is {write_span(now.aim, now.low, now.high)}."
        return said


def write_span(aim: Aim, lo: float, hi: float) -> str:
    """Write an interval of an aim with its width."""
    if aim.decide == "loss":
        return f"{lo:.4g} to {hi:.4g}, {hi - lo:.2g} nats/token wide"
    with np.errstate(all="ignore"):
        factor = np.divide(hi, lo)
    return f"{format_quantity(lo)} to {format_quantity(hi)}, a factor of {factor:.3g}"


@dataclass(frozen=True, repr=False)
class Sweep:
    """Proposed runs, ready to be written as a sweep file.

    Args:
        points: the runs; question: what they are to answer; flops: compute of all of them.
        params: convention of N; convention: that of C; both as the fit's runs had them.
        settings: {group: {key: value}} that the fit's runs share, so that the new runs differ from
            them in size and budget only.
        promise: what the runs are expected to bring, where they were chosen for an aim.
    """

    points: tuple[Point, ...]
    question: str
    params: str = "non_embedding"
    convention: str = "6nd"
    settings: Mapping[str, Any] = field(default_factory=dict)
    promise: Promise | None = None

    @property
    def flops(self) -> float:
        """Total training compute [FLOPs]."""
        return float(sum(p.C for p in self.points))

    @property
    def frame(self) -> pd.DataFrame:
        """The runs as columns N, D and C, as `simulate_design` takes them."""
        return pd.DataFrame([{"N": p.N, "D": p.D, "C": p.C} for p in self.points])

    def save(self, path: str | Path) -> Path:
        """Write a sweep file that `scaling train <name>` reads.

        Raises:
            FitError: the path does not end in .yaml.
        """
        path = Path(path)
        if path.suffix != ".yaml":
            raise FitError(f"sweep: {path} must end in .yaml, e.g. sweeps/round2.yaml.")
        write_atomic(path, self.yaml(path.stem))
        return path

    def yaml(self, name: str) -> str:
        """Return the text of the sweep file."""
        lines = [
            "# @package _global_",
            f"# Question: {self.question}",
            f"# Cost: {len(self.points)} runs, {format_flops(self.flops)} FLOPs in total; `scaling plan {name}` says how long.",
            *([f"# Expected: {self.promise.sentence()}"] if self.promise else []),
            f"sweep: {name}",
            "design:",
            f'  question: "{self.question}"',
            "  points:",
            *(f"    - {{{_written(p)}}}" for p in self.points),
        ]
        base = {**self.settings, "budget": {"convention": self.convention}}
        base["model"] = {**base.get("model", {}), "params_convention": self.params}
        return "\n".join(lines) + "\n" + yaml.safe_dump(base, allow_unicode=True)

    def table(self) -> Table:
        """Return the proposed runs as a table."""
        rows = [
            [format_flops(p.C), format_quantity(p.N), format_quantity(p.D), f"{p.D / p.N:.3g}"]
            for p in self.points
        ]
        note = f"{len(rows)} runs, {format_flops(self.flops)} FLOPs in total."
        if self.promise is not None:
            said = self.promise.sentence()
            note += f"\n{said[0].upper()}{said[1:]}\n{self.promise.reasons()}"
        header = ["C [FLOPs]", "N", "D [tokens]", "tokens per parameter"]
        return Table(header, rows, title=self.question, note=note)

    def __repr__(self) -> str:
        return f"Sweep({len(self.points)} runs, {format_flops(self.flops)} FLOPs: {self.question})"

    def __str__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def next_sweep(
    fit: Fit, *, C: Sequence[float] | float | None = None, points: int | None = None,
    span: float | None = None, target_flops: float | None = None, allowance: float | None = None,
    decide: str = "size", caps: Caps | None = None, seed: int = 0,
) -> Sweep:  # fmt: skip
    """Propose the runs that say most about the optimum at a target compute, or IsoFLOP curves.

    With `target_flops`, runs of at most `allowance` FLOPs together are chosen so that the interval of
    N* (or of the lowest loss) there becomes as narrow as it can, by the fit's own uncertainty; part of
    the allowance brackets the optimum at the largest budget it pays for, in case the law is wrong.
    With `C`, IsoFLOP curves at these budgets, centred on the fit's optimum.

    Args:
        fit: a law with an optimum.
        target_flops: the compute that will be decided about [FLOPs], in the convention of the runs.
        allowance: compute of all proposed runs together [FLOPs]; null: as much as the fitted runs took.
        decide: size (ln N*) or loss (ln L).
        caps: what a single run may be; see `Caps`.
        C: budgets [FLOPs] of IsoFLOP curves.
        points: most runs (12), or with C sizes per budget (7), log-spaced.
        span: with C, sizes reach this factor below and above N*; by default 4, and wider where the
            interval of N* is, so that the minimum lies inside. Parabolas are little biased at 4.
        seed: of the draws that the choice averages over.

    Raises:
        FitError: both or neither of C and target_flops, fewer than 4 points of a curve, nothing that
            fits the caps, or a convention that the trainer cannot aim at.
    """
    if (C is None) == (target_flops is None):
        raise FitError(
            "next_sweep: give target_flops, the compute to decide about, or C, budgets of IsoFLOP curves. For example target_flops=1e21, allowance=1e19."
        )
    if C is not None:
        proposed, question = _curves(fit, C, 7 if points is None else points, span)
        return _as_sweep(fit, proposed, question)
    aim = Aim(float(target_flops or 0.0), decide)
    spend = float(fit.runs.C.sum()) if allowance is None else float(allowance)
    chosen = choose_runs(fit, aim, allowance=spend, most=points or 12, caps=caps, seed=seed)
    question = f"What is {DECISIONS[decide]} at {format_flops(aim.flops)} FLOPs?"
    promise = make_promise(fit, chosen)
    return _as_sweep(fit, with_seeds(_points(chosen), fit.runs), question, promise=promise)


def make_promise(fit: Fit, chosen: Chosen) -> Promise:
    """Return what chosen runs are expected to bring."""
    return Promise(chosen.now, fit.level, chosen.narrowing, chosen.bracket)


def _points(chosen: Chosen) -> list[Point]:
    """The bracket first, then the others from small to large."""
    sized = zip(chosen.C, chosen.N, chosen.D, strict=True)
    every = [Point(float(C), float(N), float(D)) for C, N, D in sized]
    k = chosen.bracket
    return [*every[:k], *sorted(every[k:], key=lambda p: (p.C, p.N))]


def with_seeds(points: Sequence[Point], runs: Runs) -> list[Point]:
    """Give points where runs are already a seed that is new there: the same run again says nothing."""
    if "seed" not in runs.fit_rows:
        return list(points)
    seeds = number(runs.fit_rows, "seed").to_numpy(float)
    return [_with_seed(p, runs, seeds) for p in points]


def _with_seed(point: Point, runs: Runs, seeds: np.ndarray) -> Point:
    far = np.maximum(np.abs(np.log(runs.N / point.N)), np.abs(np.log(runs.C / point.C)))
    there = seeds[(far < SAME) & np.isfinite(seeds)]
    return replace(point, seed=int(there.max()) + 1) if len(there) else point


def _written(point: Point) -> str:
    keys = f"budget.flops: {point.C:.4g}, model.params: {point.N:.4g}"
    return keys if point.seed is None else f"{keys}, seed: {point.seed}"


def _curves(
    fit: Fit, C: Sequence[float] | float, points: int, span: float | None
) -> tuple[list[Point], str]:
    """IsoFLOP curves at given budgets, and their question."""
    if points < 4:
        raise FitError(f"points: a curve needs 4 sizes to show a minimum; got {points}. 7 is good.")
    proposed = []
    for row in fit.optimal(C).itertuples():
        reach = span or _reach(row.N, row.N_lo, row.N_hi)
        for N in row.N * np.geomspace(1 / reach, reach, points):
            proposed.append(Point(float(row.C), float(N), float(fit.cost.tokens(row.C, N))))
    budgets = ", ".join(format_flops(c) for c in np.atleast_1d(np.asarray(C, float)))
    return proposed, f"Where is the loss-optimal size at {budgets} FLOPs?"


def _as_sweep(
    fit: Fit, proposed: Sequence[Point], question: str, *, promise: Promise | None = None
) -> Sweep:
    """Return points as a sweep in the conventions and settings of the fit's runs."""
    params = {"given": "total"}.get(fit.runs.params, fit.runs.params)
    if params not in ("non_embedding", "total"):
        raise FitError(
            f"next_sweep: sizes cannot be aimed at in {fit.runs.params!r} parameters. Fit with runs.using(params='non_embedding')."
        )
    flops = "counted" if fit.runs.flops == "counted" else "6nd"
    return Sweep(tuple(proposed), question, params, flops, shared_settings(fit.runs), promise)


def shared_settings(runs: Runs) -> dict[str, Any]:
    """Return what all runs of the fit were asked alike and is no default, from their `config.yaml`.

    Returns:
        {group: {key: value}}; empty for runs from a table, which have no configuration.
    """
    folders = runs.fit_rows["folder"].dropna() if "folder" in runs.fit_rows else []
    texts = [text for f in folders if (text := config_text(Path(f))) is not None]
    asked = [
        {key.name: value for key, value in config_values(config)}
        for config in (RunConfig.from_dict(yaml.load(text, _LOADER)) for text in texts)
    ]
    shared: dict[str, Any] = {}
    for name, default in ((k.name, k.default) for k in config_keys()):
        values = {repr(a[name]): a[name] for a in asked}
        if len(values) == 1 and not name.startswith(NOT_CARRIED) and default not in values.values():
            group, _, key = name.rpartition(".")
            (shared.setdefault(group, {}) if group else shared)[key] = next(iter(values.values()))
    return shared


def _reach(N: float, lo: float, hi: float) -> float:
    """Twice the interval's half-width, at least 4x and at most 16x."""
    if not (np.isfinite(lo) and np.isfinite(hi)):
        return 4.0
    return float(np.clip(2 * max(N / lo, hi / N), 4.0, 16.0))
