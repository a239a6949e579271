"""A sweep file's own part: its question, and which runs answer it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from scaling.cli.overrides import as_override, known_keys, to_mapping
from scaling.study.designs import MAKERS, make_points, spread_values
from scaling.study.errors import ConfigError, did_you_mean

DESIGN_KEYS = {
    "question": "what the sweep is to answer, in a sentence",
    "cost": "what it costs: runs, FLOPs, time on a stated machine",
    "grid": "key: [values], or {from: 10k, to: 160k, points: 5} for even steps in the logarithm; every combination is a run",
    "points": "list of {key: value}; each is a run, combined with the grid",
    "isoflop": "budgets [FLOPs], sizes per budget (7), window: the factor that sizes reach below and above the middle (4), tokens_per_param at the middle (20; one, or one per budget)",
    "ladder": "sizes [parameters], tokens_per_param (20; one or several): every size at the same tokens per parameter",
    "repeats": "unique_tokens, epochs: every pair is a run that sees so many tokens so often (data.max_epochs must allow it)",
    "trunks": "true: budgets of one model take batch, rates and warm-up at the smallest of them, so that they share a trunk",
    "verify": "{key: value} of the run that checks the prediction; model.params: optimal takes N* from the fit",
}


@dataclass(frozen=True)
class Design:
    """The sweep file's own part: its question and which runs answer it."""

    question: str = ""
    cost: str = ""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    points: list[dict[str, Any]] = field(default_factory=list)
    isoflop: dict[str, Any] = field(default_factory=dict)
    ladder: dict[str, Any] = field(default_factory=dict)
    repeats: dict[str, Any] = field(default_factory=dict)
    verify: dict[str, Any] = field(default_factory=dict)
    trunks: bool = False

    @classmethod
    def from_config(cls, cfg: DictConfig) -> Design:
        """Check and read the `design` node."""
        if isinstance(cfg.get("sweeps"), DictConfig):
            raise ConfigError(
                "sweep file: its first line must be `# @package _global_`, or its keys have no effect. Add it."
            )
        if not isinstance(cfg.get("design") or cfg, DictConfig):
            raise ConfigError(
                f"design: expected keys below it ({', '.join(DESIGN_KEYS)}); got {cfg.design!r}."
            )
        values = to_mapping(cfg.design) if cfg.get("design") else {}
        for name in values:
            if name not in DESIGN_KEYS:
                raise ConfigError(
                    f"design.{name}: no such key.{did_you_mean(str(name), DESIGN_KEYS)} A design has {', '.join(DESIGN_KEYS)}."
                )
        values = {k: v for k, v in values.items() if v is not None}
        _check_design(values)
        for name in _swept_keys(values):
            if name not in known_keys() and "/" not in name and name not in _GROUPS:
                raise ConfigError(
                    f"design: {name} is no key of a run.{did_you_mean(name, known_keys())}"
                )
        return cls(**values)

    def overrides(self) -> list[list[str]]:
        """Return one list of `key=value` overrides per run of the design; one empty list if it names none."""
        grid = [
            [[as_override(key, v)] for v in spread_values(values, key=f"design.grid: {key}")]
            for key, values in self.grid.items()
        ]
        points = [self.points, *(make_points(n, v) for n in MAKERS if (v := getattr(self, n)))]
        listed = [
            [[as_override(k, v) for k, v in p.items()] for p in some] for some in points if some
        ]
        return [list(itertools.chain(*parts)) for parts in itertools.product(*listed, *grid)]


_GROUPS = ("model", "data", "tracker")  # config groups that a design may sweep


# what each value of a design is, in Python and in words
_DESIGN_TYPES: dict[str, tuple[type, str]] = {
    "question": (str, "a sentence"),
    "cost": (str, "a sentence"),
    "grid": (dict, "a mapping of key: [values]"),
    "points": (list, "a list of {key: value}"),
    **{name: (dict, f"a mapping of {', '.join(keys)}") for name, (_, keys) in MAKERS.items()},
    "verify": (dict, "one {key: value}"),
    "trunks": (bool, "true or false, without quotes"),
}


def _check_design(values: dict[str, Any]) -> None:
    """Refuse values of another kind than the design's keys have; `trunks: "false"` would be true."""
    for name, value in values.items():
        kind, text = _DESIGN_TYPES[name]
        if not isinstance(value, kind):
            raise ConfigError(f"design.{name}: {value!r} is not {text}. Correct the sweep file.")
    for point in values.get("points", []):
        if not isinstance(point, dict):
            raise ConfigError(
                f"design.points: {point!r} is not {{key: value}}. Write each run as `- {{key: value}}`."
            )
    for key, swept in values.get("grid", {}).items():
        spread_values(swept, key=f"design.grid: {key}")


def _swept_keys(design: dict[str, Any]) -> list[str]:
    points = [k for point in design.get("points", []) for k in point]
    return [*design.get("grid", {}), *points, *design.get("verify", {})]
