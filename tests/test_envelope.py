"""Approach 1 on training curves written as a trainer writes them."""

import json

import numpy as np
import pytest

from scaling.analysis.envelope import fit_envelope
from scaling.analysis.laws import CHINCHILLA
from scaling.analysis.runs import load
from scaling.analysis.simulation import simulate
from scaling.study.errors import FitError
from scaling.study.record import RunRecord, write_record

PARAMS = {"E": 0.9, "A": 60.0, "B": 300.0, "alpha": 0.35, "beta": 0.37}


def write(root, sizes):
    for N in sizes:
        tokens = np.geomspace(5, 2000, 25) * N
        losses = CHINCHILLA(PARAMS, N=N, D=tokens)
        name = f"n{N:.0f}"
        record = RunRecord(
            name,
            "done",
            params_non_embedding=int(N),
            params_total=int(N),
            tokens=int(tokens[-1]),
            val_loss=float(losses[-1]),
        )
        write_record(root / name, record)
        rows = [
            {"step": i, "tokens": float(t), "val_loss": float(v)}
            for i, (t, v) in enumerate(zip(tokens, losses, strict=True))
        ]
        (root / name / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return load(root)


def test_envelope_of_exact_curves_has_the_laws_exponent(tmp_path):
    env = fit_envelope(write(tmp_path, np.geomspace(1e4, 1e6, 15)), skip=0.0)
    # Sizes 1.39x apart make N* a staircase: steps of .33 in ln N over a span of 4.6 allow .02 or so.
    assert env.a.value == pytest.approx(0.37 / 0.72, abs=0.03)
    assert env.a.lo < 0.37 / 0.72 < env.a.hi
    inside = env.points[~env.points["edge"]]
    best = CHINCHILLA(PARAMS, N=inside["N"], D=inside["D"])
    np.testing.assert_allclose(
        inside["loss"], best, rtol=2e-3
    )  # chords between 25 points of a curve
    assert "learning rate decays" in env.summary().text()
    assert (env.optimal([1e13])["N"] > 0).all()


def test_envelope_needs_curves_and_sizes(tmp_path):
    with pytest.raises(FitError, match="no training curves"):
        fit_envelope(simulate("chinchilla", PARAMS, [1e5, 1e6, 1e7], 1e9))
    with pytest.raises(FitError, match="needs 3"):
        fit_envelope(write(tmp_path, [1e5, 1e6]))
