"""What `load` accepts: folders, files, DataFrames and wandb, brought into one table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.analysis.data import wandb_runs
from scaling.analysis.data.bundles import is_bundle, read_bundle
from scaling.analysis.data.columns import ColumnMap
from scaling.analysis.data.curves import History
from scaling.analysis.data.tables import Problem, read_folder, read_table, tidy_table
from scaling.study.errors import RecordError


@dataclass(frozen=True)
class Loaded:
    """What was read: a table, and what to say about it.

    Args:
        table: one row per run; problems: records that could not be read; notes: what was filled in.
        histories: where curves come from, by run_id.
        how: the mapping that still has to be applied; null for our own records.
        label, where: the source's short name, and its full one.
    """

    table: pd.DataFrame
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    histories: dict[str, History] = field(default_factory=dict)
    how: ColumnMap | None = None
    label: str = ""
    where: str = ""


def read_sources(sources: Iterable[Any], how: ColumnMap) -> Loaded:
    """Read all sources into one table; several are told apart by column `study`.

    Raises:
        RecordError: a source is missing or holds no readable run.
        FitError: a table lacks a column, or the mapping names one that no table has.
    """
    parts = [_open(source, label, how) for label, source in _name(sources)]
    foreign = [p.table for p in parts if p.how is not None]
    if foreign:
        how.check_used(foreign)
    parts = [_tidy(p) for p in parts]
    if len(parts) > 1:
        parts = [_label(p) for p in parts]
    tables = [p.table for p in parts]
    return Loaded(
        table=tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True),
        problems=[x for p in parts for x in p.problems],
        notes=[x for p in parts for x in p.notes],
        histories={k: v for p in parts for k, v in p.histories.items()},
    )


def _name(sources: Iterable[Any]) -> list[tuple[str, Any]]:
    """Label every source by its name, or as a mapping says; equal labels get a number."""
    named: list[tuple[str, Any]] = []
    for source in sources:
        if isinstance(source, Mapping):
            named += [(str(label), s) for label, s in source.items()]
        elif isinstance(source, pd.DataFrame):
            named.append(("table", source))
        else:
            text = _path(source)
            named.append((Path(text).resolve().name.split(".")[0] or text, source))
    labels = [label for label, _ in named]
    return [
        (label if labels.count(label) == 1 else f"{label}-{labels[: i + 1].count(label)}", source)
        for i, (label, source) in enumerate(named)
    ]


def _path(source: Any) -> str:
    try:
        return os.fspath(source)
    except TypeError:
        raise RecordError(
            f"load: a source is a path, a DataFrame or 'wandb:entity/project'; got {type(source).__name__} {source!r:.60}. Several sources: load(first, second). Rows: pandas.DataFrame(...) first."
        ) from None


def _open(source: Any, label: str, how: ColumnMap) -> Loaded:
    """Read one source as it is."""
    if isinstance(source, pd.DataFrame):
        if source.empty:
            raise RecordError(f"{label}: the DataFrame has no rows. Give at least one run.")
        if source.columns.nlevels > 1:
            raise RecordError(
                f"{label}: the DataFrame's columns have {source.columns.nlevels} levels. Give them one name each, e.g. df.columns = ['_'.join(map(str, c)) for c in df.columns]."
            )
        return Loaded(source, how=how, label=label, where="DataFrame")
    text = _path(source)
    if not text or text.startswith(("http://", "https://")):
        raise RecordError(
            f"load: {text!r} is no path. Download the file first, or name a folder ('.' is this one)."
        )
    if text.startswith(wandb_runs.PREFIX):
        table, histories = wandb_runs.read_project(text[len(wandb_runs.PREFIX) :])
        return Loaded(table, histories=histories, how=how, label=label, where=text)
    path = Path(text)
    if is_bundle(path):
        table, histories = read_bundle(path)
        return Loaded(table, histories=histories, label=label, where=text)
    if not path.is_dir():
        table = read_table(path)
        stored = ColumnMap.beside(path)
        if stored is not None:
            stored.check_used([table])
            how = how.over(stored)
        return Loaded(table, how=how, label=label, where=text)
    try:
        table, problems = read_folder(path)
    except RecordError:
        if not wandb_runs.is_offline(path):
            raise
        table, histories = wandb_runs.read_offline(path)
        return Loaded(table, histories=histories, how=how, label=label, where=text)
    return Loaded(table, problems, label=label, where=text)


def _tidy(part: Loaded) -> Loaded:
    """Give a foreign table our names and units, and its curves too."""
    if part.how is None:
        return part
    table, notes = tidy_table(part.table, part.how, part.where)
    histories = {
        run["run_id"]: wandb_runs.as_curve(part.histories[run["run_id"]], _for_run(part.how, run), run)
        for run in table.to_dict("records")
        if run["run_id"] in part.histories
    }  # fmt: skip
    return replace(part, table=table, notes=notes, histories=histories)


def _for_run(how: ColumnMap, run: Mapping[Any, Any]) -> ColumnMap:
    """A run's own bytes per token hold for its curve too."""
    own = run.get("bytes_per_token")
    return replace(how, bytes_per_token=how.bytes_per_token if own is None or own != own else own)


def _label(part: Loaded) -> Loaded:
    """Write the source's label into column `study`, and before the numbers of unnamed rows."""
    table = part.table
    study = table["study"].fillna(part.label) if "study" in table else part.label
    table = table.assign(study=study)
    if part.how is not None and table["run_id"].iloc[0] == "row0":
        table["run_id"] = [f"{part.label}:{name}" for name in table["run_id"]]
    return replace(part, table=table)
