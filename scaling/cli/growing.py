"""A sweep file that grows: the first design of `scaling auto`, and the runs of each round.

The file lies in ./sweeps and names the results folder of the sweep it began with, so that every other
verb (status, fit, plot, train) reads it like any sweep, and finished runs are not trained again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig, OmegaConf

from scaling.cli.compose import (
    Sweep,
    compose,
    compose_sweep,
    run_config,
    without_hydra,
)
from scaling.cli.followers import find_followers
from scaling.cli.journal import Journal
from scaling.cli.overrides import as_override, read_value, to_mapping
from scaling.cli.progress import say
from scaling.cli.sweep import unique_plans
from scaling.study.errors import ConfigError, RecordError
from scaling.study.flops import flops_6nd
from scaling.study.paths import set_aside
from scaling.study.plan import RunPlan, make_plan
from scaling.study.record import read_record, write_atomic
from scaling.study.units import format_flops

FIRST_SHARE = 0.1  # of all compute, for a first design of our own
FIRST_BUDGETS, FIRST_SIZES, FIRST_SPAN = 3, 5, 4.0  # IsoFLOP curves half a decade apart
FEWEST = 8  # runs that a law of five parameters needs to be judged at all
RATIO = 20.0  # tokens per parameter in their middle (Hoffmann et al. 2022)
Values = dict[str, Any]


@dataclass(frozen=True)
class Growing:
    """A sweep that grows by rounds.

    Args:
        name: of the results folder; base: keys that all runs share, where they are no defaults.
        first: runs of the first design, as {key: value}; launcher: Hydra's, by name.
        overrides: of the command line that go with every launch.
    """

    name: str
    base: Values
    first: tuple[Values, ...]
    question: str
    launcher: str | None
    overrides: tuple[str, ...]

    @property
    def file(self) -> Path:
        """The sweep file."""
        return (
            Path("sweeps")
            / f"{self.name if self.name.endswith('auto') else self.name + '_auto'}.yaml"
        )

    def write(self, points: Sequence[Values]) -> Sweep:
        """Write the first design and further runs as a sweep file; return it composed."""
        every = [*self.first, *points]
        lines = [
            "# @package _global_",
            f"# Question: {self.question}",
            f"# Written by `scaling auto`: {len(self.first)} runs of the first design, {len(points)} chosen since.",
        ]
        values: Values = {"sweep": self.name, "design": {"question": self.question, "points": every}, **self.base}  # fmt: skip
        if self.launcher:
            values = {"defaults": [{"override /hydra/launcher": self.launcher}], **values}
        text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False, width=200)
        whole = "\n".join(lines) + "\n" + text
        if self.file.is_file() and "Written by `scaling auto`" not in self.file.read_text("utf-8"):
            former = set_aside(self.file, whole)  # somebody's own: not ours to overwrite
            say(f"{self.file}: there was another one; it is now {former}.", file=sys.stderr)
        write_atomic(self.file, whole)
        return compose_sweep([f"sweeps={self.file.stem}", *self.overrides])

    def as_point(self, C: float, N: float, *, seed: int) -> Values:
        """Return a run of a compute and a size, with what would contradict them taken away."""
        point: Values = {"budget.flops": float(f"{C:.6g}"), "model.params": float(f"{N:.4g}")}
        for group, keys in (
            ("budget", ("tokens", "tokens_per_param")),
            ("model", ("width", "ffn")),
        ):
            point |= {f"{group}.{k}": None for k in keys if self.base.get(group, {}).get(k) is not None}  # fmt: skip
        return point | {"seed": int(self.base.get("seed", 0)) + seed}


def start_growing(
    sweep: str | None, overrides: Sequence[str], *, flops: float, question: str, results: Path
) -> Growing:
    """Return the sweep to begin with: one that there is, or IsoFLOP curves for a tenth of the compute.

    Args:
        flops: all compute that may be spent; of a loop that was begun with other compute, a tenth
            of that one went into its first design, which stays as it is.
        results: where journals are, by the name of the sweep.

    Raises:
        ConfigError: the compute is too little for a first design.
    """
    asked = [*([f"sweeps={sweep}"] if sweep else []), *overrides]
    kept = tuple(o for o in overrides if o.startswith(("hydra", "results=")))
    whole = compose("train", asked)
    launcher = str(whole.hydra.runtime.choices["hydra/launcher"])
    base = without_hydra(whole)
    name = str(base.sweep) if sweep or str(base.sweep) != "single" else "auto"
    shared = _differs(to_mapping(base), to_mapping(without_hydra(compose("train", []))))
    shared = {k: v for k, v in shared.items() if k not in ("design", "sweep", "sweeps", "results", "together")}  # fmt: skip
    growing = Growing(name, shared, (), question, None if launcher == "basic" else launcher, kept)
    if sweep:
        points = [_as_values(p.overrides) for p in compose_sweep(asked).points]
    else:
        begun = Journal.read(results / name).entries
        flops = begun[0].total if begun else flops
        wanted = [growing.as_point(C, N, seed=0) for C, N in first_design(flops)]
        points = [p for p in wanted if plan_point(base, p) is not None]
        if len(points) < FEWEST:
            raise ConfigError(
                f"auto.flops: a tenth of {format_flops(flops)} FLOPs pays for {len(points)} runs of sizes that exist; a first design needs {FEWEST}. Raise it, or name a sweep to begin with."
            )
    return Growing(name, shared, tuple(points), question, growing.launcher, kept)


def first_design(flops: float) -> list[tuple[float, float]]:
    """Return (C, N) of IsoFLOP curves that cost a tenth of the compute."""
    steps = 10 ** (0.5 * np.arange(FIRST_BUDGETS))
    budgets = FIRST_SHARE * flops / FIRST_SIZES / steps.sum() * steps
    around = np.geomspace(1 / FIRST_SPAN, FIRST_SPAN, FIRST_SIZES)
    return [(float(C), float(N)) for C in budgets for N in around * float(np.sqrt(C / (6 * RATIO)))]


def plans_of(sweep: Sweep) -> list[RunPlan]:
    """Return every run of a sweep, once."""
    return [plan for _, plan in unique_plans(sweep.points)]


def followers_of(sweep: Sweep) -> list[RunPlan]:
    """Return the runs that repeat diverged ones at a lower rate."""
    return [plan for _, plan in find_followers(unique_plans(sweep.points))]


def plan_point(base: DictConfig, point: Values) -> RunPlan | None:
    """Plan a run; null where no shape has such a size, as happens below a few thousand parameters."""
    overrides = [as_override(key, value) for key, value in point.items()]
    try:
        return make_plan(run_config(base, overrides, _never))
    except ConfigError:
        return None


def _never(extra: list[str]) -> Any:
    raise AssertionError(f"{extra}: chosen runs change no config group")


def cost_of(plans: Sequence[RunPlan]) -> float:
    """Return the compute of runs [FLOPs], in the convention that their budgets have."""
    return float(sum(p.flops_counted if p.config.budget.convention == "counted" else p.flops_6nd for p in plans))  # fmt: skip


def most_of(plans: Sequence[RunPlan]) -> float:
    """Return the compute that runs take if each diverges as often as it is repeated for [FLOPs]."""
    return sum(cost_of([p]) * (1 + p.config.retry.diverged) for p in plans)


def spent_beside(folder: Path, plans: Sequence[RunPlan]) -> float:
    """Return the compute of runs in a sweep's folder that are none of these [FLOPs].

    They are there where a journal was deleted or a design changed: paid for all the same.
    """
    known = {p.run_id for p in plans}
    counted = bool(plans) and plans[0].config.budget.convention == "counted"
    total = 0.0
    for path in folder.glob("[!.]*/run.json"):  # hidden: halves of a merge
        if path.parent.name not in known:
            with suppress(RecordError):
                record = read_record(path.parent)
                by_total = record.params_convention == "total"
                params = record.params_total if by_total else record.params_non_embedding
                six_nd = flops_6nd(params or 0, record.tokens or 0)
                total += (record.flops_counted or 0.0) if counted else six_nd
    return total


def describe_cost(plans: Sequence[RunPlan]) -> str:
    """Say how many runs there are and what they cost."""
    return f"{len(plans)} runs, {format_flops(cost_of(plans))} FLOPs"


def _as_values(overrides: Sequence[str]) -> Values:
    pairs = (o.lstrip("+").split("=", 1) for o in overrides)
    return {key: _plain(read_value(text)) for key, text in pairs}


def _plain(value: Any) -> Any:
    """Return a value of Hydra's grammar as YAML writes it."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _differs(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Values:
    """Return what differs from the defaults, nested."""
    found: Values = {}
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            if inner := _differs(value, default):
                found[key] = inner
        elif value != default:
            found[key] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return found
