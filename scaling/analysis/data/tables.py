"""Run records and tables from elsewhere, read into one DataFrame with our column names."""

from __future__ import annotations

import bz2
import dataclasses
import functools
import gzip
import json
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scaling.analysis.data.columns import ALIASES, OWN_PARAMS, ColumnMap, fill_by_6nd, suggest
from scaling.analysis.data.quantities import read_numbers
from scaling.study.errors import FitError, RecordError
from scaling.study.record import RunRecord, read_record

OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
FORMATS = ".csv, .tsv, .json, .jsonl or .parquet"


@dataclass(frozen=True)
class Problem:
    """A record that could not be read: where it is and why."""

    path: str
    message: str


def _find_run_folders(root: Path) -> Iterator[Path]:
    """Yield folders with a `run.json`; does not look inside them, so checkpoints cost nothing."""
    if _has_record(root):
        yield root
        return
    try:
        entries = sorted(os.scandir(root), key=lambda e: e.name)
    except OSError:  # a folder that may not be read, or is gone by now
        return
    folders = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    if {"metrics.jsonl", "config.yaml"} & {e.name for e in entries if not e.is_dir()}:
        yield root  # a run without its record: named as a problem
    for name in folders:
        yield from _find_run_folders(root / name)


def _has_record(folder: Path) -> bool:
    """Whether there is a `run.json`, if only a link to nowhere; one stat, and the folder is not listed."""
    try:
        return not stat.S_ISDIR(os.lstat(folder / "run.json").st_mode)
    except OSError:
        return False


