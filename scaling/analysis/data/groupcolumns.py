"""The columns that groups have: one loss per group and run, and what its documents leave uncertain."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from scaling.analysis.data.conventions import ERROR, best_of, loss_unit
from scaling.analysis.data.runs import Runs
from scaling.analysis.data.tables import number
from scaling.study.errors import FitError, did_you_mean

KINDS = {"bpb": "val_bpb", "bpc": "val_bpc", "loss": "val_loss", "excess": "val_excess"}


DEFAULTS = ("bpb", "accuracy", "bleu", "masked_accuracy", "loss")


def find_measure(runs: Runs) -> str:
    """Return what groups are compared by unless asked: the first of DEFAULTS that two groups have, else bpb."""
    for measure in DEFAULTS:
        if len(_groups_of(runs, KINDS.get(measure, measure))) > 1:
            return measure
    return DEFAULTS[0]


def find_groups(runs: Runs, column: str, asked: Sequence[str] | None) -> list[str]:
    """Return the groups that are compared.

    Raises:
        FitError: fewer than two, or one without a column.
    """
    table, there = runs.table, _groups_of(runs, column)
    if asked:
        for group in asked:
            if group not in there:
                raise FitError(
                    f"groups: the runs have no column {column}_{group}.{did_you_mean(group, there)} There are: {', '.join(there) or 'none'}."
                )
    named = list(asked or [g for g in there if f"val_share_{g}" in table] or there)
    if len(named) < 2:
        raise FitError(
            f"gaps: needs two groups or more with columns {column}_GROUP; there is {', '.join(named) or 'none'}. Train with "
            "data.group_key=COLUMN, data.source=bilingual, or data.validation.NAME=PATH for each group; scored runs "
            "take sets by `scaling evaluate`."
        )
    return named


def _groups_of(runs: Runs, column: str) -> list[str]:
    """Return the names behind a column's that have values."""
    table = runs.table
    there = [
        str(c)[len(column) + 1 :]
        for c in table.columns
        if str(c).startswith(f"{column}_") and table[c].notna().any()
    ]
    return [g for g in there if g != "se" and not g.startswith("se_") and not (g.endswith("_se") and g[:-3] in there)]  # fmt: skip


def with_errors(runs: Runs, measure: str, groups: Sequence[str]) -> tuple[Runs, str, int]:
    """Turn a measure of which more is better into what is lacking to the best, so that it falls as losses do.

    Returns:
        The runs; the beginning of the columns to fit, MEASURE_error for 1 - MEASURE; and how many values were
        0, no error at all: for a law of powers they become half of the smallest error there is.

    Raises:
        FitError: a group makes no error in any run.
    """
    column, best = KINDS.get(measure, measure), best_of(measure)
    if best is None:
        return runs, column, 0
    errors = best - runs.table[[f"{column}_{g}" for g in groups]].astype(float)
    none = errors <= 0
    for group, perfect in zip(groups, none.all(), strict=True):
        if perfect:
            raise FitError(
                f"{column}_{group}: is {best:g}, the most there can be, in all {len(errors)} runs, so that no law of it can be fitted. "
                "Leave the group out, groups=..., or judge the runs by harder examples."
            )
    errors = errors.mask(none, 0.5 * float(errors[~none].min().min()))
    errors.columns = pd.Index([f"{column}{ERROR}{g}" for g in groups])
    table = pd.concat([runs.table.drop(columns=errors.columns, errors="ignore"), errors], axis=1)
    return (
        dataclasses.replace(runs, table=table),
        f"{column}{ERROR}".removesuffix("_"),
        int(none.sum().sum()),
    )


def with_all(runs: Runs, columns: Sequence[str]) -> tuple[Runs, int]:
    """Keep the runs that have a value for every group; returns them and how many were left out."""
    known = runs.fit_rows[list(columns)].notna().all(axis=1).to_numpy()
    if known.all():
        return runs, 0
    return runs.where(known), int((~known).sum())


def document_error(runs: Runs, measure: str, column: str, group: str) -> float:
    """Return the standard error from the choice of held-out documents, at the largest run; 0 if not known."""
    rows = runs.fit_rows
    top = rows.iloc[[int(np.argmax(rows["C"].to_numpy(float)))]]
    if measure == "excess":
        error = number(top, f"val_excess_se_{group}") if f"val_excess_se_{group}" in top else None
    elif measure in KINDS:
        known = f"val_se_{group}" in top and f"val_loss_{group}" in top
        scale = number(top, f"{column}_{group}") / number(top, f"val_loss_{group}") if known else 0
        error = number(top, f"val_se_{group}") * scale if known else None
    else:
        error = number(top, f"{column}_{group}_se") if f"{column}_{group}_se" in top else None
    value = float("nan") if error is None else float(error.iloc[0])
    return value if np.isfinite(value) else 0.0


def measure_unit(measure: str, column: str) -> str:
    """Return the unit of what is compared."""
    known = measure in KINDS or best_of(measure) is not None
    return loss_unit(f"{column}_") if known else measure


def column_mean(runs: Runs, column: str) -> float | None:
    if column not in runs.fit_rows:
        return None
    value = float(number(runs.fit_rows, column).mean())
    return value if np.isfinite(value) else None
