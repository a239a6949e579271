"""Values as overrides have them: written so that Hydra reads back the same, and read by its grammar."""

from __future__ import annotations

import functools
import re
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from scaling.study.config import config_keys

# what needs no quotes; interpolations stay alive
_PLAIN = re.compile(r"[\w./:@%+\-]+|.*\$\{.*", re.ASCII)


def as_override(key: str, value: Any) -> str:
    """Write a value as an override that Hydra reads back as the same value."""
    if isinstance(value, dict):
        pairs = (as_override(str(k), v).split("=", 1) for k, v in value.items())
        return f"{key}={{{', '.join(f'{name}: {text}' for name, text in pairs)}}}"
    text = "null" if value is None else str(value)
    if isinstance(value, str) and not _PLAIN.fullmatch(text):
        # Hydra takes a backslash as an escape before a quote only
        quoted = re.sub(r"(\\*)(?='|\Z)", r"\1\1", text).replace("'", "\\'")
        text = f"'{quoted}'"
    return f"{key}={text}"


@functools.lru_cache(maxsize=4096)
def read_value(text: str) -> Any:
    """Read an override's value by Hydra's own grammar."""
    return OverridesParser.create().parse_override(f"value={text}").value()


def to_mapping(node: DictConfig) -> dict[str, Any]:
    """Return a resolved node as a plain nested mapping with text keys."""
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@functools.cache
def known_keys() -> dict[str, None]:
    """Return every key of a run, in order."""
    return dict.fromkeys(k.name for k in config_keys())
