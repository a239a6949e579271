"""One line below a sweep's table: the law so far, and whether its interval is good enough to decide.

What a sweep is for is the next, larger run. So the line answers at the compute of that run: how far
the interval of the optimal size reaches, and what the loss will be.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.study.config import FitConfig
from scaling.study.errors import ScalingError
from scaling.study.ledger import Glance
from scaling.study.record import write_atomic
from scaling.study.units import format_flops, format_quantity, format_with_interval

# Largest ratio of the ends of N*'s interval. At 1.5 the true optimum is within a factor of 1.22 of
# the middle, which costs 0.5 alpha beta ln(1.22)^2 of the reducible loss: 0.2 % with the exponents
# 0.34 and 0.28 of Hoffmann et al. 2022 (arXiv:2203.15556), less than seeds scatter.
GOOD_ENOUGH = 1.5
BEYOND = 10.0  # the target as a multiple of the largest budget, where the sweep names none


@dataclass(frozen=True)
class Question:
    """What the line answers.

    Args:
        law: to fit; at: compute of the run to decide [FLOPs], null: 10 times the largest.
        good_enough: largest ratio of the ends of the interval of N*.
    """

    law: str = FitConfig.law
    at: float | None = None
    good_enough: float = GOOD_ENOUGH


def law_line(
    folder: Path,
    question: Question,
    glances: Mapping[str, Glance],
    stamps: Mapping[str, tuple[int, ...]],
) -> str:
    """Return the line, remembered for as long as no finished record changes.

    Args:
        folder: of the sweep's results.
        glances, stamps: of its records, by run, as `Ledger` gives them.
    """
    done = sorted(name for name, g in glances.items() if g.status == "done")
    if not done:
        return "No law yet: no run is done."
    key = _key(question, [(name, stamps[name]) for name in done], folder)
    path = folder / ".status" / "law.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, or cut: made again
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["key"] == key:
            return str(known["line"])
    line = fit_line(folder, question)
    with contextlib.suppress(OSError):  # somebody else's folder, or a full disk
        write_atomic(path, json.dumps({"key": key, "line": line}, ensure_ascii=False) + "\n")
    return line


def fit_line(folder: Path, question: Question) -> str:
    """Fit the law to the records of a folder and say in a line what it gives."""
    from scaling.analysis.fits.fitting import fit
    from scaling.cli.analyse import fit_options, read_runs

    config = FitConfig.from_dict({"sweep": str(folder), "results": ".", "law": question.law})
    try:
        _, runs = read_runs(config)
        if not len(runs):
            return "No law yet: no run with role fit is done."
        law = fit(runs, **fit_options(config))
        return describe_law(law, question)
    except ScalingError as error:
        return f"No law yet ({question.law}): {error}"


def describe_law(law: Any, question: Question) -> str:
    """Say exponent, optimum and loss of a fit with intervals, and whether they are good enough.

    Raises:
        FitError: the law has no optimum in N and D.
    """
    at = question.at or BEYOND * float(max(law.runs.C))
    best = law.optimal([at]).iloc[0]
    loss, span = format_with_interval(best["loss"], best["loss_lo"], best["loss_hi"])
    exponent = " ".join(format_with_interval(law.get("a"), *law.interval("a")))
    lo, hi = float(best["N_lo"]), float(best["N_hi"])
    sizes = f"[{format_quantity(lo)}, {format_quantity(hi)}]"
    head = (
        f"Law so far ({law.law.name}, {len(law.runs)} runs): a = {exponent}; at {format_flops(at)} FLOPs "
        f"N* = {format_quantity(best['N'])} {sizes}, loss {loss} {span}"
    ).rstrip()
    return f"{head}; {_verdict(lo, hi, question.good_enough)}"


def _verdict(lo: float, hi: float, good_enough: float) -> str:
    """Compare the interval of N* with the one asked for; an open or unknown one is never enough."""
    asked = f"good_enough={good_enough:g}"
    if not (lo > 0 and hi < float("inf")):
        return f"not yet: the interval of N* is open ({asked})."
    ratio = hi / lo
    if ratio <= good_enough:
        return f"good enough: the interval of N* spans a factor {ratio:.3g} ({asked})."
    return f"not yet: the interval of N* spans a factor {ratio:.3g} ({asked})."


def _key(question: Question, done: list[Any], folder: Path) -> str:
    """A hash of what the line is made of: question, finished records, conventions, the fitter itself."""
    package = Path(__file__).parents[1]
    code = [(p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in sorted((package / "analysis").rglob("*.py"))]  # fmt: skip
    sweep = folder / "sweep.yaml"
    text = sweep.read_text(encoding="utf-8", errors="replace") if sweep.is_file() else ""
    return hashlib.sha256(repr([question, done, text, code]).encode()).hexdigest()
