"""What a sweep costs on the machine it is meant for: device-hours, money, memory, disk.

Hours are counted FLOPs over peak times MFU. The MFU is the one that is stated, or was measured by
finished runs of the sweep, or by the steps that were timed here; money, energy and CO2 need stated
rates: `cost.*` of the runs, and `price.rate` in place of `cost.rate`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scaling.cli.estimate import Estimate
from scaling.study.cost import SECONDS_PER_HOUR, CostConfig, cost_words, format_amount
from scaling.study.devices import PEAK_FLOPS, find_peak, read_device
from scaling.study.errors import RecordError, ScalingError
from scaling.study.plan import RunPlan
from scaling.study.record import RunRecord, is_finished, read_record
from scaling.study.schema import declare as _key
from scaling.study.trunks import find_trunks
from scaling.study.units import format_bytes, format_flops, format_quantity

# Bytes of a run's small files, measured on the embedded sweeps: run.json 3 kB and config.yaml 1.5 kB,
# and a row of metrics.jsonl
RECORD_BYTES, ROW_BYTES = 4.5e3, 180.0
WEIGHT_BYTES = 4  # float32
CHECKPOINT_BYTES = 12  # float32 weight and Adam's two moments
CHECKPOINTS = 2  # kept of a run that is training
WORTH_HOURS = 1e17  # FLOPs from which hours on an accelerator are worth a line: minutes of one


@dataclass(frozen=True)
class PriceConfig:
    """Keys of `scaling plan` that price a sweep; no run sees them."""

    # fmt: off
    device: str | None = _key(None, "", f"Device to price: {', '.join(PEAK_FLOPS)}; null: that of finished runs, or this machine's.")
    mfu: float | None = _key(None, "", "Model-FLOPs utilisation to price with; null: measured.", above=0, most=1)
    rate: float | None = _key(None, "money/hour", "Price of a device for an hour; null: cost.rate, else no money is named.", above=0)
    peak: float | None = _key(None, "FLOPs/s", "Dense bfloat16 peak of the device; null: as published.", above=0)
    # fmt: on


@dataclass(frozen=True)
class Utilisation:
    """A share of the peak, where it comes from, and on which device."""

    mfu: float
    source: str
    device: str


def price_lines(
    plans: Sequence[RunPlan], price: PriceConfig, estimate: Estimate | None
) -> list[str]:
    """Say what the runs that are not finished cost: hours, money, memory, disk."""
    missing = [p for p in plans if not is_finished(p.folder)]
    if not missing:
        return []
    device = None if price.device is None or price.peak else read_device(price.device)
    return [
        *_hours(missing, price, device or price.device, _find_use(plans, price, device, estimate)),
        f"{_memory(missing, device)} {_disk(missing)}",
    ]


def spent_flops(plans: Sequence[RunPlan]) -> float:
    """Return the counted FLOPs of runs, shared trunks once, validation passes included."""
    trained = sum(p.flops_counted for p in plans) - sum(t.shared_flops for t in find_trunks(plans))
    # a forward pass is a third of training (Kaplan et al. 2020)
    scored = sum(
        p.config.train.evals * p.config.data.val_tokens * float(p.flops.counted) / 3 for p in plans
    )
    return trained + scored


def _hours(
    plans: Sequence[RunPlan], price: PriceConfig, device: str | None, use: Utilisation | None
) -> list[str]:
    flops = spent_flops(plans)
    name = device or (use.device if use else None)
    peak = price.peak or (find_peak(name) if name else None)
    if peak is None:
        if flops < WORTH_HOURS:
            return []
        return ["Hours and money: price.device=h100 price.mfu=0.4 price.rate=2.5 (your device, its utilisation, an hour's price)."]  # fmt: skip
    hours = flops / peak / SECONDS_PER_HOUR
    unit = f"{name or 'device'}-hours"
    if use is None:
        return [f"At least {_amount(hours)} {unit}, at the full peak of {format_flops(peak)} FLOPs/s. price.mfu=0.4 says how much of it is used."]  # fmt: skip
    hours /= use.mfu
    words = cost_words(_rates(plans, price), hours)
    if not any(" an hour" in word for word in words):
        words.append("price.rate=2.5 (an hour's price) says what they cost")
    return [
        f"{_amount(hours)} {unit} for {format_flops(flops)} FLOPs, validation included, at {use.mfu:.0%} of "
        f"{format_flops(peak)} FLOPs/s ({use.source}); {', '.join(words)}."
    ]


def _rates(plans: Sequence[RunPlan], price: PriceConfig) -> CostConfig:
    """Return the rates of the runs, with the price of an hour that planning was told."""
    cost = plans[0].config.cost
    return cost if price.rate is None else dataclasses.replace(cost, rate=price.rate)


def _amount(hours: float) -> str:
    return format_amount(hours) if hours >= 0.01 else "under 0.01"


def _find_use(
    plans: Sequence[RunPlan], price: PriceConfig, device: str | None, estimate: Estimate | None
) -> Utilisation | None:
    """Return the utilisation that is stated, or measured on the device that is priced."""
    if price.mfu is not None:
        return Utilisation(price.mfu, "stated", device or price.device or "device")
    found = _by_records(plans, device)
    return found or (_by_timing(plans, device, estimate) if estimate else None)


def _by_records(plans: Sequence[RunPlan], device: str | None) -> Utilisation | None:
    """Return the utilisation of the sweep's finished runs on the device, or on any one."""
    records = [r for p in plans if (r := _record(p)) and r.mfu and r.flops_counted]
    records = [r for r in records if device is None or device in str(r.device)]
    if not records:
        return None
    name = max((str(r.device) for r in records), key=[str(r.device) for r in records].count)
    own = [r for r in records if r.device == name]
    flops = sum(r.flops_counted or 0.0 for r in own)
    time = sum((r.flops_counted or 0.0) / (r.mfu or 1.0) for r in own)
    return Utilisation(flops / time, f"measured by {len(own)} finished runs", name)


