"""Rules for hyperparameters: published numbers, and what a plan makes of them."""

from __future__ import annotations

import pytest

from scaling.study.config import RunConfig
from scaling.study.errors import ConfigError
from scaling.study.plan import make_plan
from scaling.study.rules import timescale_decay_rule, timescale_rule


def plan(**optim):
    return make_plan(
        RunConfig.from_dict(
            {"model": {"params": "1M"}, "budget": {"tokens": "20M"}, "optim": optim}
        )
    )


def test_timescale_is_the_published_power_law():
    # Bergsma et al. 2025, figure 1: at 1, 20 and 1000 tokens per parameter
    assert [timescale_rule(1e8, 1e8 * m) for m in (1, 20, 1000)] == pytest.approx(
        [1.084, 0.2236, 0.02845], rel=1e-3
    )


def test_timescale_decay_gives_that_timescale():
    decay = timescale_decay_rule(1e6, 2e7, batch_tokens=4096, lr=2e-3)
    steps = 2e7 / 4096
    assert 1 / (2e-3 * decay * steps) == pytest.approx(timescale_rule(1e6, 2e7))
    # for a fixed run, proportional to the batch (their figure 3)
    assert timescale_decay_rule(1e6, 2e7, batch_tokens=8192, lr=2e-3) == pytest.approx(2 * decay)


def test_plan_takes_the_decay_by_name():
    by_rule = plan(weight_decay="timescale")
    share = 1 / (by_rule.lr * by_rule.weight_decay * by_rule.steps)
    # six digits are kept
    assert share == pytest.approx(timescale_rule(by_rule.counts.total, by_rule.tokens), rel=1e-5)
    assert plan().weight_decay == 0.1  # the default stays
    same = plan(weight_decay=by_rule.weight_decay)
    assert same.run_id == by_rule.run_id  # however it is asked for
    assert plan(weight_decay="timescale", lr_scale=2).weight_decay == pytest.approx(
        by_rule.weight_decay / 2, rel=1e-5
    )


def test_unknown_word_for_the_decay_is_refused():
    with pytest.raises(ConfigError, match="optim.weight_decay"):
        plan(weight_decay="timescales")
