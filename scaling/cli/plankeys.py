"""Keys of `scaling plan` that no run sees: what to measure, to price and to simulate."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scaling.cli.foretelling import SimulateConfig
from scaling.cli.pricing import PriceConfig
from scaling.study.errors import ConfigError
from scaling.study.schema import build, keys_of

SWITCHES = ("calibrate", "simulate")


@dataclass(frozen=True)
class PlanConfig:
    """The keys with values."""

    price: PriceConfig = field(default_factory=PriceConfig)
    simulate: SimulateConfig = field(default_factory=SimulateConfig)


@dataclass(frozen=True)
class PlanKeys:
    """What `scaling plan` does besides planning: what to price and simulate with, and whether to."""

    config: PlanConfig
    calibrate: bool = True
    simulate: bool = True


def is_plan_key(argument: str) -> bool:
    """Whether an argument is one of these keys, and not one of a run."""
    key = argument.partition("=")[0].lstrip("+")
    return key in SWITCHES or key.split(".")[0] in ("price", "simulate")


def take_plan_keys(arguments: Sequence[str]) -> tuple[PlanKeys, list[str]]:
    """Read these keys; return them and the other arguments.

    Raises:
        ConfigError: no such key, or a value it cannot have.
    """
    values: dict[str, Any] = {"price": {}, "simulate": {}}
    switches: dict[str, bool] = {}
    for argument in filter(is_plan_key, arguments):
        key, _, value = argument.partition("=")
        group, dot, name = key.lstrip("+").partition(".")
        if dot and group in values:
            values[group][name] = value.strip("'\"")
        elif group in SWITCHES:
            switches[group] = _truth(group, value)
        else:
            raise ConfigError(
                f"{group}: needs a key below it, e.g. {group}.device=h100. `scaling plan --help` lists them."
            )
    config = build(PlanConfig, values, [k.name for k in keys_of(PlanConfig)])
    return PlanKeys(config, **switches), [a for a in arguments if not is_plan_key(a)]


def _truth(key: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ConfigError(f"{key}: expected true or false; got {value!r}.")
    return value.lower() == "true"


def describe_keys() -> str:
    """Return the keys with units and sentences, for the help."""
    keys = keys_of(PlanConfig)
    wide = max(len(k.name) for k in keys)
    lines = []
    for key in keys:
        unit = f" [{key.unit}]" if key.unit else ""
        text = textwrap.wrap(f"{key.text}{unit}", 96 - wide)
        lines.append(f"  {key.name:{wide}}  " + f"\n{'':{wide + 4}}".join(text))
    return "\n".join(lines)
