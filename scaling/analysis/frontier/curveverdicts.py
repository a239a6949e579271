"""What can be wrong with IsoFLOP minima, in plain words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scaling.analysis.frontier.bias import OFF, Bias
from scaling.analysis.frontier.exponents import Line
from scaling.analysis.frontier.lawcurve import LawCurve
from scaling.analysis.frontier.parabola import Curve, Skipped
from scaling.analysis.traps import warn
from scaling.study.units import format_flops

SMALL = 0.01  # a bias of D* that no decision would feel
WIDE = 10.0  # an interval of N* over this factor is worth a word
NOUNS = {"parabola": "parabola", "akima": "spline", "law": "law"}


def judge_curves(
    curves: Sequence[Curve], skipped: Sequence[Skipped], budgets: pd.DataFrame, bias: Bias | None,
    line: Line, method: str,
) -> list[str]:  # fmt: skip
    """Return the warnings for minima by one method, each with what to do."""
    warnings = []
    if len(curves) < 3:
        plural = "s" * (len(curves) > 1)
        warnings.append(warn("W-BUDGETS", f"{len(curves)} budget{plural} with a minimum: the exponent cannot be checked. Add budgets; 4 or more is good."))  # fmt: skip
    edges = [c for c in curves if c.edge]
    warnings += [_edge(edges, method)] * bool(edges)
    warnings += [_beyond(c) for c in curves if isinstance(c, LawCurve) and not c.range[0] < np.exp(c.log_vertex) < c.range[1]]  # fmt: skip
    wide = budgets[budgets["N_hi"] / budgets["N_lo"] > WIDE]
    if len(wide):
        warnings.append(warn("W-WIDE", f"At {', '.join(map(format_flops, wide['C']))} the minimum is known to no better than 10x in N. Widen the sizes or repeat runs with other seeds."))  # fmt: skip
    if bias is not None and (bias.off_centre or bias.drift > OFF) and _matters(bias):
        warnings.append(_off_centre(bias, method))
    if line.excess:
        warnings.append(warn("W-SCATTER", f"The minima scatter {100 * line.excess:.2g} % around their power law beyond what the noise explains; the intervals include it. Look for odd runs, untuned sizes or a bend; compare with method='law'."))  # fmt: skip
    if any("edge" in s.reason or "downward" in s.reason for s in skipped):
        at = [s for s in skipped if "edge" in s.reason or "downward" in s.reason]
        warnings.append(warn("W-EDGE", f"{', '.join(format_flops(s.C) for s in at)} FLOPs: no minimum inside the sizes, left out. Leaving such budgets out can itself move the exponent."))  # fmt: skip
    if skipped:
        plural = "s" * (len(skipped) > 1)
        warnings.append(warn("W-BUDGETS", f"{len(skipped)} budget{plural} left out; the reasons stand with the table of minima."))  # fmt: skip
    return warnings


def _edge(curves: Sequence[Curve], method: str) -> str:
    at = ", ".join(format_flops(c.C) for c in curves)
    return warn("W-EDGE", f"At {at} the best run is the smallest or largest size; the minimum rests on the {NOUNS[method]}. Add sizes beyond it.")  # fmt: skip


def _beyond(curve: Curve) -> str:
    return warn("W-EDGE", f"At {format_flops(curve.C)} the law's minimum lies outside the sizes trained. Add sizes around {np.exp(curve.log_vertex):.3g} parameters.")  # fmt: skip


def _off_centre(bias: Bias, method: str) -> str:
    offsets = ", ".join(f"{o:.2g}" for o in bias.offset)
    what = (
        f"drift by {bias.drift:.2g}x between budgets" if bias.drift > OFF else "lie off the optimum"
    )
    return warn("W-OFFC", f"The sizes {what} (centre over N* by budget: {offsets}), which biases a {NOUNS[method]}: {_amount(bias)}. Centre the sizes on N*, narrow them, or use method='law'.")  # fmt: skip


def _matters(bias: Bias) -> bool:
    """Whether the bias moves D* by more than 1 %, here or at 1000 times the compute."""
    return bool(max(abs(float(bias)), abs(float(bias.D(1000 * bias.target)))) > SMALL)


def describe_bias(bias: Bias, method: str) -> str:
    """Return one sentence on the bias of a method without noise."""
    surface = f"alpha {bias.alpha:.3g}, beta {bias.beta:.3g}"
    return f"Bias of the {NOUNS[method]} on these sizes if a Chinchilla surface ({surface}) were the truth: {_amount(bias)}."


def _amount(bias: Bias) -> str:
    far = 1000 * bias.target
    return (
        f"D* {_change(float(bias))} at {format_flops(bias.target)} FLOPs and "
        f"{_change(float(bias.D(far)))} at {format_flops(far)}, a {bias.a:+.2g}"
    )


def _change(share: float) -> str:
    """Write a relative change: in per cent, or as a factor where it is more than twice."""
    return f"{100 * share:+.2g} %" if share < 1 else f"x{1 + share:.2g}"
