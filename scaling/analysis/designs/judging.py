"""What a design cannot answer, seen from its points: budgets, windows, directions, confounded settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from scaling.analysis.allocation.decided import FAR
from scaling.analysis.data.runs import Runs
from scaling.analysis.designs.simulation import DesignStudy
from scaling.analysis.designs.truths import Truth
from scaling.analysis.frontier.minima import SAME_BUDGET, group_budgets
from scaling.analysis.law import Cost
from scaling.analysis.optimum import best_allocation
from scaling.analysis.traps import warn
from scaling.study.units import format_flops, format_quantity

LEAST_BUDGETS, LEAST_SPAN, LEAST_SIZES = 3, 10.0, 3
SAME_RATIO = 1.5  # D/N that varies less is one ratio, as after a fit (W-TPP)
LARGEST_CORRELATION = 0.9  # of ln N and ln D, as the laws' own needs say
# Measured on bytes at 2k and 6k parameters, 8k and 32k unique tokens, up to 32 epochs: at 1.3 to 5 unique
# tokens per parameter the loss rises from 8 or 16 epochs on, at 16 it stays (docs/designing.md).
BY_HEART, OFTEN = 5.0, 8.0
SHOWN = 3  # sizes or budgets that a warning names
# in log N: sizes asked for as one come out up to 1 % apart, because parts of a shape are whole numbers
SAME_SIZE = 0.03


def judge_design(
    study: DesignStudy, *, isoflop: bool = False, asked: pd.DataFrame | None = None
) -> list[str]:
    """Return what a design of sizes and tokens cannot tell, each with what to do.

    Args:
        study: the design and the law it was simulated with.
        isoflop: whether it asks for the best size at each of several budgets.
        asked: columns of further settings that were asked for, a row per run; those that change
            with the size and nothing else are confounded with it.
    """
    frame = study.runs.fit_rows[["N", "D", "C"]]
    far = study.target / float(frame["C"].max())
    found = [
        *_ratio(frame),
        *(_budgets(study.runs, study.truth, study.cost) if isoflop else _compute(frame)),
        *_by_heart(study.runs.fit_rows),
        *judge_settings(frame["N"].to_numpy(), asked),
    ]
    if far > FAR:
        found.append(
            warn("W-EXTRAP", f"the prediction at {format_flops(study.target)} FLOPs lies {far:,.0f} times beyond the largest run; it rests on the form of the law. Check at {format_flops(10 * frame['C'].max())} first.")
        )  # fmt: skip
    return found


def _ratio(frame: pd.DataFrame) -> Iterator[str]:
    """One ratio of tokens to parameters, or N and D that only rise together."""
    log_n, log_d = np.log(frame["N"].to_numpy()), np.log(frame["D"].to_numpy())
    ratio = np.exp(log_d - log_n)
    if ratio.max() / ratio.min() < SAME_RATIO:
        yield warn("W-TPP", f"all runs have about {np.median(ratio):.3g} tokens per parameter: one curve in compute, from which no fit can tell alpha from beta, or find N*. Add a second and a third ratio, e.g. design.ladder.tokens_per_param=[5,20,80].")  # fmt: skip
    elif np.ptp(log_n) == 0 or np.ptp(log_d) == 0:
        still, other = ("size", "D") if np.ptp(log_n) == 0 else ("number of tokens", "N")
        yield warn("W-DESIGN", f"all runs have one {still}: they show how the loss falls with {other}, and no optimum of N and D.")  # fmt: skip
    elif np.corrcoef(log_n, log_d)[0, 1] > LARGEST_CORRELATION:
        yield warn("W-DESIGN", f"N and D rise together (correlation of their logs {np.corrcoef(log_n, log_d)[0, 1]:.2f}), so that alpha is hardly told from beta. Add large sizes with few tokens and small ones with many.")  # fmt: skip


def _by_heart(rows: pd.DataFrame) -> Iterator[str]:
    """Texts so small beside the model that they are learnt by heart."""
    few = rows["unique_tokens"] / rows["N"]
    worst = few[rows["D"] >= OFTEN * rows["unique_tokens"]].min()
    if worst < BY_HEART:
        yield warn("W-EPOCH", f"some runs see {worst:.2g} unique tokens per parameter {OFTEN:g} times or more: they are learnt by heart, and the loss rises again, which no law of repeats describes. Use more unique tokens or smaller models, {BY_HEART:g} tokens per parameter at least.")  # fmt: skip


def _compute(frame: pd.DataFrame) -> Iterator[str]:
    low, high = frame["C"].min(), frame["C"].max()
    if high / low < LEAST_SPAN:
        yield warn("W-BUDGETS", f"compute spans a factor {high / low:.2g} only ({format_flops(low)} to {format_flops(high)} FLOPs); an exponent needs a decade, better two.")  # fmt: skip


def _budgets(runs: Runs, truth: Truth, cost: Cost) -> Iterator[str]:
    """Too few budgets, budgets too close, too few sizes, and windows that miss the optimum."""
    points = group_budgets(runs)
    groups = [g for _, g in points.groupby("budget")]
    C = np.array([float(np.exp(np.log(g["C"]).mean())) for g in groups])
    if len(C) < LEAST_BUDGETS:
        yield warn("W-BUDGETS", f"{len(C)} budget{'s' * (len(C) > 1)}: a power law through their optima needs {LEAST_BUDGETS}, or nothing tells the line from the noise. Add some in design.isoflop.budgets.")  # fmt: skip
    if len(C) > 1 and C.max() / C.min() < LEAST_SPAN / (1 + SAME_BUDGET):
        yield warn("W-BUDGETS", f"budgets span a factor {C.max() / C.min():.2g} only ({format_flops(C.min())} to {format_flops(C.max())} FLOPs); their optima move by less than they are known. Span a decade, better two.")  # fmt: skip
    few = [c for c, g in zip(C, groups, strict=True) if g["N"].round(-1).nunique() < LEAST_SIZES]
    if few:
        yield warn("W-DESIGN", f"{_names(few)} FLOPs: fewer than {LEAST_SIZES} sizes, which show no minimum; 4 are needed, 6 are good (design.isoflop.sizes).")  # fmt: skip
    yield from _windows(C, groups, truth, cost)


def _windows(
    C: np.ndarray, groups: Sequence[pd.DataFrame], truth: Truth, cost: Cost
) -> Iterator[str]:
    best = np.asarray(best_allocation(truth.surface.law, truth.surface.point, C, cost)[0], float)
    low, high = (np.array([g["N"].agg(how) for g in groups]) for how in ("min", "max"))
    for missed, side, cure in (
        (best <= low, "below its smallest", "more tokens per parameter"),
        (best >= high, "above its largest", "fewer tokens per parameter"),
    ):
        several = missed & (high > low)
        if several.any():
            i = int(np.flatnonzero(several)[0])
            sizes = f"{format_quantity(low[i])} to {format_quantity(high[i])}"
            yield warn("W-EDGE", f"{_names(C[several])} FLOPs: the optimum is expected {side} size (N* = {format_quantity(best[i])}, sizes {sizes}). Widen design.isoflop.window, or centre it on {cure}.")  # fmt: skip


def judge_settings(N: np.ndarray, asked: pd.DataFrame | None) -> list[str]:
    """Return settings whose every value belongs to sizes of its own, so that their effects are one.

    Args:
        N: sizes, a run each; asked: settings that were asked for, a column each.
    """
    found: list[str] = []
    if asked is None:
        return found
    for name in asked.columns:
        values = asked[name].map(str).to_numpy()
        different = len(set(values))
        by_size = {size: set(values[lot]) for size, lot in _sizes(N)}
        if different < 2 or len(by_size) < 2 or any(len(v) > 1 for v in by_size.values()):
            continue
        sizes = ", ".join(f"{format_quantity(n)}: {next(iter(by_size[n]))}" for n in list(by_size)[:SHOWN])  # fmt: skip
        cure = (
            "Leave it to its rule" if name.startswith("optim.") else "Give all sizes the same value"
        )
        found.append(
            warn("W-DESIGN", f"{name} changes with the size and with nothing else ({sizes}{', ...' * (len(by_size) > SHOWN)}): what is due to which cannot be told. {cure}, or run each size with each value.")
        )  # fmt: skip
    return found


def _sizes(N: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Return each size with its runs, bool [runs]; what was asked for as one size comes out a little apart by kind."""
    known = np.unique(N)
    lots = np.split(known, np.flatnonzero(np.diff(np.log(known)) > SAME_SIZE) + 1)
    return [(float(lot[0]), (lot[0] <= N) & (lot[-1] >= N)) for lot in lots]


def noise_width(freedom: int, *, level: float = 0.9) -> float:
    """Return the factor within which so many degrees of freedom tell an SD, by chi squared."""
    low, high = (
        (freedom / stats.chi2.ppf(q, freedom)) ** 0.5 for q in ((1 + level) / 2, (1 - level) / 2)
    )
    return float(max(high, 1 / low))


def _names(budgets: Sequence[float] | np.ndarray) -> str:
    shown = ", ".join(format_flops(c) for c in list(budgets)[:SHOWN])
    return shown + (f" and {len(budgets) - SHOWN} more" if len(budgets) > SHOWN else "")
