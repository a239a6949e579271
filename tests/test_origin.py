"""Weights named by the sweep that trained them: which run is meant, and what is said where none or several are."""

from __future__ import annotations

import pytest
from small_run import small_plan

from scaling.study.errors import ConfigError
from scaling.training.trainer import train_together

OPEN = {"model.layers": None, "model.width": None, "model.heads": None}
SHORT = {"budget.tokens": 512, "train.evals": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep of two sizes and two seeds, and one with another budget; and a sweep without weights."""
    folder = tmp_path_factory.mktemp("果 树")
    runs = [
        {"model.layers": 1},
        {"model.layers": 1, "seed": 1},
        {"model.layers": 2},
        {"model.layers": 2, "budget.tokens": 1024},
    ]
    plans = [small_plan(folder, **(SHORT | {"sweep": "before"} | run)) for run in runs]
    plans.append(small_plan(folder, **SHORT, **{"sweep": "bare", "train.keep_checkpoint": False}))
    train_together(plans)
    return folder


def after(folder, **changes):
    """Plan a run that starts from the sweep `before`."""
    return small_plan(folder, **(SHORT | {"model.init_from": "sweep:before"} | changes))


def test_run_of_the_same_shape_and_seed_is_meant(folder):
    for seed in (0, 1):
        plan = after(folder, **{"model.layers": 1, "seed": seed})
        assert plan.source.shape.layers == plan.shape.layers == 1
        assert plan.source.name.split("-")[3] == f"s{seed}"
        # the run itself is named in what is kept: the sweep may have others tomorrow
        assert plan.config.model.init_from == plan.source.name


def test_tokens_tell_runs_of_one_shape_apart(folder):
    plans = [after(folder, **{"model.init_from": f"sweep:before@{n}"}) for n in ("512", "1.024k")]
    assert [plan.source.trained for plan in plans] == [512, 1024]
    assert plans[0].hash != plans[1].hash


def test_size_finds_its_run_whatever_the_run_names_besides(folder):
    target = small_plan(folder, **{"model.layers": 1}).counts.non_embedding
    asked = {**OPEN, "model.params": target, "model.width": 16, "model.heads": 2, "model.layers": 1}
    assert after(folder, **asked).source.shape.layers == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.layers": 2}, r"2 runs of .*before fit, among them .* and .*Name the tokens, model.init_from=sweep:before@2M"),
        (OPEN, "4 runs of .*before fit|3 runs of .*before fit"),
        ({"model.layers": 3}, "no finished run of .*before has the shape asked for. It has sizes"),
        ({"model.layers": 1, "model.activation": "gelu", "model.ffn": 43}, "has the shape asked for"),
        ({"model.layers": 2, "model.init_from": "sweep:before@9M"}, "so many training tokens. There are 1.02k, 512"),
        ({"model.init_from": "sweep:"}, "names no sweep"),
        ({"model.init_from": "sweep:bare"}, "has no finished run with weights. Train it first: scaling train bare"),
        ({"model.init_from": "sweep:没有"}, "Train it first: scaling train 没有"),
        ({"model.init_from": "sweep:before@many"}, "model.init_from: tokens"),
    ],
)  # fmt: skip
def test_what_does_not_name_one_run_is_refused_with_what_there_is(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        after(folder, **changes)
