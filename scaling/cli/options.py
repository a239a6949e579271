"""Names and `key=value` options of the verbs that no configuration stands behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scaling.study.errors import ConfigError, did_you_mean


def split_options(
    arguments: Sequence[str], defaults: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Separate names from options.

    Args:
        defaults: every option with the value it has unless it is given.

    Raises:
        ConfigError: an option that is not in `defaults`.
    """
    names: list[str] = []
    options = dict(defaults)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or "/" in key or "." in key:  # a path may hold an equals sign
            names.append(argument)
        elif key not in defaults:
            raise ConfigError(
                f"{key}: no such option.{did_you_mean(key, defaults)} There are {', '.join(defaults)}."
            )
        else:
            options[key] = value.strip("'\"")
    return names, options


def is_true(options: Mapping[str, str], key: str) -> bool:
    """Return an option that is true or false.

    Raises:
        ConfigError: it is neither.
    """
    value = options[key].lower()
    if value not in ("true", "false"):
        raise ConfigError(f"{key}: expected true or false; got {options[key]!r}.")
    return value == "true"
