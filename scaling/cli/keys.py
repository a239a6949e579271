"""scaling keys [PREFIX]: every configuration key with its default, unit and meaning.

scaling keys            all keys
scaling keys optim      those of one group
"""

from __future__ import annotations

from collections.abc import Sequence

from scaling.study.config import config_keys
from scaling.study.errors import ConfigError, did_you_mean
from scaling.study.table import Table


def run_keys(arguments: Sequence[str]) -> int:
    """Print the table of keys whose name starts with the argument."""
    prefix = arguments[0] if arguments else ""
    keys = [k for k in config_keys() if k.name.startswith(prefix)]
    if not keys:
        raise ConfigError(
            f"no key starts with {prefix!r}.{did_you_mean(prefix, [k.name for k in config_keys()])}"
        )
    rows = [
        (
            k.name,
            "null" if k.default is None else str(k.default),
            k.unit,
            k.text + (f" One of {', '.join(k.choices)}." if k.choices else ""),
        )
        for k in keys
    ]
    print(Table(("key", "default", "unit", "meaning"), rows))
    return 0
