"""Numbers as people write them: `40M`, `2.5B`, `1e18`, `3 min`."""

from __future__ import annotations

import math
import re

from scaling.study.errors import ConfigError

_SCALE = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_NUMBER = re.compile(r"\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([kKMBGTPE]?)\s*")


def parse_quantity(value: object, *, key: str = "value") -> float:
    """Read a number written as `40M`, `2.5B`, `10k`, `1e18`, `1_000` or as a plain number.

    Args:
        value: text or number; k = 1e3, M = 1e6, B or G = 1e9, T = 1e12, P = 1e15, E = 1e18.
        key: the configuration key, named in the error.

    Raises:
        ConfigError: not a finite number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ConfigError(f"{key}: expected a number such as 40M or 1e18; got {value!r}.")
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        if not match:
            raise ConfigError(f"{key}: expected a number such as 40M or 1e18; got {value!r}.")
        value = float(match[1].replace("_", "")) * _SCALE[match[2]]
    if not math.isfinite(value):
        raise ConfigError(f"{key}: expected a finite number; got {value!r}.")
    return value


_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*(s|min|h|d)\s*")


def parse_duration(value: object, *, key: str = "value") -> float:
    """Read a time written as `90`, `90 s`, `10min`, `2h` or `1.5 d`; returns seconds.

    Raises:
        ConfigError: neither a number nor a number with one of these units.
    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match:
        return float(match[1]) * _SECONDS[match[2]]
    try:
        return parse_quantity(value, key=key)
    except ConfigError:
        raise ConfigError(
            f"{key}: expected a time such as 90, 10min or 2h; got {value!r}."
        ) from None


def format_quantity(value: float | None, digits: int = 3) -> str:
    """Write a count the way people read it: 41_943 -> `41.9k`, 1.2e9 -> `1.2B`; None -> `-`."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits}g}")  # round first, so that 999_999 reads 1M and not 1000k
    for scale, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, "")):
        if abs(rounded) >= scale:
            return (f"{rounded / scale:.{digits}g}" if abs(rounded) < 1e15 else f"{value:.2e}") + (
                suffix if abs(rounded) < 1e15 else ""
            )
    return f"{value:.{digits}g}"


def format_flops(value: float | None) -> str:
    """Write FLOPs as `3.2e+17` is read in papers: `3.2e17`; None -> `-`."""
    if value is None or not math.isfinite(value):
        return "-"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def format_duration(seconds: float | None) -> str:
    """Write seconds as `42 s`, `3 min 20 s`, `5 h 10 min` or `2 d 4 h`; None -> `-`."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for unit, size, small, small_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} {int(seconds % size // small_size)} {small}"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def format_bytes(count: float | None) -> str:
    """Write a size in memory or on disk in binary units: `1.4 GiB`; None -> `-`."""
    if count is None or not math.isfinite(count):
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.3g} {unit}" if abs(count) < 999.5 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def format_with_interval(value: float, lo: float | None, hi: float | None) -> tuple[str, str]:
    """Round a number by its interval: digits beyond the second of the interval's width say nothing.

    Returns:
        The number and `[lo, hi]`, both with the same decimals; the interval is empty if unknown.
    """
    if lo is None or hi is None or not (math.isfinite(lo) and math.isfinite(hi)) or hi <= lo:
        return f"{value:.4g}", ""
    decimals = 1 - math.floor(math.log10(hi - lo))  # two digits of the width
    if decimals < 0 or max(abs(value), abs(hi)) >= 1e5:
        digits = max(2, math.ceil(math.log10(max(abs(value), abs(hi)) / (hi - lo))) + 2)
        return f"{value:.{digits}g}", f"[{lo:.{digits}g}, {hi:.{digits}g}]"
    decimals = min(decimals, 8)
    return f"{value:.{decimals}f}", f"[{lo:.{decimals}f}, {hi:.{decimals}f}]"
