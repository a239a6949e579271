"""Training curves: the validation points along a run, from its folder or from a tracker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.analysis.data.conventions import is_set
from scaling.analysis.data.tables import Problem
from scaling.study.errors import RecordError, ScalingError
from scaling.study.record import read_metrics

COLUMNS = ["run_id", "step", "tokens", "N", "C", "loss", "val_loss"]
History = Callable[[], list[dict[str, Any]]]  # the rows logged along a run, read when asked for


def read_curves(
    rows: pd.DataFrame, histories: Mapping[str, History], loss: str
) -> tuple[pd.DataFrame, tuple[Problem, ...]]:
    """Read the curves of finished runs; one that is damaged does not keep the others back.

    Args:
        rows: the runs, with run_id, N, D, C.
        histories: where the rows of a run come from, by run_id; else its folder is read.
        loss: the column that is fitted.

    Returns:
        All validation points in long form (`COLUMNS`), and the curves that could not be read.

    Raises:
        RecordError: there are curves and none can be read.
    """
    parts, problems = [], []
    for _, row in rows.iterrows():
        try:
            part = _points(row, _logged(row, histories), loss)
        except ScalingError as error:
            problems.append(Problem(str(row.get("folder", row["run_id"])), str(error)))
            continue
        parts += [part] if len(part) else []
    if problems and not parts:
        raise RecordError(f"curves: none can be read. First: {problems[0].message}")
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    return frame, tuple(problems)


def _logged(row: pd.Series, histories: Mapping[str, History]) -> list[dict[str, Any]]:
    if row["run_id"] in histories:
        return histories[row["run_id"]]()
    folder = row.get("folder")
    return read_metrics(Path(folder)) if isinstance(folder, str) else []


def _points(row: pd.Series, logged: list[dict[str, Any]], loss: str) -> pd.DataFrame:
    points = pd.DataFrame([m for m in logged if m.get("val_loss") is not None])
    if points.empty:
        return points
    lacks = [c for c in ("step", "tokens") if c not in points]
    if lacks:
        raise RecordError(
            f"{row['run_id']}: its curve has no {' and no '.join(lacks)}. Map one with load(..., columns=...)."
        )
    for name in {"tokens", "val_loss", loss} & set(points):
        points[name] = pd.to_numeric(points[name], errors="coerce")
    if is_set(loss):  # scored at the end only; another text's curve is not its own
        return points.iloc[:0]
    points["loss"] = points[loss] if loss in points else points["val_loss"]
    points["N"] = row["N"]
    points["C"] = row["C"] * points["tokens"] / row["D"]  # per-token cost is constant along a run
    points["run_id"] = row["run_id"]
    return points[COLUMNS]
