"""Run records and tables from elsewhere, read into one DataFrame with our column names."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scaling.study.errors import FitError, RecordError
from scaling.study.record import RunRecord, read_metrics, read_record

ALIASES = {
    "params": ("params", "N", "n", "n_params", "parameters", "model_size", "num_params"),
    "tokens": ("tokens", "D", "d", "n_tokens", "num_tokens", "training_tokens"),
    "flops": ("flops", "C", "c", "compute", "n_flops", "training_flops"),
    "val_loss": ("val_loss", "loss", "L", "l", "final_loss"),
}


@dataclass(frozen=True)
class Problem:
    """A record that could not be read: where it is and why."""

    path: str
    message: str


def _find_run_folders(root: Path) -> Iterator[Path]:
    """Yield folders with a `run.json`; does not look inside them, so checkpoints cost nothing."""
    for folder, inside, files in os.walk(root, followlinks=True):
        if "run.json" in files:
            inside.clear()
            yield Path(folder)
        else:
            inside[:] = sorted(d for d in inside if not d.startswith("."))
            if "metrics.jsonl" in files or "config.yaml" in files:
                yield Path(folder)  # a run without its record: named as a problem


def read_folder(root: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Read every record below a folder; damaged ones become problems."""
    rows, problems = [], []
    for folder in _find_run_folders(root):
        try:
            rows.append({**read_record(folder).to_dict(), "folder": str(folder.resolve())})
        except RecordError as error:
            problems.append(Problem(str(folder / "run.json"), str(error)))
    if not rows:
        why = (
            f" {len(problems)} could not be read, first: {problems[0].message}" if problems else ""
        )
        raise RecordError(
            f"{root}: no readable run.json below it.{why} Train a sweep into it first, or name another folder."
        )
    names = [f.name for f in dataclasses.fields(RunRecord)]
    return pd.DataFrame(rows, columns=[*names, "folder"]), problems


def read_table(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise RecordError(
            f"{path}: no such file or folder. Name a results folder, a .csv, .jsonl or .parquet file."
        )
    readers = {
        ".csv": pd.read_csv,
        ".parquet": pd.read_parquet,
        ".jsonl": lambda p: pd.read_json(p, lines=True),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise RecordError(
            f"{path}: cannot read {path.suffix or 'a file without ending'!r}. Give .csv, .jsonl or .parquet."
        )
    try:
        return reader(path)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise RecordError(f"{path}: not a readable table ({error}). Check the file.") from None


def tidy_table(
    source: pd.DataFrame, columns: Mapping[str, str], where: str
) -> tuple[pd.DataFrame, list[str]]:
    """Rename columns, fill the missing one of N, D, C by 6ND, check values."""
    table = source.rename(columns=dict(columns)).reset_index(drop=True)
    if "params_non_embedding" not in table and "params_total" not in table:
        for name, aliases in ALIASES.items():
            alias = next((a for a in aliases if a in table), None)
            if alias and alias != name:
                table = table.rename(columns={alias: name})
        missing = [c for c in ("params", "tokens", "flops") if c not in table]
        table, notes = _fill_by_6nd(table, missing, where)
    else:
        notes = []
    if "val_loss" not in table:
        raise FitError(
            f"{where}: no loss column (looked for {', '.join(ALIASES['val_loss'])}); there are {', '.join(map(str, source.columns))}. Use load(..., columns={{'mine': 'val_loss'}})."
        )
    for name, default in (("status", "done"), ("role", "fit")):
        if name not in table:
            table[name] = default
    if "run_id" not in table:
        table["run_id"] = [f"row{i}" for i in range(len(table))]
    return table, notes


def _fill_by_6nd(
    table: pd.DataFrame, missing: list[str], where: str
) -> tuple[pd.DataFrame, list[str]]:
    if len(missing) > 1:
        raise FitError(
            f"{where}: needs two of N (params), D (tokens), C (flops); lacks {', '.join(missing)}; there are "
            f"{', '.join(map(str, table.columns))}. Use load(..., columns={{'mine': '{missing[0]}'}})."
        )
    if not missing:
        return table, []
    n, d, c = (number(table, name) for name in ("params", "tokens", "flops"))
    filled = {"params": c / (6 * d), "tokens": c / (6 * n), "flops": 6 * n * d}[missing[0]]
    return table.assign(**{missing[0]: filled}), [
        f"{where}: {missing[0]} filled in from C = 6 N D."
    ]


def number(frame: pd.DataFrame, column: str) -> pd.Series:
    if column not in frame:
        return pd.Series(np.nan, index=frame.index)
    return pd.to_numeric(frame[column], errors="coerce").astype(float)


def check_duplicates(table: pd.DataFrame) -> None:
    twice = (
        table["run_id"].duplicated(keep=False)
        if "folder" in table
        else pd.Series(False, index=table.index)
    )
    keys = [c for c in ("params", "tokens", "val_loss") if c in table]
    if len(keys) == 3:
        extra = [c for c in ("seed", "group", "source", "role", "status") if c in table]
        twice |= table.duplicated(keys + extra, keep=False)
    if twice.any():
        rows = table[twice]
        what = (
            rows["folder"] if "folder" in rows and rows["folder"].notna().any() else rows["run_id"]
        )
        raise FitError(
            f"load: {len(rows)} rows are duplicates, for example {list(what[:2])}. "
            "A run counts once: drop the copies (or give a column `seed` that tells them apart)."
        )


def read_curve(row: pd.Series, loss: str) -> pd.DataFrame:
    """Validation points of one run; a run that has no folder has no curve."""
    folder = row.get("folder")
    if not isinstance(folder, str):
        return pd.DataFrame()
    points = pd.DataFrame([m for m in read_metrics(Path(folder)) if m.get("val_loss") is not None])
    if points.empty:
        return points
    points["loss"] = points[loss] if loss in points else points["val_loss"]
    points["N"] = row["N"]
    points["C"] = row["C"] * points["tokens"] / row["D"]  # per-token cost is constant along a run
    points["run_id"] = row["run_id"]
    return points[["run_id", "step", "tokens", "N", "C", "loss", "val_loss"]]
