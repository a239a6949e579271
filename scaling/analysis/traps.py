"""The named warnings: standing traps of scaling-law work, each with one code and one meaning.

A warning is a sentence that opens with its code, `W-E: the floor ...`, so that people can look it up
and programs can ask for it.
"""

from __future__ import annotations

from collections.abc import Iterable

TRAPS = {
    "W-CONV": "conventions of N or C are mixed",
    "W-6ND": "C = 6ND leaves out more than 5 % of the compute (head, attention)",
    "W-ROUND": "published constants used after rounding",
    "W-STOP": "the optimiser stopped before the optimum",
    "W-MEAN": "a robust loss reduced by its mean, which stops optimisers early",
    "W-DELTA": "Huber's knee is far below the noise, so the objective is L1 in effect",
    "W-SCALE": "a free scale has collapsed, so the objective is another one than named",
    "W-TPP": "one ratio of tokens to parameters only",
    "W-EDGE": "an IsoFLOP minimum at the edge of its sizes, or a curve that opens downward",
    "W-OFFC": "an IsoFLOP fan off its centre; the bias of the parabola is stated",
    "W-SCHED": "losses taken before the learning rate had decayed",
    "W-WARM": "warm-up longer than 10 % of the run",
    "W-PRIOR": "published hyperparameters, which are priors for a sweep and not settings",
    "W-TUNE": "a learning-rate optimum at the edge of its sweep",
    "W-TRUNK": "branches of one trunk treated as independent runs",
    "W-CLUSTER": "too few clusters of runs to carry an interval",
    "W-INIT": "runs that start from trained weights, fitted as if they were fresh",
    "W-EPOCH": "more tokens than unique ones, without a law of repetition",
    "W-UNIT": "a value that looks as if it were in another unit",
    "W-VOCAB": "losses per token compared across tokenizers",
    "W-OBJ": "losses of different training objectives on one axis",
    "W-EXTRAP": "a prediction far outside the data",
    "W-E": "the floor is not identified",
    "W-FLOOR0": "the floor lies at zero, or below the known entropy of the source",
    "W-BASIN": "two optima that the data cannot tell apart",
    "W-BOUND": "a parameter ended on a bound of the search",
    "W-FLAT": "the profile of a parameter is flat",
    "W-RUNAWAY": "a coefficient runs away",
    "W-DESIGN": "the design lacks what the law needs",
    "W-FEW": "few runs for the number of free parameters",
    "W-BUDGETS": "too few budgets for an exponent",
    "W-SCATTER": "minima scatter around their power law beyond the noise",
    "W-APPROACH": "the three approaches disagree",
    "W-TEXT": "runs saw different texts",
    "W-CODE": "runs were trained by different states of the code",
    "W-WIDE": "an interval as wide as the quantity itself",
    "W-CURVE": "points of training curves mixed with final losses",
    "W-MISFIT": "the law does not describe the runs it was fitted to",
    "W-CEILING": "a law of a measure goes beyond the most that the measure can be",
    "W-NARROW": "an interval too narrow to be true",
    "W-LAW": "the form of the law is rejected by the runs",
    "W-CHOICE": "a decision that owes more to choices of the analysis than to noise",
    "W-OUTLIER": "single runs far from the law rule the fit",
}


def warn(code: str, text: str) -> str:
    """Return a warning that opens with its code.

    Raises:
        KeyError: the code is not in `TRAPS`.
    """
    TRAPS[code]
    return f"{code}: {text}"


def codes(warnings: Iterable[str]) -> set[str]:
    """Return the codes that a list of warnings carries."""
    return {w.split(":", 1)[0] for w in warnings}
