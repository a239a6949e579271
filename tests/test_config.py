"""The schema refuses what is wrong and names the key."""

import dataclasses

import pytest

from scaling.study.config import RunConfig, config_keys, config_values
from scaling.study.errors import ConfigError

SIZED = {"params": "1M"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"n_layers": 3}}, r"model.n_layers: no such key. Did you mean 'model.layers'\?"),
        ({"modle": {}}, "modle: no such key"),
        (
            {"model": {"params": "abc"}},
            "model.params: expected a number such as 40M or 1e18; got 'abc'",
        ),
        ({"model": {"params": 0}}, "model.params: must be above 0 parameters; got 0"),
        ({"model": {"layers": 1.5, "width": 8}}, "model.layers: expected a whole number; got 1.5"),
        ({"model": {**SIZED, "tied": "perhaps"}}, "model.tied: expected true or false"),
        (
            {"model": SIZED, "optim": {"schedule": "cosin"}},
            r"'cosin' is none of wsd, cosine, constant. Did you mean 'cosine'\?",
        ),
        (
            {"model": SIZED, "budget": {"tokens": -5}},
            "budget.tokens: must be above 0 tokens; got -5",
        ),
        (
            {"model": SIZED, "budget": {"flops": "1e18", "tokens": "2B"}},
            "budget: set one of tokens, flops, tokens_per_param; got tokens=2e\\+09 and flops=1e\\+18",
        ),
        ({}, "model: no size is given"),
        ({"model": {**SIZED, "layers": 2, "width": 64, "ffn": 128}}, "and a full shape"),
        ({"model": 3}, "model: expected keys below it"),
        ({"model": SIZED, "seed": None}, "seed: null is not allowed"),
    ],
)
def test_config_names_the_wrong_key(values, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_dict(values)


def test_config_survives_a_round_trip():
    config = RunConfig.from_dict(
        {"model": {"params": "40M"}, "budget": {"flops": "1e18"}, "seed": 3}
    )
    assert config.model.params == 40e6
    assert RunConfig.from_dict(config.to_dict()) == config
    assert config.replace(**{"optim.lr": "3e-4"}).optim.lr == 3e-4


def test_every_key_is_documented():
    for key in config_keys():
        assert len(key.text) > 10 and key.text.endswith("."), key.name


def test_config_values_follow_the_keys():
    config = RunConfig.from_dict({"model": SIZED})
    values = {k.name: v for k, v in config_values(config)}
    assert values["model.params"] == 1e6
    assert len(values) == sum(1 for _ in config_keys())
    assert dataclasses.asdict(config)["optim"]["beta1"] == values["optim.beta1"]
