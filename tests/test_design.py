"""Proposed sweeps: centred on the optimum, and readable as a sweep file."""

import dataclasses

import numpy as np
import pytest
import yaml

from scaling.analysis.allocation.design import Point, Sweep, next_sweep, with_seeds
from scaling.analysis.data.simulation import isoflop_grid, simulate
from scaling.analysis.fits.fitting import fit
from scaling.cli.compose import compose_sweep
from scaling.study.config import RunConfig
from scaling.study.errors import FitError
from scaling.study.plan import make_plan

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


def test_sweep_says_itself_in_a_line_and_gives_its_runs_as_columns(fitted):
    sweep = next_sweep(fitted, C=[1e15], points=5)
    assert repr(sweep).startswith("Sweep(5 runs, 5e15 FLOPs: ") and "\n" not in repr(sweep)
    np.testing.assert_allclose(sweep.frame["C"], 6 * sweep.frame["N"] * sweep.frame["D"])


def test_sweep_file_opens_with_question_and_cost_and_parses(fitted, tmp_path):
    path = next_sweep(fitted, C=[1e15], points=5).save(tmp_path / "round2.yaml")
    lines = path.read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# Question: Where is")
    assert "5 runs" in lines[2]


def test_sweep_file_is_a_sweep_of_the_proposed_runs(fitted, tmp_path, monkeypatch):
    proposed = next_sweep(fitted, C=[1e15], points=5)
    (tmp_path / "sweeps").mkdir()
    proposed.save(tmp_path / "sweeps" / "round2.yaml")
    monkeypatch.chdir(tmp_path)
    sweep = compose_sweep(["sweeps=round2"])
    assert sweep.name == "round2" and sweep.design.question == proposed.question
    plans = [make_plan(point.config) for point in sweep.points]
    assert [p.params for p in plans] == pytest.approx([p.N for p in proposed.points], rel=0.01)
    assert [p.flops_6nd for p in plans] == pytest.approx([1e15] * 5, rel=0.01)


def test_proposed_runs_differ_from_the_fitted_in_size_and_budget_only(
    fitted, tmp_path, monkeypatch
):
    asked = RunConfig.from_dict({
        "model": {"params": "1M", "context": 64, "tied": True}, "budget": {"tokens": "1M"}, "sweep": "round1",
        "data": {"source": "ngram", "order": 3, "val_tokens": 65536, "cache": "/elsewhere"}, "train": {"evals": 6, "threads": 1},
    })  # fmt: skip
    rates = [0.5, 2.0]  # what differs between the runs is not settled by them
    for i, rate in enumerate(rates):
        (tmp_path / f"run{i}").mkdir()
        config = asked.replace(**{"optim.lr_scale": rate}).to_dict()
        (tmp_path / f"run{i}" / "config.yaml").write_text(yaml.safe_dump(config))
    folders = [str(tmp_path / f"run{i % 2}") for i in range(len(fitted.runs.table))]
    runs = dataclasses.replace(fitted.runs, table=fitted.runs.table.assign(folder=folders))
    (tmp_path / "sweeps").mkdir()
    next_sweep(dataclasses.replace(fitted, runs=runs), C=1e15, points=4).save(
        tmp_path / "sweeps" / "round2.yaml"
    )
    monkeypatch.chdir(tmp_path)
    config = compose_sweep(["sweeps=round2"]).points[0].config
    assert config.model.context == 64 and config.model.tied
    assert config.data == dataclasses.replace(asked.data, cache=None)
    assert config.train.evals == 6 and config.train.threads is None
    assert config.optim.lr_scale == 1.0
    assert (config.sweep, config.budget.tokens) == ("round2", None)


def test_runs_that_are_there_already_are_proposed_with_another_seed(fitted):
    runs = dataclasses.replace(fitted.runs, table=fitted.runs.table.assign(seed=0))
    there, new = (Point(runs.C[3], runs.N[3] * factor, runs.D[3]) for factor in (1.005, 1.5))
    assert [p.seed for p in with_seeds([there, new], runs)] == [1, None]
    text = Sweep(tuple(with_seeds([there, new], runs)), "?").yaml("more")
    points = yaml.safe_load(text)["design"]["points"]
    assert [p.get("seed") for p in points] == [1, None]


def test_unusable_requests_are_refused(fitted, tmp_path):
    with pytest.raises(FitError, match="4 sizes"):
        next_sweep(fitted, C=1e15, points=3)
    with pytest.raises(FitError, match=r"\.yaml"):
        next_sweep(fitted, C=1e15).save(tmp_path / "round2.txt")
    with pytest.raises(FitError, match="above 0"):
        next_sweep(fitted, C=-1.0)
