"""A plan is what will be run: exact, the same on every machine, and the same for the same run."""

import pytest

from scaling.study.config import RunConfig
from scaling.study.errors import ConfigError
from scaling.study.plan import make_plan


def plan(**groups):
    return make_plan(RunConfig.from_dict(groups))


@pytest.mark.parametrize("flops", ["1e10", "1e14", "1e18", "1e21"])
def test_flops_budget_is_met_in_whole_steps(flops):
    p = plan(model={"params": "1M"}, budget={"flops": flops}, data={"vocab": 256})
    assert p.tokens == p.steps * p.batch_seqs * p.shape.context
    assert p.flops_6nd == pytest.approx(
        float(flops), rel=0.5 / p.steps + 1e-9
    )  # rounding to the nearest step


def test_counted_budget_counts_attention_and_head():
    p = plan(model={"params": "100k"}, budget={"flops": "1e12", "convention": "counted"})
    assert p.flops_counted == pytest.approx(1e12, rel=0.5 / p.steps)
    assert (
        p.flops_counted > 1.3 * p.flops_6nd
    )  # at 100k parameters attention and head are a third or more


@pytest.mark.parametrize("convention", ["6nd", "counted"])
def test_two_budgets_give_the_size(convention):
    p = plan(budget={"flops": "1e12", "tokens_per_param": 20, "convention": convention})
    assert p.tokens / p.params == pytest.approx(20, rel=0.03)  # 1 % of shape, and whole steps
    assert {"6nd": p.flops_6nd, "counted": p.flops_counted}[convention] == pytest.approx(
        1e12, rel=0.01
    )


def test_budget_too_small_for_its_ratio_is_refused():
    # the smallest size, 1.25k parameters, costs 5 times this at 220 tokens each
    with pytest.raises(ConfigError, match="leaves no model of 1250 parameters"):
        plan(budget={"flops": "1e9", "tokens_per_param": 220, "convention": "counted"})


def test_no_budget_means_twenty_tokens_per_parameter():
    p = plan(model={"params": "1M"})
    assert p.tokens / p.params == pytest.approx(20, rel=0.01)


def test_same_run_has_the_same_id_however_it_is_asked_for():
    one = plan(model={"params": "1M"}, budget={"tokens": "20M"})
    s = one.shape
    two = plan(
        model={"layers": s.layers, "width": s.width, "ffn": s.ffn}, budget={"tokens": one.tokens}
    )
    assert one.run_id == two.run_id


def test_execution_does_not_change_the_id_and_numbers_do():
    base = {"model": {"params": "1M"}, "budget": {"tokens": "20M"}}
    same = [
        {"train": {"device": "cpu", "threads": 4, "micro_batch_tokens": 512, "compile": True}},
        {"results": "elsewhere"},
        {"sweep": "other"},
        {"tracker": {"name": "wandb"}},
    ]
    other = [
        {"seed": 1},
        {"optim": {"lr": 1e-3}},
        {"optim": {"beta2": 0.99}},
        {"data": {"source": "ngram"}},
        {"data": {"order_seed": 5}},
        {"train": {"precision": "float32"}},
    ]
    ids = {plan(**base, **change).hash for change in same}
    assert ids == {plan(**base).hash}
    assert len({plan(**base, **change).hash for change in other} | ids) == len(other) + 1


def test_keys_that_nothing_reads_make_no_other_run():
    base = {"model": {"params": "1M"}, "budget": {"tokens": "20M"}}

    def hashes(*optims):
        return len({plan(**base, optim=o).hash for o in optims})

    cosine, constant = {"schedule": "cosine"}, {"schedule": "constant"}
    assert hashes(cosine, {**cosine, "cooldown": 0.3, "cooldown_shape": "linear"}) == 1
    assert hashes(constant, {**constant, "final_lr": 0.1, "cooldown": 0.3}) == 1
    assert hashes({}, {"base_width": 128, "base_depth": 4}) == 1
    # and where they are read, they do
    assert hashes({}, {"cooldown": 0.3}, {"cooldown_shape": "linear"}, {"final_lr": 0.1}) == 4
    assert hashes(cosine, {**cosine, "final_lr": 0.1}) == 2
    mup, completep = ({"parametrization": p, "lr": 0.01} for p in ("mup", "completep"))
    assert hashes(mup, {**mup, "base_depth": 4}) == 1
    assert hashes(mup, {**mup, "base_width": 128}, completep, {**completep, "base_depth": 4}) == 4


def test_setting_hash_forgets_seeds_and_nothing_else():
    base = {"model": {"params": "1M"}, "budget": {"tokens": "20M"}}
    first = plan(**base).setting_hash
    seeds = [{"seed": 1}, {"data": {"order_seed": 5}}, {"seed": 2, "data": {"order_seed": 2}}]
    assert {plan(**base, **s).setting_hash for s in seeds} == {first}
    others = [{"optim": {"clip": 0.5}}, {"data": {"val_tokens": 4096}}, {"model": {"params": "1M", "tied": True}}]  # fmt: skip
    assert len({plan(**{**base, **o}).setting_hash for o in others} | {first}) == 4


def test_batch_larger_than_the_budget_is_refused():
    with pytest.raises(ConfigError, match="a batch of 1e\\+06 tokens is larger than the budget"):
        plan(model={"params": "1M"}, budget={"tokens": "100k"}, optim={"batch_tokens": "1M"})
    with pytest.raises(ConfigError, match="less than one sequence"):
        plan(model={"params": "1M"}, budget={"tokens": 100})
