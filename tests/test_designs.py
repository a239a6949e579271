"""Designs said in a few numbers: the points they stand for, and what they refuse."""

import math

import pytest

from scaling.analysis.data.runs import load
from scaling.cli import main
from scaling.study.designs import (
    isoflop_points,
    ladder_points,
    make_points,
    repeat_points,
    spread_values,
)
from scaling.study.errors import ConfigError


def test_spread_is_even_in_the_logarithm_and_keeps_its_ends():
    values = spread_values({"from": "1e10", "to": "1e12", "points": 5}, key="x")
    assert values == [1e10, 3.16e10, 1e11, 3.16e11, 1e12]
    assert spread_values(["40M", 3], key="x") == ["40M", 3]  # a list stays as it was written


def test_isoflop_sizes_reach_the_window_at_every_budget():
    points = isoflop_points(
        {"budgets": [1e10, "1e12"], "sizes": 5, "window": 4, "tokens_per_param": [20, 40]}
    )
    assert len(points) == 10
    for budget, ratio in ((1e10, 20), ("1e12", 40)):
        own = [p["budget.tokens_per_param"] for p in points if p["budget.flops"] == budget]
        sizes = [math.sqrt(float(budget) / (6 * r)) for r in own]  # C = 6 N D = 6 r N^2
        middle = math.sqrt(float(budget) / (6 * ratio))
        # ratios are rounded to three digits, so sizes to 0.25 %
        assert sizes == pytest.approx([middle * 4**x for x in (-1, -0.5, 0, 0.5, 1)], rel=3e-3)


def test_ladder_holds_the_ratio_at_every_size():
    points = ladder_points({"sizes": ["1M", "2M"], "tokens_per_param": [20, 100]})
    assert points == [
        {"model.params": n, "budget.tokens_per_param": r} for r in (20, 100) for n in ("1M", "2M")
    ]


def test_repeats_see_each_text_as_often_as_asked():
    points = repeat_points({"unique_tokens": ["1M", 4e6], "epochs": [1, 16]})
    assert [p["budget.tokens"] for p in points] == [1e6, 16e6, 4e6, 64e6]
    assert [p["data.unique_tokens"] for p in points] == ["1M", "1M", 4e6, 4e6]


@pytest.mark.parametrize(
    ("name", "design", "said"),
    [
        ("isoflop", {"budget": [1e10]}, "design.isoflop.budget: no such key. Did you mean"),
        ("isoflop", {"sizes": 5}, "design.isoflop.budgets needs a list"),
        ("isoflop", {"budgets": [1e10], "window": 1}, "design.isoflop.window: 1 leaves one size"),
        (
            "isoflop",
            {"budgets": [1e10], "sizes": "7"},
            "design.isoflop.sizes: needs a whole number",
        ),
        ("isoflop", {"budgets": [1e10], "tokens_per_param": [1, 2]}, "2 values for 1 budgets"),
        ("isoflop", {"budgets": {"from": 1e12, "to": 1e10, "points": 3}}, "spread from .* to"),
        ("isoflop", {"budgets": [1e10], "tokens_per_param": 0}, "must be above 0"),
        ("ladder", {"sizes": []}, "design.ladder.sizes needs a list"),
        ("repeats", {"unique_tokens": ["1M"]}, "design.repeats.epochs needs a list"),
    ],
)
def test_design_that_makes_no_points_is_refused_by_its_key(name, design, said):
    with pytest.raises(ConfigError, match=said):
        make_points(name, design)


@pytest.mark.slow
def test_repeated_text_is_trained_and_fitted_by_its_law(tmp_path, monkeypatch, capsys):
    """The sweep file itself in small: text seen as often as designed, and a fit that reads it."""
    monkeypatch.chdir(tmp_path)
    small = [
        "design.repeats.unique_tokens=[8k,32k]",
        "design.repeats.epochs=[1,4,16]",
        "model.params=1.5k,3k",
    ]
    quick = ["data.val_tokens=8192", "train.evals=1", "hydra.launcher.n_jobs=1"]
    assert main(["train", "data_constrained", *small, *quick]) == 0
    runs = load("results/data_constrained")
    assert len(runs) == 12
    # whole steps round D by up to half of one in 60
    assert sorted({round(e) for e in runs.column("epochs")}) == [1, 4, 16]
    assert {int(u) for u in runs.column("unique_tokens")} == {8000, 32000}
    capsys.readouterr()
    assert main(["fit", "data_constrained", "law=data_repeats"]) == 0
    assert "R_D" in capsys.readouterr().out
    assert (
        main(
            [
                "plan",
                "data_constrained",
                "calibrate=false",
                *small,
                "simulate.law=results/data_constrained/fit.json",
                "simulate.studies=10",
            ]
        )
        == 0
    )
    assert "the fit to 12 runs" in capsys.readouterr().out
