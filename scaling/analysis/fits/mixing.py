"""Runs that do not belong in one fit: of different text, or of code that computes other numbers.

Silent where the columns are absent: other people's tables are not refused for what they do not say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from scaling.analysis.data.conventions import is_per_byte, is_set
from scaling.analysis.traps import warn
from scaling.study.errors import FitError
from scaling.study.record import record_fields

if TYPE_CHECKING:
    from scaling.analysis.data.runs import Runs
    from scaling.analysis.law import Law

SHOWN = 4  # values that a message lists
# columns of our records that tell texts apart; a law that reads another of our columns (a rate, a
# batch) says nothing of the text, one that reads a column of a table's own may (a share of a mixture)
_TEXT = ("vocab", "tokenizer", "data_source", "unique_tokens", "entropy_rate")
_OURS = {name for name, _, _ in record_fields()} - {*_TEXT} | {"N", "D", "C", "L", "M"}


def check_mixed(runs: Runs, law: Law | None = None) -> None:
    """Refuse runs of different text or code, unless `runs.using(mixed=...)` allows it.

    A law that reads what tells the texts apart (vocabulary, a share of a mixture) has runs of one text
    for each value of what it reads. Losses per byte compare across tokenizers.

    Raises:
        FitError: with the values, how many runs have each, and how to choose.
    """
    if "data" not in runs.mixed:
        for column, rows in _texts(runs, law):
            raise FitError(_message(rows, column, what="text", kind="data", why="so their losses do not belong in one law"))  # fmt: skip
    if "code" not in runs.mixed:
        _check_code(runs.fit_rows)


def warn_mixed(runs: Runs, law: Law | None = None) -> Iterator[str]:
    """Yield what is to be kept in mind of runs that were let through."""
    for column, rows in _texts(runs, law):
        yield warn(
            "W-TEXT",
            f"the runs saw {rows[column].nunique()} different texts (column {column}); their losses can be compared only if the "
            "held-out tokens are the same. Fit the runs of one text, or delete the others and train the sweep again.",
        )
    states = _code_states(runs.fit_rows)
    if states.nunique() > 1:
        yield warn(
            "W-CODE",
            f"the runs were trained by {states.nunique()} states of the code ({_counts(states)}). Nothing says that they compute other "
            "numbers; where runs of one are off, train a run of each with the other.",
        )


def _texts(runs: Runs, law: Law | None) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the column that tells the texts apart, and the runs in which it does."""
    rows = runs.fit_rows
    by = [c for c in _explained(runs, law) if c in rows]
    for column, hashes in _hashes(runs, rows):
        told = rows.assign(**{column: hashes})[hashes.notna()]
        if told.empty:
            continue
        groups = [told] if not by else [g for _, g in told.groupby(by, dropna=False)]
        for group in groups:
            if group[column].nunique() > 1:
                yield column, group
                break


def _hashes(runs: Runs, rows: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Yield hashes of what was trained on, and of the validation set whose loss is fitted."""
    if "data_hash" in rows:
        yield "data_hash", rows["data_hash"]
    if is_set(runs.loss) and "val_sets" in rows:
        name = runs.loss.split("_", 2)[2]
        yield f"val_sets.{name}.data_hash", rows["val_sets"].map(lambda sets: _set_hash(sets, name))


def _set_hash(sets: Any, name: str) -> str | None:
    scores = sets.get(name) if isinstance(sets, dict) else None
    return scores.get("data_hash") if isinstance(scores, dict) else None


def _explained(runs: Runs, law: Law | None) -> list[str]:
    """Columns by which texts may differ: what the law reads, and tokenizers where losses are per byte."""
    read = [] if law is None else [law.columns.get(n, n) for n in law.inputs]
    if "params_embedding" in read:  # V d: the law is one of vocabularies
        read += ["tokenizer", "vocab"]
    read = [column for column in read if column not in _OURS]
    return [*read, *(("tokenizer", "vocab") if is_per_byte(runs.loss) else ())]


def _check_code(rows: pd.DataFrame) -> None:
    """Refuse other numbers: by their version; in records without one by the package's own."""
    for column, values in (("numbers_version", _numbers(rows)), ("software.scaling", _releases(rows))):  # fmt: skip
        if values.nunique() > 1:
            told = rows.assign(**{column: values})[values.notna()]
            why = "which compute other numbers by intent"
            if column != "numbers_version":
                why = "and older records do not say whether these compute the same numbers"
            raise FitError(_message(told, column, what="version of the code", kind="code", why=why))


def _numbers(rows: pd.DataFrame) -> pd.Series:
    if "numbers_version" not in rows:
        return pd.Series(None, index=rows.index, dtype=object)
    return rows["numbers_version"].map(lambda v: str(int(v)), na_action="ignore")


def _releases(rows: pd.DataFrame) -> pd.Series:
    """Major and minor version of the package; all unknown if every record has a version of its numbers."""
    numbers = _numbers(rows)
    if "software" not in rows or numbers.notna().all():
        return pd.Series(None, index=rows.index, dtype=object)
    return rows["software"].map(_release)


def _release(software: Any) -> str | None:
    version = software.get("scaling") if isinstance(software, dict) else None
    return ".".join(str(version).split(".")[:2]) if version else None


def _code_states(rows: pd.DataFrame) -> pd.Series:
    """What the code was that trained each run, in eight characters; in older records its commit."""
    if "software" not in rows:
        return pd.Series(dtype=object)
    known = [s if isinstance(s, dict) else {} for s in rows["software"]]
    all_hashed = all("code" in s for s in known)
    states = [
        s["code"][:8] if all_hashed else _commit(s) for s in known if all_hashed or "commit" in s
    ]
    return pd.Series(states, dtype=object)


def _commit(software: dict[str, str]) -> str:
    return software["commit"][:8] + ("+" + software["dirty"][:4] if "dirty" in software else "")


def _message(rows: pd.DataFrame, column: str, *, what: str, kind: str, why: str) -> str:
    """Say what differs, with counts, and the three ways on."""
    values = rows[column]
    most = values.value_counts().index[0]
    apart = ""
    if "." not in column:
        apart = f"Fit one: runs.where({column}={most!r}), on the command line where.{column}={most}; or each alone: group={column}. "
    return (
        f"fit: the runs are of more than one {what} ({column}: {_counts(values)}), {why}. {apart}"
        f"Or say that they belong together: runs.using(mixed={kind!r}), on the command line mixed={kind}."
    )


def _counts(values: pd.Series) -> str:
    counts = values.value_counts()
    said = [f"{value} in {n} runs" for value, n in counts.head(SHOWN).items()]
    return ", ".join(said) + (f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else "")
