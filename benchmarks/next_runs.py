"""Compute that chosen runs save: python -m benchmarks.next_runs [FOLDER of the public tables] [trials=12].

From one first sweep, rounds of further runs are added in three ways that may spend alike: chosen by
`next_sweep`, as the next curve of a geometric IsoFLOP grid, and at random. Truths inside and outside
the fitted law; and the public tables, where the runs to choose from are those that exist. Says the
compute at which each way reaches the interval, and the error, that the grid ends with. Writes
docs/images/next_runs.png. About three minutes of one core; without the tables only the simulation runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scaling.analysis.allocation.aim import Aim
from scaling.analysis.allocation.choice import choose_runs, expected_narrowing
from scaling.analysis.allocation.rivals import standing
from scaling.analysis.data.runs import Runs, load
from scaling.analysis.data.simulation import isoflop_grid, make_runs, simulate
from scaling.analysis.fits.fitting import Fit, fit
from scaling.analysis.laws import CHINCHILLA
from scaling.study.errors import FitError
from scaling.study.table import Table

FOLDER = os.environ.get("SCALING_PUBLISHED", "../shared/data/published")
WAYS = ("chosen", "grid", "random")
ROUNDS, SIZES, FIRST = 3, 7, 3  # after a first sweep of 3 budgets with 7 sizes each
STEP = np.sqrt(10.0)  # between the budgets of the grid
SMALLEST = 1e18
TARGET = 1e22  # ten times the largest budget that any way may train
EPOCH = dict(CHINCHILLA.published_set("epoch").params)
EARLY = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}  # Hoffmann et al. 2022
SHARP = {"E": 1.8, "A": 3e4, "B": 2e5, "alpha": 0.55, "beta": 0.6, "k": 0.6}
Surface = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Case:
    """A truth, how noisy it is, which law is fitted to it, and what is to be known."""

    name: str
    law_of_truth: str
    params: dict[str, float]
    law: str
    noise: float
    decide: str = "size"

    def loss(self, N: np.ndarray, D: np.ndarray) -> np.ndarray:
        return simulate(self.law_of_truth, self.params, N, D).L

    def truth(self) -> float:
        """ln N* or ln L at the target, by search."""
        N = np.geomspace(1e7, 1e12, 20001)
        L = self.loss(N, TARGET / (6 * N))
        return float(np.log(N[L.argmin()] if self.decide == "size" else L.min()))


CASES = (
    Case("Besiroglu's, noise 0.5 %", "chinchilla", EPOCH, "chinchilla", 0.005),
    Case("Hoffmann's, noise 0.5 %", "chinchilla", EARLY, "chinchilla", 0.005),
    Case("Besiroglu's, noise 0.2 %", "chinchilla", EPOCH, "chinchilla", 0.002),
    Case("Besiroglu's, noise 0.5 %", "chinchilla", EPOCH, "chinchilla", 0.005, "loss"),
    Case("k = 0.6, k fitted", "chinchilla_k", SHARP, "chinchilla_k", 0.005),
    Case("k = 0.6, law without k", "chinchilla_k", SHARP, "chinchilla", 0.005),
)


@dataclass(frozen=True)
class Step:
    """What a way knows after a round: compute so far, half-widths in logs, error, and hits."""

    C: float
    width: float
    wide: float  # over laws that the runs do not tell apart
    error: float
    hit: bool
    wide_hit: bool


Found = Sequence[tuple[Case, Sequence[dict[str, list[Step]]]]]


def main(arguments: Sequence[str]) -> None:
    """Print the tables and draw the figure."""
    given = dict(a.split("=", 1) for a in arguments if "=" in a)
    folder = Path(next((a for a in arguments if "=" not in a), FOLDER))
    trials = int(given.get("trials", 12))
    promised: list[tuple[float, float]] = []
    found = [(case, [trial(case, seed, promised) for seed in range(trials)]) for case in CASES]
    print(savings(found).markdown(), end="\n\n")
    print(honesty(found).markdown(), end="\n\n")
    print(kept(promised).markdown(), end="\n\n")
    if folder.is_dir():
        print(on_tables(folder, trials=max(trials // 3, 4)).markdown(), end="\n\n")
    print(draw(found))


# --- simulated truths ---------------------------------------------------------------------------------


def trial(case: Case, seed: int, promised: list[tuple[float, float]]) -> dict[str, list[Step]]:
    """Return the steps of each way from one first sweep."""
    budgets = SMALLEST * STEP ** np.arange(FIRST + ROUNDS)
    N, D = isoflop_grid(budgets[:FIRST], points=SIZES)
    first = make_runs(N, D, case.loss(N, D), noise=case.noise, seed=seed)
    truth, aim = case.truth(), Aim(TARGET, case.decide)
    steps: dict[str, list[Step]] = {}
    for way in WAYS:
        runs, rng, steps[way] = first, np.random.default_rng(seed), []
        fitted, now = _look(runs, case.law, aim, truth)
        steps[way].append(now)
        for number in range(ROUNDS):
            C = budgets[FIRST + number]
            n, d = _add(way, fitted, aim, C, SIZES * C, rng)
            promise = expected_narrowing(fitted, aim, n, d)
            more = make_runs(n, d, case.loss(n, d), noise=case.noise, seed=100 * seed + number + 7)
            runs, before = _joined(runs, more), now
            fitted, now = _look(runs, case.law, aim, truth)
            steps[way].append(now)
            if way == "chosen":
                promised.append((promise, now.width / before.width))
    return steps


def _look(runs: Runs, law: str, aim: Aim, truth: float) -> tuple[Fit, Step]:
    fitted = fit(runs, law, intervals="delta", starts=2, priors=law.endswith("k"))
    s = standing(fitted, aim)
    with np.errstate(all="ignore"):
        lo, hi, low, high = np.log([s.lo, s.hi, s.low, s.high])
        error = float(np.log(s.value) - truth)
    return fitted, Step(
        float(runs.C.sum()), (hi - lo) / 2, (high - low) / 2, error, bool(lo <= truth <= hi), bool(low <= truth <= high)
    )  # fmt: skip


def _add(
    way: str, fitted: Fit, aim: Aim, C: float, allowance: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return N and D of one round's runs, which together cost at most the allowance."""
    if way == "chosen":
        try:
            chosen = choose_runs(fitted, aim, allowance=allowance)
            return chosen.N, chosen.D
        except FitError:  # no optimum at the target: the grid's curve
            pass
    if way != "random":
        return isoflop_grid(C, points=SIZES)
    left, picked = allowance, []
    while len(picked) < 12 and left > SMALLEST:
        c = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(min(allowance / 6, left)))))
        ratio = float(np.exp(rng.uniform(np.log(1.25), np.log(320.0))))  # as the grid's sizes reach
        picked.append((np.sqrt(c / 6 / ratio), np.sqrt(c / 6 * ratio)))
        left -= c
    N, D = np.array(picked).T
    return N, D


