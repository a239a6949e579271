"""Designs said in a few numbers: the points that an IsoFLOP profile, a ladder or repeated text stand for.

Each maker turns one mapping of a sweep file into points, {key: value} of one run each. Wherever a
design lists values, `{from: 1e10, to: 1e12, points: 5}` stands for values evenly spaced in their
logarithm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scaling.study.errors import ConfigError, did_you_mean
from scaling.study.units import parse_quantity

SPREAD = ("from", "to", "points")
DIGITS = 3  # of spread values: enough for a grid, and short enough to read in a file's name

Points = list[dict[str, Any]]


def spread_values(values: Any, *, key: str) -> list[Any]:
    """Return a list as it is, and `{from, to, points}` as values evenly spaced in their logarithm.

    Args:
        values: what the sweep file says; key: where, for messages.

    Raises:
        ConfigError: neither, or limits that are not above 0 and rising.
    """
    if isinstance(values, list) and values:
        return values
    if not isinstance(values, Mapping) or set(values) != set(SPREAD):
        raise ConfigError(
            f"{key} needs a list of values, or {{from: 1e10, to: 1e12, points: 5}}; got {values!r}."
        )
    low, high = (parse_quantity(values[name], key=f"{key}.{name}") for name in SPREAD[:2])
    count = values["points"]
    if not isinstance(count, int) or count < 2 or not 0 < low < high:
        raise ConfigError(
            f"{key}: spread from {values['from']} to {values['to']} in {count!r} points. It needs 0 < from < to and 2 points or more."
        )
    return [_rounded(low * (high / low) ** (i / (count - 1))) for i in range(count)]


def isoflop_points(design: Mapping[str, Any]) -> Points:
    """Return an IsoFLOP profile: at each budget `sizes` sizes, evenly spaced in ln N.

    Sizes follow from the budget and the tokens per parameter, N ~ (C / ratio)^(1/2), so a window of
    4 (sizes from a quarter to four times the middle one) spans a factor 4^4 in tokens per parameter.

    Args:
        design: budgets [FLOPs], sizes, window (a factor), tokens_per_param at the middle: one
            number, or one per budget.

    Raises:
        ConfigError: a value that makes no profile.
    """
    budgets = spread_values(design.get("budgets"), key="design.isoflop.budgets")
    sizes = _whole(design.get("sizes", 7), "design.isoflop.sizes", least=2)
    window = parse_quantity(design.get("window", 4), key="design.isoflop.window")
    if window <= 1:
        raise ConfigError(
            f"design.isoflop.window: {window:g} leaves one size. Give a factor above 1, such as 4."
        )
    middle = design.get("tokens_per_param", 20)
    middles = middle if isinstance(middle, list) else [middle] * len(budgets)
    if len(middles) != len(budgets):
        raise ConfigError(
            f"design.isoflop.tokens_per_param: {len(middles)} values for {len(budgets)} budgets. Give one number, or one per budget."
        )
    points = []
    for budget, at in zip(budgets, middles, strict=True):
        ratio = _positive(at, "design.isoflop.tokens_per_param")
        for i in range(sizes):
            step = 1 - 2 * i / (
                sizes - 1
            )  # from the smallest size, with most tokens, to the largest
            points.append({"budget.flops": budget, "budget.tokens_per_param": _rounded(ratio * window ** (2 * step))})  # fmt: skip
    return points


def ladder_points(design: Mapping[str, Any]) -> Points:
    """Return a ladder: sizes, each trained on the same number of tokens per parameter.

    Args:
        design: sizes [parameters], tokens_per_param (a number, or several for several ladders).

    Raises:
        ConfigError: a value that makes no ladder.
    """
    sizes = spread_values(design.get("sizes"), key="design.ladder.sizes")
    ratio = design.get("tokens_per_param", 20)
    ratios = ratio if isinstance(ratio, list) else [ratio]
    return [{"model.params": n, "budget.tokens_per_param": r} for r in ratios for n in sizes]


def repeat_points(design: Mapping[str, Any]) -> Points:
    """Return unique tokens x epochs: the same few tokens seen again and again.

    Args:
        design: unique_tokens [tokens], epochs (how often each is seen).

    Raises:
        ConfigError: a value that makes no such runs.
    """
    unique = spread_values(design.get("unique_tokens"), key="design.repeats.unique_tokens")
    epochs = spread_values(design.get("epochs"), key="design.repeats.epochs")
    return [
        {
            "data.unique_tokens": u,
            "budget.tokens": _positive(u, "design.repeats.unique_tokens")
            * _positive(e, "design.repeats.epochs"),
        }
        for u in unique
        for e in epochs
    ]


# name of the design's key: (its maker, the keys below it)
MAKERS: dict[str, tuple[Callable[[Mapping[str, Any]], Points], Sequence[str]]] = {
    "isoflop": (isoflop_points, ("budgets", "sizes", "window", "tokens_per_param")),
    "ladder": (ladder_points, ("sizes", "tokens_per_param")),
    "repeats": (repeat_points, ("unique_tokens", "epochs")),
}


def make_points(name: str, design: Mapping[str, Any]) -> Points:
    """Return the points that `design.NAME` stands for.

    Raises:
        ConfigError: a key that this design does not have, or a value that it cannot use.
    """
    make, known = MAKERS[name]
    for key in design:
        if key not in known:
            raise ConfigError(
                f"design.{name}.{key}: no such key.{did_you_mean(str(key), known)} It has {', '.join(known)}."
            )
    return make(design)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _positive(value: Any, key: str) -> float:
    number = parse_quantity(value, key=key)
    if number <= 0:
        raise ConfigError(f"{key}: must be above 0; got {value!r}.")
    return number


def _whole(value: Any, key: str, *, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{key}: needs a whole number, {least} or more; got {value!r}.")
    return value
