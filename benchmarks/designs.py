"""Whether the widths that `scaling plan` foretells are those of full fits of fresh studies.

    python -m benchmarks.designs            # 100 fresh studies of each design; about 3 min
    python -m benchmarks.designs 30

Each design of `sweeps/` is simulated as `scaling plan` does. Then fresh studies get other noise and are
fitted as users fit: `sl.fit` from all its starts, `sl.fit_isoflops` where budgets repeat. Covered is the
share of fresh studies that came as near to the truth as foretold for 90 %.
"""

from __future__ import annotations

import dataclasses
import sys
import time

import numpy as np

import scaling as sl
from scaling.analysis.designs.simulation import DesignStudy, simulate_design
from scaling.cli.compose import compose_sweep
from scaling.study.errors import FitError
from scaling.study.plan import make_plan
from scaling.study.table import Table

DESIGNS = ("isoflop", "n_by_d", "ladder", "over_training", "quickstart")


def main(count: int = 100) -> None:
    """Print the table."""
    rows = []
    for name in DESIGNS:
        plans = [make_plan(p.config) for p in compose_sweep([f"sweeps={name}"]).points]
        points = {"N": [p.params for p in plans], "D": [p.tokens for p in plans], "C": [p.flops_counted for p in plans]}  # fmt: skip
        began = time.process_time()
        study = simulate_design(points)
        seconds = time.process_time() - began
        rows += compare(name, study, count, seconds)
    header = [
        "design",
        "fitted by",
        "a ± foretold",
        "covered",
        "N* factor foretold",
        "covered",
        "CPU s",
    ]
    print(Table(header, rows, title=f"Foretold widths against {count} fresh full fits").text())


def compare(name: str, study: DesignStudy, count: int, seconds: float) -> list[list[str]]:
    """Return a row per way of fitting: what was foretold, and the share of fresh studies within."""
    rng = np.random.default_rng(2026)
    near: dict[int, list[tuple[bool, bool]]] = {i: [] for i in range(len(study.estimates))}
    for _ in range(count):
        loss = study.runs.L * np.exp(study.sd * rng.standard_normal(len(study.sd)))
        runs = dataclasses.replace(study.runs, table=study.runs.table.assign(val_loss=loss))
        fit = sl.fit(runs, intervals="none")
        with np.errstate(all="ignore"):
            near[0].append(_near(study, 0, fit.get("a"), float(fit.optimal(study.target).N[0])))
        if len(near) > 1:
            try:
                iso = sl.fit_isoflops(runs)
                found = float(iso.a or np.nan), float(iso.optimal(study.target).N[0])
            except FitError:
                found = np.nan, np.nan
            near[1].append(_near(study, 1, *found))
    rows = []
    for i, estimate in enumerate(study.estimates):
        a, N = np.mean(near[i], axis=0)
        rows.append([
            name, "law" if i == 0 else "minima", f"{estimate.within('a'):.2f}", f"{a:.0%}",
            f"{estimate.within('N'):.2g}", f"{N:.0%}", f"{seconds:.1f}" if i == 0 else "",
        ])  # fmt: skip
    return rows


def _near(study: DesignStudy, which: int, a: float, N: float) -> tuple[bool, bool]:
    estimate = study.estimates[which]
    with np.errstate(all="ignore"):
        away = abs(np.log(N / estimate.truth["N"]))
    return abs(a - estimate.truth["a"]) <= estimate.within("a"), away <= np.log(
        estimate.within("N")
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
