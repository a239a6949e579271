"""Fits as JSON: everything a fit knows, readable by other programs, and back again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scaling.analysis import laws
from scaling.analysis.data.runs import Runs
from scaling.analysis.fits.objectives import Objective
from scaling.study.errors import FitError, RecordError
from scaling.study.record import write_atomic

if TYPE_CHECKING:
    from scaling.analysis.fits.fitted import Fit

FORMAT = 2
PLAIN = (
    "params",
    "value",
    "spread",
    "intervals",
    "level",
    "seed",
    "fixed",
    "prior_scale",
)  # stored as they are


def write_fit(fit: Fit, path: Path) -> Path:
    """Write a fit atomically; what is infinite in its certificate is null.

    So is the gap between basins where there is one only, and the gain of a further step where the
    curvature at the optimum has no inverse.
    """
    certificate = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v
        for k, v in asdict(fit.certificate).items()
    }
    values: dict[str, Any] = {
        "format": FORMAT,
        "law": fit.law.name,
        **{k: getattr(fit, k) for k in PLAIN},
    }
    values |= {
        "objective": asdict(fit.objective),
        "certificate": certificate,
        "warnings": list(fit.warnings),
    }
    values["conventions"] = {k: getattr(fit.runs, k) for k in ("params", "flops", "loss")}
    values["weights"] = None if fit.weights is None else fit.weights.tolist()
    values["draws"] = {
        k: [x if math.isfinite(x) else None for x in np.asarray(v).tolist()]
        for k, v in fit.draws.items()
    }
    values["runs"] = fit.runs.fit_rows[fit.runs.columns_used()].to_dict(orient="list")
    try:
        write_atomic(path, json.dumps(values, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise RecordError(
            f"{path}: cannot be written ({error.strerror or error}). Give the path of a file in a folder you may write."
        ) from None
    return path


def _check_kinds(parts: Mapping[str, Any]) -> None:
    """Raise for numbers that are none: a file edited by hand, or damaged."""
    for name in ("value", "spread", "level", "seed", "prior_scale"):
        if not isinstance(parts[name], (int, float)):
            raise ValueError(f"{name} is {parts[name]!r}")
    for name in ("params", "fixed"):
        for key, number in parts[name].items():
            if not isinstance(number, (int, float)):
                raise ValueError(f"{name} {key} is {number!r}")
    if not len(parts["runs"]):
        raise ValueError("it has no runs")
    if not isinstance(parts["intervals"], str):
        raise ValueError(f"intervals is {parts['intervals']!r}")


def read_fit(path: Path) -> Fit:
    """Read a fit that `write_fit` wrote.

    Raises:
        RecordError: the file is missing, damaged or of another format.
        FitError: its law is not registered.
    """
    from scaling.analysis.fits.certificate import Certificate
    from scaling.analysis.fits.fitted import Fit  # Fit itself imports this module

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']!r}, this package reads {FORMAT}")
        c = values["certificate"]
        c |= {"basins": tuple(map(tuple, c["basins"])), "on_bound": tuple(c["on_bound"])}
        c = {k: math.inf if v is None else v for k, v in c.items()}
        parts = {k: values[k] for k in PLAIN} | {"warnings": tuple(values["warnings"])}
        parts["draws"] = {k: np.array(d, float) for k, d in values["draws"].items()}
        parts["runs"] = Runs(pd.DataFrame(values["runs"]), **values["conventions"])
        parts |= {"certificate": Certificate(**c), "objective": Objective(**values["objective"])}
        weights = values["weights"]
        parts["weights"] = None if weights is None else np.array(weights, float)
        name = str(values["law"])
        _check_kinds(parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, FitError) as error:
        raise RecordError(
            f"{path}: not a saved fit ({error!r}). Save it again with fit.save(path)."
        ) from None
    return Fit(law=laws.get(name), **parts)
