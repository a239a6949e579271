"""When a run is compiled, and that compiled steps give the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.study.config import ModelConfig, OptimConfig, RunConfig, TrainConfig
from scaling.study.errors import ConfigError
from scaling.study.shape import resolve_shape
from scaling.training.compiling import is_launch_bound, repays_compiling
from scaling.training.device import choose_engine
from scaling.training.learner import Learner


def shape_of(layers: int, width: int):
    return resolve_shape(ModelConfig(layers=layers, width=width, context=256), vocab=256)


def test_compiling_repays_itself_from_some_length_on():
    small, large = shape_of(2, 64), shape_of(12, 768)
    for device in ("cpu", "cuda"):
        assert not repays_compiling(small, tokens=1e5, device=device)
        assert repays_compiling(large, tokens=1e11, device=device)
    # at 20 tokens per parameter a model of 0.1M is done before a compiler would be
    assert not repays_compiling(small, tokens=2e6, device="cpu")
    assert not repays_compiling(large, tokens=1e11, device="mps")


def test_launches_dominate_small_passes_only():
    assert is_launch_bound(shape_of(4, 128), tokens=4096)
    assert not is_launch_bound(shape_of(24, 2048), tokens=65_536)


def test_engine_compiles_where_it_is_asked_or_repays_itself():
    shape = shape_of(2, 64)

    def engine(tokens, **train):
        return choose_engine(
            shape, batch_seqs=2, train=TrainConfig(device="cpu", **train), tokens=tokens
        )

    assert engine(1e3, compile=True).compile and not engine(1e12, compile=False).compile
    assert not engine(1e3, attention="sdpa").compile
    assert engine(1e12, attention="sdpa").compile
    # kernels that are compiled already need no compiler
    asked = engine(1e12)
    assert asked.compile == (asked.attention != "native")


def test_compile_is_true_false_or_auto():
    for value in (True, False, "auto"):
        given = RunConfig.from_dict({"train": {"compile": value}, "model": {"params": 1e6}})
        assert given.train.compile == value
    with pytest.raises(ConfigError, match=r"train\.compile"):
        RunConfig.from_dict({"train": {"compile": "often"}, "model": {"params": 1e6}})


@pytest.mark.slow
def test_compiled_steps_learn_as_plain_ones_do():
    shape = resolve_shape(ModelConfig(layers=1, width=32, heads=2, context=16), vocab=61)
    tokens = np.random.default_rng(0).integers(61, size=(1, 4, 17))
    found = []
    for compiled in (False, True):
        train = TrainConfig(device="cpu", compile=compiled, precision="float32", attention="matmul")
        engine = choose_engine(shape, batch_seqs=4, train=train)
        learner = Learner(shape, engine, optim=OptimConfig(), lr=1e-2, weight_decay=0.1, seed=0)
        for _ in range(3):
            loss, norm = learner.learn(tokens[..., :-1], tokens[..., 1:], lr=[1e-2])
        found.append((float(loss), float(norm)))
    # float32 in another order, three steps on
    assert found[0] == pytest.approx(found[1], rel=1e-4)