def _joined(runs: Runs, more: Runs) -> Runs:
    table = pd.concat([runs.table, more.table], ignore_index=True)
    return Runs(table.assign(run_id=[f"run-{i}" for i in range(len(table))]))


# --- public tables: the runs to choose from are those that exist ----------------------------------------


def tables(folder: Path) -> Iterator[tuple[str, Runs]]:
    """Yield name and runs."""
    read = lambda name: pd.read_csv(folder / name)  # noqa: E731
    epoch = read("epoch_chinchilla.csv")
    yield "Epoch 240", load(epoch[epoch["outlier5"] == 0])
    yield "kyo-takano", load(read("kyo_takano_llm.csv"))
    llama = read("llama3_isoflop.csv")
    yield "Llama 3", load(llama[llama["group"] == "llama_3__exp_loss"])


def on_tables(folder: Path, *, trials: int) -> Table:
    """Share of a table's compute after which each way is as sure, and as right, as the grid at its end."""
    rows = []
    for name, every in tables(folder):
        aim = Aim(10 * float(every.C.max()))
        truth = float(np.log(aim.interval(fit(every, intervals="none", starts=2))[0]))
        runs = [pooled(every, aim, truth, seed) for seed in range(trials)]
        rows.append([name, str(len(every)), *_compared(runs)])
    header = ["table", "runs", "grid ends with", *COMPARED]
    return Table(header, rows, title="N* at ten times the largest compute of a table; truth is the fit to all of it")  # fmt: skip


