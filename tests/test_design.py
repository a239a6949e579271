"""Proposed sweeps: centred on the optimum, and readable as a sweep file."""

import numpy as np
import pytest
import yaml

from scaling.analysis.design import next_sweep
from scaling.analysis.fitting import fit
from scaling.analysis.simulation import isoflop_grid, simulate
from scaling.study.errors import FitError

PARAMS = {"E": 0.9, "A": 60.0, "B": 300.0, "alpha": 0.35, "beta": 0.37}


@pytest.fixture(scope="module")
def fitted():
    return fit(
        simulate(
            "chinchilla", PARAMS, *isoflop_grid(np.geomspace(1e12, 1e14, 5), points=5), noise=0.003
        ),
        intervals="delta",
    )


def test_sweep_is_centred_on_the_optimum(fitted):
    sweep = next_sweep(fitted, C=[1e15, 3e15], points=7)
    sizes = np.array([p.N for p in sweep.points]).reshape(2, 7)
    np.testing.assert_allclose(sizes[:, 3], fitted.optimal([1e15, 3e15])["N"], rtol=1e-9)
    assert (sizes[:, 6] / sizes[:, 0] >= 15.9).all()
    assert sweep.flops == pytest.approx(7 * 4e15)
    assert all(pytest.approx(6 * p.N * p.D) == p.C for p in sweep.points)


def test_sweep_file_opens_with_question_and_cost_and_parses(fitted, tmp_path):
    path = next_sweep(fitted, C=[1e15], points=5).save(tmp_path / "round2.yaml")
    lines = path.read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# Question: Where is")
    assert "5 runs" in lines[2]
    values = yaml.safe_load(path.read_text())
    assert values["sweep"]["name"] == "round2"
    assert len(values["sweep"]["points"]) == 5
    assert set(values["sweep"]["points"][0]) == {"budget.flops", "model.params"}
    assert values["model"]["params_convention"] == "non_embedding"


def test_unusable_requests_are_refused(fitted, tmp_path):
    with pytest.raises(FitError, match="4 sizes"):
        next_sweep(fitted, C=1e15, points=3)
    with pytest.raises(FitError, match=r"\.yaml"):
        next_sweep(fitted, C=1e15).save(tmp_path / "round2.txt")
    with pytest.raises(FitError, match="above 0"):
        next_sweep(fitted, C=-1.0)
