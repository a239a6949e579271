"""From the plans of a sweep to what it will tell: the design simulated, and what it cannot answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.cli.compose import Sweep
from scaling.cli.progress import progress_bar
from scaling.study.config import RunConfig, config_values
from scaling.study.errors import ConfigError, FitError
from scaling.study.plan import RunPlan, make_plan
from scaling.study.schema import declare as _key
from scaling.study.units import format_flops, format_quantity

if TYPE_CHECKING:
    import pandas as pd

    from scaling.analysis.designs.simulation import DesignStudy

# what sizes and budgets are asked for in, and what trunks set by themselves: no settings beside them
_SIZES = ("model.params", "model.layers", "model.width", "model.ffn", "model.heads", "model.kv_heads", "budget.", "optim.horizon")  # fmt: skip
FEWEST = 6  # runs of different size or length that a law of five parameters asks for


@dataclass(frozen=True)
class SimulateConfig:
    """Keys of `scaling plan` that say what the design is simulated with; no run sees them."""

    # fmt: off
    law: str | None = _key(None, "", "A saved fit (fit.json) that is taken to be true, or a published set: hoffmann, epoch; null: the known law nearest in size.")
    E: float | None = _key(None, "nats/token", "With A, B, alpha and beta: the law L = E + A/N^alpha + B/D^beta that is taken to be true.", least=0)
    A: float | None = _key(None, "nats/token", "See simulate.E.", above=0)
    B: float | None = _key(None, "nats/token", "See simulate.E.", above=0)
    alpha: float | None = _key(None, "", "See simulate.E.", above=0)
    beta: float | None = _key(None, "", "See simulate.E.", above=0)
    noise: float | None = _key(None, "", "SD of ln loss of one run; null: that of the law's own runs.", above=0, most=1)
    studies: int | None = _key(None, "", "How many studies are simulated; null: 200, or 80 where that is slow.", least=10)
    # fmt: on


_NUMBERS = ("E", "A", "B", "alpha", "beta")


def foretell(sweep: Sweep, plans: Sequence[RunPlan], config: SimulateConfig) -> list[str]:
    """Return lines that say what the design will tell, and warnings of what it cannot.

    Raises:
        ConfigError: a law that cannot be read.
    """
    from scaling.analysis.designs.judging import judge_design, judge_settings

    asked = asked_settings(plans)
    cells = _cells(plans)
    lines = _noise_line(plans)
    if len({(p.params, p.tokens) for p in cells}) < FEWEST:
        law_less = "" if lines else "No law of N and D is simulated: too few sizes and lengths."
        sizes = _params(plans)
        return [*filter(None, [law_less]), *lines, *_tuning(plans), *judge_settings(sizes, asked)]
    target, left = _usable_target(sweep, cells)
    study = _simulate(cells, config, target)
    isoflop = bool(sweep.design.isoflop) or all(p.config.budget.flops for p in plans)
    if isoflop and "U" not in study.truth.surface.law.inputs:
        warnings = judge_design(study, isoflop=True, asked=asked.iloc[_rows(plans, cells)])
    else:
        warnings = judge_design(study, asked=asked.iloc[_rows(plans, cells)])
    return [*study.describe(), *left, *_tuning(plans), *warnings]


def _params(plans: Sequence[RunPlan]) -> Any:
    import numpy as np

    return np.array([p.params for p in plans], float)


def _rows(plans: Sequence[RunPlan], cells: Sequence[RunPlan]) -> list[int]:
    at = {p.run_id: i for i, p in enumerate(plans)}
    return [at[p.run_id] for p in cells]


def _cells(plans: Sequence[RunPlan]) -> list[RunPlan]:
    """Return a run per size, length, text and seed: of swept rates and batches only the best will count."""
    cells: dict[Any, RunPlan] = {}
    for plan in plans:
        data = plan.config.data
        key = (plan.params, plan.tokens, data.unique_tokens, plan.config.seed, plan.order_seed)
        cells.setdefault(key, plan)
    return list(cells.values())


def _simulate(
    plans: Sequence[RunPlan], config: SimulateConfig, target: float | tuple[float, float] | None
) -> DesignStudy:
    from scaling.analysis.designs.simulation import simulate_design, usual_studies

    law, noise = _given_law(config), config.noise
    points = {
        "N": _params(plans), "D": [float(p.tokens) for p in plans], "C": [_flops(p) for p in plans],
        "unique_tokens": [p.config.data.unique_tokens or float("inf") for p in plans],
    }  # fmt: skip
    with progress_bar() as progress:
        task = progress.add_task("simulating the design", total=None)

        def show(done: int) -> None:
            progress.update(task, completed=done, total=config.studies or usual_studies(points))

        return simulate_design(
            points,
            law,
            noise=noise,
            target=target,
            studies=config.studies,
            on_progress=show,
        )


def _flops(plan: RunPlan) -> float:
    counted = plan.config.budget.convention == "counted"
    return plan.flops_counted if counted else plan.flops_6nd


def _usable_target(
    sweep: Sweep, plans: Sequence[RunPlan]
) -> tuple[float | tuple[float, float] | None, list[str]]:
    """Return what the sweep is to predict, unless it lies among its own runs, and a word on that."""
    target = _target(sweep)
    compute = target if isinstance(target, float) else 6 * target[0] * target[1] if target else None
    largest = max(map(_flops, plans))
    if compute is None or compute >= largest:
        return target, []
    return None, [
        f"design.verify names a run of {format_flops(compute)} FLOPs, less than the largest of the design ({format_flops(largest)}): "
        "it checks no prediction. Move it beyond, e.g. to four times as much; above it is 10 times."
    ]


def _target(sweep: Sweep) -> float | tuple[float, float] | None:
    """Return the compute, or the (N, D), that the sweep is to predict; null if it names none."""
    wanted = dict(sweep.design.verify)
    budget = wanted.get("budget.flops")
    if wanted.get("model.params") == "optimal" and budget is not None:
        return RunConfig.from_dict({"model": {"params": "1M"}, "budget": {"flops": budget}}).budget.flops  # fmt: skip
    if not wanted or "optimal" in map(str, wanted.values()):
        return None
    base = sweep.points[0].config
    keys = ("budget.tokens", "budget.flops", "budget.tokens_per_param")
    cleared = dict.fromkeys(keys) if any(k in wanted for k in keys) else {}
    plan = make_plan(base.replace(**{**cleared, **wanted}))
    return float(plan.params), float(plan.tokens)


def _given_law(config: SimulateConfig) -> Any:
    """Return the law that the keys name: a saved fit, a published set, or five numbers; else null."""
    from scaling.analysis import laws
    from scaling.analysis.allocation.decided import Surface
    from scaling.analysis.designs.truths import Truth, large_truth
    from scaling.analysis.fits.fitted import Fit

    numbers = {n: v for n in _NUMBERS if (v := getattr(config, n)) is not None}
    if numbers and (config.law or len(numbers) < len(_NUMBERS)):
        missing = [f"simulate.{n}" for n in _NUMBERS if n not in numbers]
        raise ConfigError(
            f"simulate: a law by numbers needs all of E, A, B, alpha, beta and no simulate.law; "
            f"{', '.join(missing) + ' missing' if missing else f'simulate.law={config.law} is given too'}."
        )
    if numbers:
        text = ", ".join(f"{k} = {v:g}" for k, v in numbers.items())
        surface = Surface(laws.get("chinchilla"), numbers)
        return Truth(surface, large_truth().noise, f"what was given ({text})")
    if config.law is None:
        return None
    if Path(config.law).suffix == ".json":
        return Fit.load(config.law)
    try:
        surface = Surface.published("chinchilla", config.law)
    except FitError as error:
        raise ConfigError(
            f"simulate.law: {error} Or give a saved fit, results/SWEEP/fit.json."
        ) from None
    return Truth(surface, large_truth().noise, f"{config.law} ({surface.conventions})")


def asked_settings(plans: Sequence[RunPlan]) -> pd.DataFrame:
    """Return the settings that differ between runs, sizes and budgets left out; a row per run."""
    import pandas as pd

    rows = [
        {
            k.name: v
            for k, v in config_values(p.config)
            if k.numbers and not k.name.startswith(_SIZES)
        }
        for p in plans
    ]
    frame = pd.DataFrame(rows)
    kept = [c for c in frame.columns if frame[c].map(str).nunique() > 1]
    if "data.unique_tokens" in kept and _all_fresh(plans):
        kept.remove("data.unique_tokens")  # as much text as is read, and so no setting of its own
    return frame[kept]


def _all_fresh(plans: Sequence[RunPlan]) -> bool:
    return all((p.config.data.unique_tokens or p.tokens) >= 0.999 * p.tokens for p in plans)


def _noise_line(plans: Sequence[RunPlan]) -> list[str]:
    """Say how well repeated seeds will tell the noise: the interval of an SD by chi squared."""
    from scaling.analysis.designs.judging import noise_width

    groups: dict[str, int] = {}
    for plan in plans:
        groups[plan.setting_hash] = groups.get(plan.setting_hash, 0) + 1
    repeated = [n for n in groups.values() if n > 1]
    freedom = sum(n - 1 for n in repeated)
    if not freedom or len(repeated) < len(groups):
        return []
    return [
        f"Noise floor: {len(repeated)} settings with {format_quantity(freedom)} degrees of freedom tell the SD between seeds "
        f"within a factor {noise_width(freedom):.2g} (90 %, chi squared)."
    ]


def _tuning(plans: Sequence[RunPlan]) -> list[str]:
    """Warn where the rule's own rate or batch lies at or beyond the edge of those that are tried."""
    from scaling.analysis.traps import warn

    missed: dict[str, list[str]] = {}
    groups: dict[Any, list[RunPlan]] = {}
    for plan in plans:
        groups.setdefault((plan.params, plan.tokens), []).append(plan)
    for group in groups.values():
        rates = sorted({p.lr for p in group})
        optim = group[0].config.optim
        if len(rates) < 2 or optim.parametrization != "standard":
            continue
        free = group[0].config.replace(**{"optim.lr": None, "optim.lr_scale": 1.0})
        rule = make_plan(free).lr
        if not rates[0] < rule < rates[-1]:
            span = f"{rates[0]:.3g} to {rates[-1]:.3g}"
            missed.setdefault(span, []).append(
                f"{format_quantity(group[0].params)} (rule {rule:.3g})"
            )
    return [
        warn("W-TUNE", f"rates {span} do not enclose the rule's for N = {', '.join(dict.fromkeys(sizes))}: the best may lie outside. Widen optim.lr or optim.lr_scale.")
        for span, sizes in missed.items()
    ]  # fmt: skip