def pooled(every: Runs, aim: Aim, truth: float, seed: int) -> dict[str, list[Step]]:
    """Return the steps of each way; the first runs are those nearest a grid of the three lowest budgets."""
    low = float(np.quantile(every.C, 0.05))
    count = int(np.log(float(every.C.max()) / low) / np.log(STEP)) + 1
    budgets = low * STEP ** np.arange(count)
    rng = np.random.default_rng(seed)
    start = _nearest(every, budgets[:FIRST], np.zeros(len(every), bool), rng)
    steps: dict[str, list[Step]] = {}
    for way in WAYS:
        used = start.copy()
        fitted, now = _look(every.where(used), "chinchilla", aim, truth)
        steps[way], grid = [now], start.copy()
        for C in budgets[FIRST:]:
            curve = _nearest(every, [C], grid, np.random.default_rng(seed))
            grid |= curve
            used = used | (curve if way == "grid" else _pick(way, every, used, fitted, aim, float(every.C[curve].sum()), rng))  # fmt: skip
            fitted, now = _look(every.where(used), "chinchilla", aim, truth)
            steps[way].append(now)
    return steps


def _nearest(every: Runs, budgets: Sequence[float] | np.ndarray, used: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # fmt: skip
    """Return a mask of the unused runs nearest to a grid, whose centre is moved a little by chance."""
    taken = used.copy()
    N, D = isoflop_grid(budgets, points=SIZES)
    N = N * np.exp(rng.uniform(-0.3, 0.3))
    for n, d in zip(N, D, strict=True):
        away = np.log(every.N / n) ** 2 + np.log(every.C / (6 * n * d)) ** 2 + 1e9 * taken
        taken[int(away.argmin())] = True
    return taken & ~used


def _pick(way: str, every: Runs, used: np.ndarray, fitted: Fit, aim: Aim, allowance: float, rng: np.random.Generator) -> np.ndarray:  # fmt: skip
    """Return a mask of unused runs that cost at most the allowance, chosen or at random."""
    left = np.flatnonzero(~used & (allowance >= 2 * every.C))
    mask = np.zeros(len(every), bool)
    if not len(left):
        return mask
    if way == "chosen":
        pool = (every.N[left], every.D[left])
        try:
            mask[left[list(choose_runs(fitted, aim, allowance=allowance, pool=pool).index)]] = True
            return mask
        except FitError:
            pass
    for i in rng.permutation(left):
        if mask.sum() < 12 and every.C[mask].sum() + every.C[i] <= allowance:
            mask[i] = True
    return mask


# --- what came out ----------------------------------------------------------------------------------

COMPARED = (
    "chosen needs [of grid's compute]", "random needs", "error: grid", "chosen at half the compute", "chosen", "random",
)  # fmt: skip


def _curve(runs: Sequence[dict[str, list[Step]]], way: str, name: str) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return median compute and median (for errors root mean square, robust) of a quantity by round."""
    C = np.median([[s.C for s in r[way]] for r in runs], axis=0)
    values = np.array([[getattr(s, name) for s in r[way]] for r in runs], float)
    if name == "error":
        return C, 1.4826 * np.median(np.abs(values), axis=0)
    return C, np.median(values, axis=0)


def _needed(C: np.ndarray, value: np.ndarray, goal: float) -> float:
    """Return the compute at which a falling curve first reaches a goal, straight in log-log; inf if never."""
    for i in range(1, len(C)):
        if value[i] <= goal:
            share = np.log(value[i - 1] / goal) / np.log(value[i - 1] / value[i])
            return float(np.exp(np.log(C[i - 1]) + max(share, 0.0) * np.log(C[i] / C[i - 1])))
    return float("inf")


def _compared(runs: Sequence[dict[str, list[Step]]], width: str = "width") -> list[str]:
    """Cells: half-width of the grid's end, compute of the others for it, and errors."""
    C, grid = _curve(runs, "grid", width)
    needs = [_needed(*_curve(runs, way, width), grid[-1]) / C[-1] for way in ("chosen", "random")]
    at, error = _curve(runs, "chosen", "error")
    half = float(np.exp(np.interp(np.log(C[-1] / 2), np.log(at), np.log(error))))
    ends = [_curve(runs, way, "error")[1][-1] for way in ("grid", "chosen", "random")]
    said = [f"{x:.2f}" if np.isfinite(x) else "not reached" for x in needs]
    return [f"{grid[-1]:.3g}", *said, f"{ends[0]:.3g}", f"{half:.3g}", f"{ends[1]:.3g}", f"{ends[2]:.3g}"]  # fmt: skip


def savings(found: Found) -> Table:
    """Compute that reaches the grid's last interval, over the compute of the grid, first sweep included."""
    rows = []
    for case, runs in found:
        for width, over in (("width", "fitted law"), ("wide", "laws not told apart")):
            rows.append([case.name, case.decide, over, *_compared(runs, width)])
    header = ["truth", "decided", "interval of", "grid ends with", *COMPARED]
    return Table(header, rows, title=f"{len(found[0][1])} studies each; half-widths and errors in logs")  # fmt: skip


def honesty(found: Found) -> Table:
    """Share of 90 % intervals that hold the truth, all rounds after the first together."""
    rows = []
    for case, runs in found:
        cells = []
        for name in ("hit", "wide_hit"):
            for way in WAYS:
                hits = [getattr(s, name) for r in runs for s in r[way][1:]]
                cells.append(f"{100 * np.mean(hits):.0f}")
        rows.append([case.name, case.decide, *cells])
    header = ["truth", "decided", *(f"{way}, {over}" for over in ("fitted law", "laws not told apart") for way in WAYS)]  # fmt: skip
    return Table(header, rows, title="Truth inside the 90 % interval [%]")


def kept(promised: Sequence[tuple[float, float]]) -> Table:
    """Promised narrowing against what came."""
    promise, came = np.array(promised).T
    ok = np.isfinite(promise) & np.isfinite(came) & (came > 0)
    off = came[ok] / promise[ok]
    low, middle, high = np.quantile(off, [0.1, 0.5, 0.9])
    row = [str(int(ok.sum())), f"{np.median(promise[ok]):.2f}", f"{np.median(came[ok]):.2f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]  # fmt: skip
    header = ["rounds", "promised, median", "came, median", "came / promised", "80 % of them"]
    return Table(header, [row], title="Width of the interval after a round over the width before it")  # fmt: skip


def draw(found: Found) -> Path:
    """Draw half-width and error against compute for a truth inside the law and one outside."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from scaling.present import style

    path = Path(__file__).parent.parent / "docs" / "images" / "next_runs.png"
    drawn = [found[i] for i in (0, 3, 5)]
    with plt.rc_context(style.RC):
        fig, axes = plt.subplots(2, 3, figsize=(10.5, 6.2), layout="constrained", sharex=True)
        for column, (case, runs) in zip(axes.T, drawn, strict=True):
            for ax, name in zip(column, ("wide", "error"), strict=True):
                for number, way in enumerate(WAYS):
                    color, marker = style.mark_of(number)
                    ax.plot(*_curve(runs, way, name), marker=marker, color=color, label=way)
                ax.set_xscale("log")
                ax.set_yscale("log")
                ax.spines[["top", "right"]].set_visible(False)
            what = {"size": "best size", "loss": "lowest loss"}[case.decide]
            column[0].set_title(f"{what}; truth: {case.name}", fontsize=9)
            column[1].set_xlabel("compute of all runs [FLOPs]")
        axes[0, 0].set_ylabel("half-width of the interval [ln]")
        axes[1, 0].set_ylabel("error [ln]")
        axes[0, 0].legend(title="further runs")
        fig.savefig(path)
        plt.close(fig)
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
