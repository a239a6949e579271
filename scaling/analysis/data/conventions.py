"""Which N, C and loss are meant: the columns each convention reads."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scaling.analysis.data.tables import number
from scaling.study.errors import FitError, ScalingError, did_you_mean
from scaling.study.units import parse_quantity

# Columns each convention needs. `given` is a table from elsewhere, whose convention we cannot know.
PARAMS = {
    "non_embedding": ("params_non_embedding",),
    "total": ("params_total",),
    "body_head": ("params_non_embedding", "vocab", "width"),  # head counted even if tied
    "given": ("params",),
}
FLOPS = {"6nd": (), "counted": ("flops_counted",), "given": ("flops",)}


def count_params(frame: pd.DataFrame, params: str) -> pd.Series:
    """Return N in a convention; NaN where it is not known."""
    columns = [number(frame, c) for c in PARAMS[params]]
    return columns[0] + columns[1] * columns[2] if params == "body_head" else columns[0]


def phrase(params: str, flops: str, loss: str) -> str:
    """Return one line that belongs beside every number: which N, which C, which loss."""
    C = {"6nd": "6ND", "counted": "counted matrix products", "given": "as given"}[flops]
    N = {"given": "parameters as given", "body_head": "body and head parameters"}.get(
        params, f"{params.replace('_', '-')} parameters"
    )
    return f"N: {N}; C: {C}; loss: {loss} [{loss_unit(loss)}]"


# names, or their ends, of measures that are a share or a mean of shares
SHARES = (
    "accuracy", "accuracy_norm", "masked_accuracy", "next_sentence_accuracy", "macro_f1", "rouge_1", "rouge_2", "rouge_l", "exact_match",
    "induction_score",  # of attention
)  # fmt: skip


SCORES = ("bleu", "chrf")  # of 100
ERROR = "_error_"  # between a measure and a group: how far the group is from the best there is


def best_of(measure: str) -> float | None:
    """Return the most that a measure can reach, where more of it is better; null of losses and the unknown."""
    return 100.0 if measure in SCORES else 1.0 if measure.endswith(SHARES) else None


def loss_unit(loss: str) -> str:
    """Return the unit of a loss column: bits/byte, bits/character, nats/token, or a measure's own."""
    measure, split, _ = loss.partition(ERROR)
    # of a group NAME the column is MEASURE_NAME, and its error MEASURE_error_NAME
    first = next((m for m in (*SCORES, *SHARES) if measure == m or measure.startswith(f"{m}_")), "")
    best = best_of(measure) or best_of(first)
    if best is not None:
        return f"{best:g} - {measure}" if split else f"of {best:g}"
    if loss.startswith("val_bpc_"):
        return "bits/character"
    return "bits/byte" if is_per_byte(loss) else "nats/token"


def is_per_byte(loss: str) -> bool:
    """Return whether a loss column is in bits per byte, which compares across tokenizers."""
    return loss.endswith("per_byte") or loss.startswith("val_bpb_")


def is_set(loss: str) -> bool:
    """Return whether a loss column is that of one of the further validation sets."""
    kinds = ("val_loss_", "val_bpb_", "val_bpc_", "val_excess_")
    return loss.startswith(kinds) and loss not in ("val_loss_se", "val_excess_se")


def check_conventions(table: pd.DataFrame, *, params: str, flops: str, loss: str) -> None:
    """Refuse a convention that is unknown, or whose columns the table lacks.

    Raises:
        FitError: with the columns there are.
    """
    for name, value, known in (("params", params, PARAMS), ("flops", flops, FLOPS)):
        if value not in known:
            raise FitError(
                f"{name}: {value!r} is none of {', '.join(known)}.{did_you_mean(value, known)}"
            )
    for name, column in [("loss", loss), *(("params", c) for c in PARAMS[params]),
                         *(("flops", c) for c in FLOPS[flops]), ("tokens", "tokens")]:  # fmt: skip
        if name == "loss" and not (table["status"] == "done").any():
            continue  # nothing has a loss yet; `Runs.fit_rows` says so
        if column not in table or table[column].isna().all():
            have = list(map(str, table.columns[table.notna().any()]))
            sets = [c for c in have if is_set(c)]
            if name == "loss" and is_set(column) and sets:
                have = ["val_loss", *sets]
            raise FitError(
                f"{name}: the runs have no values in column {column!r}.{did_you_mean(column, have)} "
                f"Choose another convention with runs.using({name}=...), or add the column. There are: "
                f"{', '.join(have[:30])}."
            )


def default_conventions(table: pd.DataFrame) -> tuple[str, str]:
    """Return which N and C a freshly loaded table is read with.

    Raises:
        FitError: own runs and rows whose N is of an unknown convention are mixed.
    """
    own, given = (
        table[c].notna() if c in table else pd.Series(False, index=table.index)
        for c in ("params_non_embedding", "params")
    )
    if own.any() and (given & ~own).any():
        raise FitError(
            "load: own runs (params_non_embedding) and a table with an unknown N are mixed. Load them "
            "apart, or name the table's convention, e.g. columns={'N': 'params_non_embedding'}."
        )
    if own.any():
        return "non_embedding", "6nd"
    return ("given", "given") if given.any() else ("total", "6nd")


MIXED = ("data", "code")  # what runs of one fit may differ in only if it is said


def read_mixed(text: str) -> tuple[str, ...]:
    """Return what may be mixed in one fit: data, code, all or none; several with commas.

    Raises:
        FitError: another word.
    """
    asked = [part.strip() for part in text.split(",")]
    for part in asked:
        if part not in (*MIXED, "all", "none"):
            raise FitError(
                f"mixed: {part!r} is none of {', '.join(MIXED)}, all, none.{did_you_mean(part, MIXED)}"
            )
    return MIXED if "all" in asked else tuple(kind for kind in MIXED if kind in asked)


def has_value(rows: pd.DataFrame, column: str, value: object) -> np.ndarray:
    """Return which rows have a value in a column; a number may be written in any way.

    Raises:
        FitError: no such column, or no row has the value.
    """
    if column not in rows:
        raise FitError(f"where.{column}: the runs have no such column.{did_you_mean(column, map(str, rows.columns))}")  # fmt: skip
    found = (rows[column].astype(str) == str(value)).to_numpy()
    if not found.any() and (wanted := _number(value)) is not None:
        found = (number(rows, column) == wanted).to_numpy()
    if not found.any():
        have = ", ".join(map(str, rows[column].astype(str).unique()[:6]))
        raise FitError(f"where.{column}: no run has {str(value)!r}; there are {have}.")
    return found


def _number(value: object) -> float | None:
    try:
        return parse_quantity(value)
    except ScalingError:
        return None
