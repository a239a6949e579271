"""The report's table of runs: sorted by budget and size, and from each run to its curve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from scaling.analysis.data.conventions import loss_unit
from scaling.analysis.data.runs import Runs
from scaling.analysis.fits.fitting import Fit
from scaling.present import page
from scaling.study.table import Table
from scaling.study.units import format_duration, format_flops, format_quantity

HINT = (
    "Select a heading to sort. The filter takes words and conditions on columns: done N>1M loss<2.5. "
    "Select a run to see it in every figure; its name leads to its curve."
)
BRANCHED = "Time, D and C are those of the whole run; a branch shares its first steps with the run it is a branch of."


def listed(runs: Runs) -> pd.DataFrame:
    """Return the runs in the order of the page: by budget, then size.

    Compute that agrees within a percent or so is one budget.
    """
    rows = runs.frame
    budget = rows["C"].map(lambda c: float(f"{c:.2g}") if c == c else c)
    ordered = rows.assign(_budget=budget).sort_values(["_budget", "N"]).drop(columns="_budget")
    return ordered.reset_index(drop=True)


def runs_section(rows: pd.DataFrame, runs: Runs, fit: Fit, *, places: Mapping[int, str]) -> str:
    """Return the table of runs with its filter.

    Args:
        rows: what `listed` returned; places: the figure to show for the run in each row.
    """
    branched = has(rows, "parent")
    header = [
        "run", "status", "role", "N", "D [tokens]", "C [FLOPs]", f"{runs.loss} [{loss_unit(runs.loss)}]", "standard error",
        "from the law [%]", "time", *(["branch of"] if branched else []),
    ]  # fmt: skip
    residual = fit.residuals().set_index("run_id")["residual"]
    if not residual.index.is_unique:
        residual = residual.iloc[:0]
    lines = [_row(row, residual, branched) for row in rows.to_dict("records")]
    links = [f"#figure-{places[i]}" if i in places else "" for i in range(len(lines))]
    return page.section(
        "Runs",
        page.paragraph(HINT, "note screen"),
        page.paragraph(BRANCHED, "note") if branched else "",
        "<p class='filter'><input type='search' aria-label='Filter the runs' placeholder='Filter, e.g. done N>1M loss&lt;2.5' autocomplete='off'><output></output></p>",
        page.table(
            Table(header, [cells for cells, _ in lines]), values=[v for _, v in lines], links=links
        ),
        page.bullets([f"Skipped {p.path}: {p.message}" for p in runs.problems]),
    )


def _row(row: dict[Any, Any], residual: pd.Series, branched: bool) -> tuple[list[str], list[Any]]:
    """Return one run's cells, and the numbers that sort them."""
    away, error = 100 * residual.get(row["run_id"], math.nan), row.get("val_loss_se")
    seconds, parent = _number(row.get("seconds")), row.get("parent")
    cells = [
        str(row["run_id"]), row["status"], row["role"], format_quantity(row["N"]), format_quantity(row["D"]), format_flops(row["C"]),
        _loss(row["L"]), _loss(error), "-" if math.isnan(away) else f"{away:+.2f}", format_duration(seconds),
        *(["-" if parent is None or pd.isna(parent) else str(parent)] if branched else []),
    ]  # fmt: skip
    numbers = [_number(v) for v in (row["N"], row["D"], row["C"], row["L"], error, away)]
    return cells, [None, None, None, *numbers, seconds, *([None] if branched else [])]


def has(rows: pd.DataFrame, name: str) -> bool:
    """Whether any run has a value in a column."""
    return name in rows and bool(rows[name].notna().any())


def _loss(value: Any) -> str:
    number = _number(value)
    return "-" if math.isnan(number) else f"{number:.4f}"


def _number(value: Any) -> float:
    return float("nan") if value is None or pd.isna(value) else float(value)
