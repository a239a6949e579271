"""What runs cost besides FLOPs: rates that are stated, and the conversions that everybody shares.

Planning, records, fits and figures take energy, money and CO2 from here and from nowhere else.
Nothing has a default: without a rate there is no money, without a factor no CO2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaling.study.schema import declare as _key
from scaling.study.units import format_quantity

JOULES_PER_KWH = 3.6e6  # by definition
SECONDS_PER_HOUR = 3600.0

# What a frontier can be drawn against: the column of the runs, and its unit
AXES = {
    "flops": ("C", "FLOPs"),
    "hours": ("device_hours", "device-hours"),
    "energy": ("energy_kwh", "kWh"),
    "money": ("money", "money"),
    "co2": ("co2_kg", "kg CO2e"),
}


# fmt: off
@dataclass(frozen=True)
class CostConfig:
    """What a device costs. On CPUs a device is what one run has of the machine."""

    watts: float | None = _key(None, "W", "Power of one device while it trains, with its share of the host; for runs whose energy was not measured.", above=0, numbers=False)
    pue: float | None = _key(None, "", "Energy of the building over energy of its computers (power usage effectiveness); null: the computers alone.", least=1, numbers=False)
    rate: float | None = _key(None, "money/hour", "Price of one device for an hour.", above=0, numbers=False)
    currency: str | None = _key(None, "", "Currency of `rate`, e.g. EUR.", numbers=False)
    carbon: float | None = _key(None, "kg/kWh", "CO2 equivalents per kWh of the electricity used.", least=0, numbers=False)
    carbon_source: str | None = _key(None, "", "Who published `carbon`, for which grid and year; written beside every result.", numbers=False)
    per_device: int = _key(1, "runs", "Runs that share one device at a time (launcher per_gpu); each is charged its share.", least=1, numbers=False)
# fmt: on

    def stated(self) -> dict[str, Any] | None:
        """Return the values that are stated, as a record keeps them; null if none is."""
        values = dataclasses.asdict(self)
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return {k: v for k, v in values.items() if v != defaults[k]} or None

    def over(self, other: Mapping[str, Any] | None) -> CostConfig:
        """Return these rates, and for what they leave open those of a record."""
        names = {f.name for f in dataclasses.fields(CostConfig)}
        values = {k: v for k, v in (other or {}).items() if k in names} | (self.stated() or {})
        return CostConfig(**{k: v for k, v in values.items() if k in names})

    def measured_kwh(self, joules: Any) -> Any:
        """Return energy [kWh] from what was measured [J], the building's share included."""
        return joules / JOULES_PER_KWH * (self.pue or 1.0)

    def stated_kwh(self, device_hours: Any) -> Any:
        """Return energy [kWh] by the stated power; null without one."""
        return None if self.watts is None else device_hours * (self.watts / 1000.0) * (self.pue or 1.0)  # fmt: skip

    def money(self, device_hours: Any) -> Any:
        """Return the price in `currency`; null without a rate."""
        return None if self.rate is None else device_hours * self.rate

    def co2_kg(self, kwh: Any) -> Any:
        """Return CO2 equivalents [kg] of an energy [kWh]; null without a factor or an energy."""
        return None if self.carbon is None or kwh is None else kwh * self.carbon

    def describe(self) -> str:
        """Say what was stated, in one line; empty if nothing was."""
        parts = []
        if self.watts is not None:
            parts.append(f"{self.watts:g} W a device")
        if self.pue is not None:
            parts.append(f"PUE {self.pue:g}")
        if self.rate is not None:
            parts.append(f"{self.rate:g} {self.unit} a device-hour")
        if self.carbon is not None:
            parts.append(f"{self.carbon:g} kg CO2e/kWh ({self.carbon_source or 'cost.carbon_source does not say whose figure'})")  # fmt: skip
        if self.per_device > 1:
            parts.append(f"{self.per_device} runs a device")
        return ", ".join(parts)

    @property
    def unit(self) -> str:
        """The currency, or the word for any."""
        return self.currency or "money"


def device_seconds(seconds: float | None, devices: int | None, per_device: int) -> float | None:
    """Return the device time of a run [s]; null where its time is not known.

    Args:
        seconds: the run's own, which for a stacked run is its share already.
        devices: that worked for it; per_device: runs that shared each of them.
    """
    return None if seconds is None else seconds * (devices or 1) / per_device


def cost_words(cost: CostConfig, device_hours: float) -> list[str]:
    """Say what device-hours cost by the stated rates: money, energy, CO2; empty if none is stated."""
    money, kwh = cost.money(device_hours), cost.stated_kwh(device_hours)
    co2 = cost.co2_kg(kwh)
    words = []
    if money is not None:
        words.append(f"{format_amount(money)} {cost.unit} at {cost.rate:g} an hour" if cost.currency else f"{format_amount(money)} at {cost.rate:g} an hour")  # fmt: skip
    if kwh is not None:
        pue = f" and PUE {cost.pue:g}" if cost.pue else ""
        words.append(f"{format_amount(kwh)} kWh at {cost.watts:g} W{pue}")
    if co2 is not None:
        source = f" ({cost.carbon_source})" if cost.carbon_source else ""
        words.append(f"{format_amount(co2)} kg CO2e at {cost.carbon:g} kg/kWh{source}")
    return words


def format_amount(value: float | None) -> str:
    """Write hours, kWh, kg or money: `1,234`, `12.3`, `0.0123`; None -> `-`."""
    if value is None or value != value:
        return "-"
    if abs(value) >= 1e6:
        return format_quantity(value)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
