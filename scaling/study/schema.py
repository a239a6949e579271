"""Configuration keys as declarations: default, unit, one sentence, what is allowed, and the check.

Every wrong key or value is answered with its name, the value, and what to do.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scaling.study.errors import ConfigError, did_you_mean
from scaling.study.units import parse_duration, parse_quantity


def declare(
    default: Any,
    unit: str,
    text: str,
    *,
    choices: tuple = (),
    numbers: bool = True,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    words: tuple[str, ...] = (),
) -> Any:
    """Declare a key: default, unit, one sentence, and what is allowed.

    `least` and `most` count, `above` does not; `words` may stand in place of a value.
    """
    return field(
        default=default,
        metadata={"unit": unit, "text": text, "choices": choices, "numbers": numbers, "least": least,
                  "above": above, "most": most, "words": words},
    )  # fmt: skip


@dataclass(frozen=True)
class Key:
    """One documented configuration key."""

    name: str
    type: str
    default: Any
    unit: str
    text: str
    choices: tuple
    numbers: bool


# the schema never changes, and a sweep of ten thousand runs asks for it at every run
type_hints = functools.cache(typing.get_type_hints)


@functools.cache
def keys_of(cls: type) -> tuple[Key, ...]:
    """Return every configuration key with its dotted name, type, default, unit and sentence."""
    return tuple(_walk(cls, ""))


def _walk(cls: type, prefix: str) -> Iterator[Key]:
    hints = type_hints(cls)
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from _walk(hints[f.name], f"{prefix}{f.name}.")
        else:
            m = f.metadata
            yield Key(
                prefix + f.name,
                _type_name(hints[f.name]),
                f.default,
                m["unit"],
                m["text"],
                m["choices"],
                m["numbers"],
            )


def build(cls: type, values: object, known: Iterable[str], prefix: str = "") -> Any:
    """Build one dataclass level; recursion follows the nesting of the schema."""
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{prefix[:-1]}: expected keys below it such as {prefix}{dataclasses.fields(cls)[0].name}; got {values!r}."
        )
    hints = type_hints(cls)
    unknown = [k for k in values if k not in hints]
    if unknown:
        name = f"{prefix}{unknown[0]}"
        raise ConfigError(
            f"{name}: no such key.{did_you_mean(name, known)} `scaling keys` lists all of them."
        )
    built = {}
    for f in dataclasses.fields(cls):
        if f.name not in values:
            continue
        if dataclasses.is_dataclass(hints[f.name]):
            built[f.name] = _section(hints[f.name], values[f.name], known, f"{prefix}{f.name}.")
        else:
            built[f.name] = _check(values[f.name], hints[f.name], f.metadata, prefix + f.name)
    return cls(**built)


_sections: dict[tuple, Any] = {}  # what was built before, by the values as they were given
MOST_SECTIONS = 4096


def _section(cls: type, values: object, known: Iterable[str], prefix: str) -> Any:
    """Build a group of keys, or find it: the runs of a sweep differ in few groups and share the others."""
    if not isinstance(values, Mapping):
        return build(cls, values, known, prefix)
    # types too, since 1, 1.0 and true are equal and not the same
    key = (cls, prefix, tuple(values.items()), tuple(map(type, values.values())))
    try:
        if key in _sections:
            return _sections[key]
    except TypeError:  # a value such as a mapping, which has no hash
        return build(cls, values, known, prefix)
    built = build(cls, values, known, prefix)
    if len(_sections) >= MOST_SECTIONS:
        _sections.clear()
    return _sections.setdefault(key, built)


def _check(value: Any, hint: Any, meta: Mapping[str, Any], name: str) -> Any:
    """Convert one value to its type and check its range."""
    optional = isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint)
    if value is None or value == "null":
        if optional:
            return None
        raise ConfigError(f"{name}: null is not allowed; give {_article(hint)} ({meta['text']})")
    if value in meta["words"]:
        return value
    kind = typing.get_args(hint)[0] if isinstance(hint, types.UnionType) else hint
    duration = meta["unit"] == "s"
    value = float(parse_duration(value, key=name)) if duration else _convert(value, kind, name)
    if meta["choices"] and value not in meta["choices"]:
        raise ConfigError(
            f"{name}: {value!r} is none of {', '.join(meta['choices'])}.{did_you_mean(str(value), meta['choices'])}"
        )
    for bound, wrong, text in (
        ("least", lambda v, b: v < b, "at least"), ("above", lambda v, b: v <= b, "above"), ("most", lambda v, b: v > b, "at most"),
    ):  # fmt: skip
        if meta[bound] is not None and wrong(value, meta[bound]):
            unit = f" {meta['unit']}" if meta["unit"] else ""
            raise ConfigError(f"{name}: must be {text} {meta[bound]:g}{unit}; got {value:g}.")
    return value


def _convert(value: Any, kind: Any, name: str) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{name}: expected true or false; got {value!r}.")
    if kind is int:
        number = parse_quantity(value, key=name)
        if number != int(number):
            raise ConfigError(f"{name}: expected a whole number; got {value!r}.")
        return int(number)
    if kind is float:
        return float(parse_quantity(value, key=name))
    if typing.get_origin(kind) is dict:
        return _mapping(value, typing.get_args(kind)[1], name)
    if not isinstance(value, str):
        raise ConfigError(f"{name}: expected text; got {value!r}.")
    return value


def _mapping(value: Any, kind: Any, name: str) -> dict[str, Any]:
    """Check `{mine: value, ...}`, each value of one kind."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name}: expected {name}={{key: value}}; got {value!r}.")
    return {str(k): _convert(v, kind, f"{name}.{k}") for k, v in value.items()}


def check_filled(config: Any, names: Iterable[str]) -> None:
    """Check that keys which name a place are not empty.

    Raises:
        ConfigError: one is.
    """
    for name in names:
        value = operator.attrgetter(name)(config)
        if value is not None and not value.strip():
            raise ConfigError(f"{name}: is empty. Give a value after the =, or leave the key out.")


def _type_name(hint: Any) -> str:
    names = [
        getattr(typing.get_origin(t) or t, "__name__", str(t))
        for t in (typing.get_args(hint) or (hint,))
    ]
    return " or ".join(
        {
            "NoneType": "null",
            "str": "text",
            "float": "number",
            "int": "whole number",
            "bool": "true/false",
            "dict": "mapping",
        }.get(n, n)
        for n in names
    )


def _article(hint: Any) -> str:
    return f"a {_type_name(hint)}"
