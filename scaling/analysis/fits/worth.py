"""What pre-training is worth, run by run: the tokens from scratch that lead to the same loss."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scaling.analysis.data.runs import Runs
from scaling.study.errors import FitError

COLUMN = "pretrained"
WITHIN, LITTLE, MUCH = "within", "below", "beyond"


def transferred(runs: Runs) -> pd.DataFrame:
    """Return the effective data transferred D_T of every run that started from trained weights.

    A run of N parameters that reaches its loss with D tokens after pre-training would need D + D_T tokens
    from scratch. That number is read off the runs from scratch of the same N, log D against loss,
    straight from run to run; no law is involved.

    Args:
        runs: from scratch and from trained weights, told apart by the column `pretrained`; from scratch
            at least two budgets of each size.

    Returns:
        One row per pre-trained run: run_id, N, D [tokens], loss, D_T [tokens] and `reach`: within; or
        `beyond` or `below` all runs from scratch of that size, where D_T is null.

    Raises:
        FitError: no run of one kind, or a size with less than two runs from scratch.

    Source: Hernandez et al. 2021, arXiv:2102.01293, section 1.
    """
    rows = runs.fit_rows
    if COLUMN not in rows or rows[COLUMN].nunique() < 2:
        raise FitError(
            f"{COLUMN}: transfer is told from runs of both kinds, {COLUMN} 0 and 1; there is one. "
            "Train the other: model.init_from=null, or a run's folder."
        )
    found = []
    for N, group in rows.groupby("N"):
        tuned, scratch = (group[group[COLUMN] == kind].sort_values("D") for kind in (1, 0))
        if len(tuned) and scratch["D"].nunique() < 2:
            raise FitError(
                f"N = {N:,.0f}: {scratch['D'].nunique()} budgets from scratch beside {len(tuned)} runs from trained weights. "
                "Train two or more of that size with model.init_from=null."
            )
        found += [_row(run, scratch) for run in tuned.itertuples()]
    return pd.DataFrame(found)


def _row(run, scratch: pd.DataFrame) -> dict:
    # seeds of a budget are taken together; a curve that rises for a moment is held level
    mean = scratch.groupby("D")["L"].mean()
    loss, log_D = np.minimum.accumulate(mean.to_numpy()), np.log(mean.index.to_numpy(float))
    reach = MUCH if loss[-1] > run.L else LITTLE if loss[0] < run.L else WITHIN
    equal = float(np.exp(np.interp(-run.L, -loss, log_D))) if reach == WITHIN else np.nan
    return {
        "run_id": run.run_id, "N": float(run.N), "D": float(run.D), "loss": float(run.L),
        "D_T": equal - float(run.D), "reach": reach,
    }  # fmt: skip