def read_folder(root: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Read every record below a folder; damaged ones become problems.

    Raises:
        RecordError: there is no readable record.
    """
    rows, problems = [], []
    real = functools.cache(os.path.realpath)  # of the folders above: each part of a path is a stat
    for folder in _find_run_folders(root):
        try:
            record = vars(read_record(folder))
            rows.append({**record, **set_columns(record), "folder": _real(folder, real)})
        except RecordError as error:
            problems.append(Problem(str(folder / "run.json"), str(error)))
    if not rows:
        why = (
            f" {len(problems)} could not be read, first: {problems[0].message}" if problems else ""
        )
        raise RecordError(
            f"{root}: no readable run.json below it.{why} Train a sweep into it first, or name another folder."
        )
    names = dict.fromkeys([*(f.name for f in dataclasses.fields(RunRecord)), "folder"])
    more = (row for row in rows if row["val_sets"] or row["measures"])
    sets = dict.fromkeys(k for row in more for k in row if k not in names)
    del names["folder"]
    return pd.DataFrame(rows, columns=[*names, *sets, "folder"]), problems


def _real(folder: Path, real: Callable[[Path], str]) -> str:
    """Return a folder's one true path."""
    if folder.is_symlink() or folder.name in ("", ".."):
        return str(folder.resolve())
    return os.path.join(real(folder.parent), folder.name)


def set_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a record's further validation sets and measures.

    Returns:
        For a set NAME: val_loss_NAME and val_se_NAME [nats/token], val_bpb_NAME [bits/byte] and, where
        known, val_bpc_NAME [bits/character], val_excess_NAME [nats/token], val_share_NAME; for a
        measure NAME: NAME and NAME_se, in its own unit.
    """
    kinds = {"val_loss": "loss", "val_se": "se", "val_bpb": "bits_per_byte"}
    more = {
        "val_bpc": "bits_per_character",
        "val_excess": "excess",
        "val_excess_se": "excess_se",
        "val_share": "share",
    }
    sets = {
        f"{column}_{name}": values.get(key)
        for name, values in (record.get("val_sets") or {}).items()
        for column, key in (kinds | {c: k for c, k in more.items() if k in values}).items()
    }
    for name, values in (record.get("measures") or {}).items():
        sets |= {name: values.get("value"), f"{name}_se": values.get("se")}
    return sets


def read_table(path: Path) -> pd.DataFrame:
    """Read a table file as it is; the ending, without .gz or the like, tells the format.

    Raises:
        RecordError: it is missing, of another format, or damaged.
    """
    if not path.exists():
        raise RecordError(
            f"{path}: no such file or folder. Name a results folder, a {FORMATS} file, or wandb:ENTITY/PROJECT."
        )
    endings = [s.lower() for s in path.suffixes]
    ending = endings[-2] if len(endings) > 1 and endings[-1] in OPENERS else "".join(endings[-1:])
    readers = {
        ".csv": _read_csv,
        ".tsv": lambda p: pd.read_csv(p, sep="\t"),
        ".parquet": pd.read_parquet,
        ".jsonl": _read_jsonl,
        ".json": _read_json,
    }
    if ending not in readers:
        raise RecordError(
            f"{path}: cannot read {ending or 'a file without ending'!r}. Give {FORMATS}."
        )
    try:
        table = readers[ending](path)
    except UnicodeDecodeError as error:
        raise RecordError(
            f"{path}: not a readable table (text that is not UTF-8, from byte {error.start}). Save it again as UTF-8."
        ) from None
    except ImportError as error:
        raise RecordError(
            f"{path}: needs another package ({error}). For parquet: pip install pyarrow."
        ) from None
    except (
        ValueError,
        OSError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
    ) as error:  # pandas' own are ValueErrors
        raise RecordError(f"{path}: not a readable table ({error}). Check the file.") from None
    if table.empty:
        raise RecordError(f"{path}: the table has no rows. Check the file.")
    return table


def _read_csv(path: Path) -> pd.DataFrame:
    with _raw(path) as file:
        start = file.read(2)
    # spreadsheets save "Unicode text" as UTF-16, which opens with one of these marks
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    table = pd.read_csv(path, encoding=encoding)
    if len(table.columns) == 1:  # some programs write .csv with semicolons or tabs
        for sep in (";", "\t"):
            if sep in str(table.columns[0]):
                return pd.read_csv(path, sep=sep, encoding=encoding)
    return table


def _raw(path: Path) -> Any:
    return OPENERS.get(path.suffix.lower(), open)(path, "rb")


def _open(path: Path) -> Any:
    return OPENERS.get(path.suffix.lower(), open)(path, "rt", encoding="utf-8")


def _read_jsonl(path: Path) -> pd.DataFrame:
    rows = []
    with _open(path) as lines:
        for i, line in enumerate(lines, start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError as error:
                raise ValueError(f"line {i}: {error}") from None
            if row is not None and not isinstance(row, dict):
                raise ValueError(f"line {i} is not an object with column names")
            rows += [row] if row else []
    return pd.DataFrame(rows)


def _read_json(path: Path) -> pd.DataFrame:
    """A list of rows, or a mapping of columns to lists."""
    with _open(path) as file:
        values = json.load(file)
    rows = isinstance(values, list) and all(isinstance(row, dict) for row in values)
    if not rows and not isinstance(values, dict):
        raise ValueError("neither a list of rows nor a mapping of columns to lists")
    return pd.DataFrame(values)


def tidy_table(source: pd.DataFrame, how: ColumnMap, where: str) -> tuple[pd.DataFrame, list[str]]:
    """Name and convert columns, fill the missing one of N, D, C by 6ND.

    Raises:
        FitError: no loss, fewer than two of N, D, C, or cells that are no numbers.
    """
    table = how.apply(source, where)
    notes: list[str] = []
    if not any(name in table for name in OWN_PARAMS):
        table, notes = fill_by_6nd(table, where)
    if "val_loss" not in table:
        raise FitError(
            f"{where}: no loss column (looked for {', '.join(ALIASES['val_loss'])}); there are "
            f"{', '.join(map(str, source.columns))}.{suggest('val_loss', source.columns)}"
        )
    for name, default in (("status", "done"), ("role", "fit")):
        table[name] = table[name].fillna(default) if name in table else default
    if "run_id" not in table:
        table["run_id"] = [f"row{i}" for i in range(len(table))]
    return table, notes


def number(frame: pd.DataFrame, column: str) -> pd.Series:
    """Return a column as floats; NaN where it is no number, or absent."""
    if column not in frame:
        return pd.Series(np.nan, index=frame.index)
    return read_numbers(frame[column], where=column, strict=False)


def check_duplicates(table: pd.DataFrame) -> None:
    """Refuse copies: of a run's record, or of a row with the same N, D, loss and all else.

    Raises:
        FitError: with the first two.
    """
    own = table["folder"].notna() if "folder" in table else pd.Series(False, index=table.index)
    twice = own & table["run_id"].where(own).duplicated(keep=False)
    if {"params", "tokens", "val_loss"} <= set(table):
        unlike = [c for c in table if c not in ("run_id", "folder", "study")]
        same = table[["params", "tokens", "val_loss"]].duplicated(keep=False) & ~own
        # Cells may hold lists, which have no hash; their text has.
        twice |= same & table.loc[same, unlike].astype(str).duplicated(keep=False).reindex(
            table.index, fill_value=False
        )
    if twice.any():
        rows = table[twice]
        what = rows["folder"].fillna(rows["run_id"]) if "folder" in rows else rows["run_id"]
        raise FitError(
            f"load: {len(rows)} rows are duplicates, for example {list(what[:2])}. "
            "A run counts once: drop the copies (or give a column `seed` that tells them apart)."
        )
