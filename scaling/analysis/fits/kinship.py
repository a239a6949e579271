"""Runs that share steps, and so their luck: what takes them as independent, and what does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scaling.analysis.fits.posed import FEW_CLUSTERS, clusters
from scaling.analysis.traps import warn

if TYPE_CHECKING:
    from scaling.analysis.data.runs import Runs


def check_trunks(runs: Runs, intervals: str) -> Iterator[str]:
    """Yield a warning if runs of one trunk are taken as independent.

    Args:
        runs: the runs; intervals: how they are found, which may draw whole trunks.
    """
    rows = runs.fit_rows
    trunk = trunk_labels(rows)
    sizes = trunk.value_counts()
    if sizes.max() < 2 or _holds(trunk, clusters(runs, intervals)):
        return
    few = f"There are only {len(sizes)} trunks, too few for intervals that draw them whole: repeat the runs with other seeds, or quote the interval as a lower bound."
    advice = next(
        (
            f"Use intervals={method}, which draws whole trunks."
            for method in ("by_model", "by:trunk_hash")
            if _draws_whole(runs, trunk, method)
        ),
        few,
    )
    yield warn(
        "W-TRUNK",
        f"{sizes[sizes > 1].sum()} of {len(rows)} runs branch from {(sizes > 1).sum()} trunks and share their luck, so intervals over single runs are too narrow. {advice}",
    )


def trunk_labels(rows: pd.DataFrame) -> pd.Series:
    """Return which trunk a run is on: by its hash, in older records by its parent; else its own."""
    labels = rows["run_id"]
    for name in ("parent", "trunk_hash"):
        if name in rows:
            labels = rows[name].where(rows[name].notna(), labels)
    return labels


def _draws_whole(runs: Runs, trunk: pd.Series, method: str) -> bool:
    if method.startswith("by:") and method[3:] not in runs.fit_rows:
        return False
    labels = clusters(runs, method)
    assert labels is not None
    return len(np.unique(labels)) >= FEW_CLUSTERS and _holds(trunk, labels)


def _holds(trunk: pd.Series, labels: np.ndarray | None) -> bool:
    """Whether no trunk is in two clusters."""
    if labels is None:
        return False
    return bool((pd.Series(labels).groupby(trunk.to_numpy()).nunique() == 1).all())