def _record(plan: RunPlan) -> RunRecord | None:
    try:
        return read_record(plan.folder)
    except RecordError:
        return None


def _by_timing(
    plans: Sequence[RunPlan], device: str | None, estimate: Estimate
) -> Utilisation | None:
    """Return the utilisation of the steps that were timed here, if this machine has such a device."""
    engine = _engine(plans[0])
    if engine is None or engine.device.type != "cuda" or (device or "") not in engine.name():
        return None
    peak = find_peak(engine.name())
    seconds = sum(
        estimate.seconds[p.run_id] - estimate.validation.get(p.run_id, 0.0) for p in plans
    )
    if peak is None or seconds <= 0:
        return None
    mfu = sum(p.flops_counted for p in plans) / peak / seconds
    return Utilisation(min(mfu, 1.0), "measured by steps timed here", engine.name())


def _engine(plan: RunPlan) -> Any:
    """Return how this machine would train a run; null where it cannot."""
    from scaling.training.device import choose_engine

    try:
        return choose_engine(
            plan.shape, batch_seqs=plan.batch_seqs, train=plan.config.train, tokens=plan.tokens
        )
    except ScalingError:
        return None


def _memory(plans: Sequence[RunPlan], device: str | None) -> str:
    """Say what the run that needs most holds: on the device that is priced, else on this machine."""
    from scaling.training.device import MICRO_TOKENS
    from scaling.training.memory import STATE_BYTES, memory_estimate

    def on_device(plan: RunPlan) -> float:
        seqs = max(1, min(plan.batch_seqs, MICRO_TOKENS["cuda"] // plan.shape.context))
        return memory_estimate(plan.shape, seqs, attention="sdpa", precision="bfloat16").total

    largest = max(plans, key=lambda p: (on_device(p), p.run_id))
    if device is not None:
        state = STATE_BYTES * largest.counts.total
        return (
            f"Memory: up to {format_bytes(state)} of weights and moments; {format_bytes(on_device(largest))} on one {device} with "
            f"{MICRO_TOKENS['cuda']:,} tokens per pass, fewer where that does not fit ({largest.run_id})."
        )
    engine = _engine(largest)
    if engine is None:
        state = STATE_BYTES * largest.counts.total
        return f"Memory: more than this machine has; weights and moments of {largest.run_id} alone take {format_bytes(state)}."
    return f"Memory: up to {format_bytes(engine.memory(largest.shape).total)} a run."


def _disk(plans: Sequence[RunPlan]) -> str:
    """Say what will lie on disk in the end, and what a running run holds besides."""
    from scaling.training.foresight import store_bytes

    records = sum(
        RECORD_BYTES + ROW_BYTES * (min(p.config.train.log_points, p.steps) + p.config.train.evals)
        for p in plans
    )
    weights = sum(WEIGHT_BYTES * p.counts.total for p in plans if p.config.train.keep_checkpoint)
    running = CHECKPOINTS * CHECKPOINT_BYTES * max(p.counts.total for p in plans)
    parts = [f"{format_bytes(records)} of records"]
    parts += [f"{format_bytes(weights)} of final weights"] if weights else []
    stores = []
    # of one text there is one store, however much of it a run sees
    texts = [dataclasses.replace(p.config.data, unique_tokens=None, max_epochs=1.0, order_seed=None) for p in plans]  # fmt: skip
    for data in {repr(data): data for data in texts}.values():
        try:
            stores.append(store_bytes(data))
        except ScalingError:
            stores.append(None)  # said by what training will refuse
    if sum(filter(None, stores)):
        parts.append(f"at most {format_bytes(sum(filter(None, stores)))} of tokens")
    open_ended = " and a text of unknown size" if None in stores else ""
    return f"Disk: {', '.join(parts)}{open_ended}; while it runs, {format_bytes(running)} of checkpoints a run at most."


def describe_identical(asked: int, runs: int) -> list[str]:
    """Say how many points of a design are a run that another point is too."""
    if asked <= runs:
        return []
    return [f"{format_quantity(asked)} points are {runs} different runs; each is trained once."]
