"""How a number with its interval is written in a decision's table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scaling.study.cost import format_amount
from scaling.study.units import format_flops, format_quantity, format_with_interval


@dataclass(frozen=True)
class Column:
    """One quantity of a decision: its name in the frame, its title, and how it is written."""

    name: str
    title: str
    kind: str = "count"  # count, flops, loss, percent, times, amount

    def write(self, value: float, lo: float = math.nan, hi: float = math.nan) -> str:
        """Return the number, rounded by its interval, and the interval."""
        if math.isinf(value):
            return "not reachable"
        if math.isnan(value):
            return "-"
        scale = 100.0 if self.kind == "percent" else 1.0
        value, lo, hi = (0.0 if abs(x * scale) < 1e-9 else x * scale for x in (value, lo, hi))
        if not hi - lo > 1e-9 * abs(value):  # given, exact or unknown
            lo = hi = math.nan
        number, span = _WRITE[self.kind](value, lo, hi)
        unit = {"percent": " %", "times": "x"}.get(self.kind, "")
        return f"{number}{unit}" + (f" {span}" if span else "")


def _write_count(value: float, lo: float, hi: float) -> tuple[str, str]:
    """Write a count with as many digits as two of its interval's width leave, 2 to 4."""
    digits = 3
    if math.isfinite(hi) and value > 0:
        digits = min(4, max(2, math.ceil(math.log10(value / (hi - lo))) + 2))

    def write(x: float) -> str:
        return format_quantity(float(f"{x:.{digits}g}"), max(digits, 3))

    return write(value), _bracket(write, lo, hi)


def _write_flops(value: float, lo: float, hi: float) -> tuple[str, str]:
    return format_flops(value), _bracket(format_flops, lo, hi)


def _write_plain(value: float, lo: float, hi: float) -> tuple[str, str]:
    if math.isinf(hi):
        return f"{value:.4g}", _bracket("{:.4g}".format, lo, hi)
    return format_with_interval(value, lo, hi)


def _write_amount(value: float, lo: float, hi: float) -> tuple[str, str]:
    return format_amount(value), _bracket(format_amount, lo, hi)


def _bracket(write: Callable[[float], str], lo: float, hi: float) -> str:
    """Write an interval; empty if unknown. Where draws never reach a target it has no upper limit."""
    if math.isnan(lo) or math.isnan(hi) or math.isinf(lo):
        return ""
    return f"[{write(lo)}, {write(hi) if math.isfinite(hi) else 'no limit'}]"


_WRITE: dict[str, Callable[[float, float, float], tuple[str, str]]] = {
    "count": _write_count, "flops": _write_flops, "loss": _write_plain, "percent": _write_plain, "times": _write_plain,
    "amount": _write_amount,
}  # fmt: skip
