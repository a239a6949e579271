"""What runs cost: device-hours, energy, money and CO2, from what was measured or stated.

Columns: device_hours, energy_kwh (the building's share included), energy_source (nvml, rapl, stated,
given), money, co2_kg. A table from elsewhere may bring any of them; theirs go first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from scaling.analysis.data.tables import number
from scaling.study.cost import SECONDS_PER_HOUR, CostConfig
from scaling.study.schema import build, keys_of

MEASURES = ("device_hours", "energy_kwh", "money", "co2_kg")


def read_rates(values: CostConfig | Mapping[str, Any]) -> CostConfig:
    """Return rates given by name, checked.

    Raises:
        ConfigError: no such rate, or a value it cannot have.
    """
    if isinstance(values, CostConfig):
        return values
    rates: CostConfig = build(CostConfig, values, [k.name for k in keys_of(CostConfig)], "cost.")
    return rates


def add_costs(frame: pd.DataFrame, cost: CostConfig | None = None) -> pd.DataFrame:
    """Return the runs with the columns of cost that can be known of any of them.

    Args:
        frame: one row per run, columns as in `RunRecord`, or device_hours of a table.
        cost: rates for all runs; what it leaves open is as each run was trained with.
    """
    if frame.empty:
        return frame
    stated = [c if isinstance(c, dict) else {} for c in frame.get("cost", [{}] * len(frame))]
    keys = pd.Series([repr(sorted(c.items())) for c in stated], index=frame.index)
    parts = []
    for _, rows in frame.groupby(keys, sort=False):
        own = stated[frame.index.get_loc(rows.index[0])]
        parts.append(_costs(rows, (cost or CostConfig()).over(own)))
    found = pd.concat(parts).loc[frame.index].dropna(axis="columns", how="all")
    return frame.assign(**{name: found[name] for name in found})


def _costs(rows: pd.DataFrame, cost: CostConfig) -> pd.DataFrame:
    """Return the columns of runs that share their rates."""
    empty = pd.Series(float("nan"), index=rows.index)
    hours = _first(_given(rows, "device_hours"), _hours(rows, cost))
    measured = cost.measured_kwh(_positive(rows, "energy_joules"))
    by_power = cost.stated_kwh(hours)
    given = _given(rows, "energy_kwh")
    kwh = _first(given, measured, empty if by_power is None else by_power)
    source = pd.Series(None, index=rows.index, dtype=object)
    source[kwh.notna()] = "stated"
    if "energy_source" in rows:
        source[measured.notna()] = rows["energy_source"][measured.notna()].fillna("given")
    source[given.notna() & measured.isna()] = "given"
    money, co2 = cost.money(hours), cost.co2_kg(kwh)
    return pd.DataFrame(
        {
            "device_hours": hours,
            "energy_kwh": kwh,
            "energy_source": source,
            "money": _first(_given(rows, "money"), empty if money is None else money),
            "co2_kg": _first(_given(rows, "co2_kg"), empty if co2 is None else co2),
        }
    )


def _hours(rows: pd.DataFrame, cost: CostConfig) -> pd.Series:
    """Return device-hours from seconds, which for stacked runs are shares already."""
    devices = number(rows, "devices").fillna(1.0)
    seconds = _positive(rows, "seconds") * devices / cost.per_device
    return _first(seconds, _positive(rows, "device_seconds")) / SECONDS_PER_HOUR


def _given(rows: pd.DataFrame, name: str) -> pd.Series:
    return _positive(rows, name)


def _positive(rows: pd.DataFrame, name: str) -> pd.Series:
    """Return a column with what is not above 0 as unknown: a run of no time cost nobody knows what."""
    values = number(rows, name).astype(float)
    return values.where(values > 0)


def _first(*series: pd.Series) -> pd.Series:
    found = series[0]
    for other in series[1:]:
        found = found.fillna(other)
    return found


def total_costs(frame: pd.DataFrame) -> dict[str, float]:
    """Return what runs cost together, by column; the steps of a trunk are paid once.

    Args:
        frame: with columns of `add_costs`. A branch gives up its trunk only where the run that
            carried it is among the runs.
    """
    there = frame["parent"].isin(frame["run_id"]) if "parent" in frame else pd.Series(False, index=frame.index)  # fmt: skip
    of_time = (number(frame, "parent_seconds") / number(frame, "seconds")).fillna(0.0)
    of_energy = number(frame, "parent_joules") / number(frame, "energy_joules")
    of_energy = of_energy.fillna(of_time)
    shared = {"device_hours": of_time, "money": of_time, "energy_kwh": of_energy, "co2_kg": of_energy}  # fmt: skip
    totals = {}
    for name in MEASURES:
        if name in frame and frame[name].notna().any():
            totals[name] = float((frame[name] * (1.0 - shared[name].where(there, 0.0))).sum())
    return totals
