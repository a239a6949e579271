"""Which N, C and loss are meant: the columns each convention reads."""

from __future__ import annotations

import pandas as pd

from scaling.analysis.data.tables import number
from scaling.study.errors import FitError, did_you_mean

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
    unit = "bits/byte" if is_per_byte(loss) else "nats/token"
    return f"N: {N}; C: {C}; loss: {loss} [{unit}]"


def is_per_byte(loss: str) -> bool:
    """Return whether a loss column is in bits per byte, which compares across tokenizers."""
    return loss.endswith("per_byte") or loss.startswith("val_bpb_")


def is_set(loss: str) -> bool:
    """Return whether a loss column is that of one of the further validation sets."""
    return loss.startswith(("val_loss_", "val_bpb_")) and loss != "val_loss_se"


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
