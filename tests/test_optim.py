"""Schedules, AdamW's groups, clipping."""

from __future__ import annotations

import math

import pytest
import torch

from scaling.study.config import ModelConfig, OptimConfig
from scaling.study.shape import resolve_shape
from scaling.training.model import Transformer
from scaling.training.optim import Schedule, build_optimizer, clip_gradients


def test_wsd_warms_up_holds_and_cools_down():
    schedule = Schedule("wsd", lr=1.0, steps=100, warmup_steps=10, cooldown_steps=20)
    assert [schedule.lr_at(s) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert {schedule.lr_at(s) for s in range(10, 81)} == {1.0}
    # Hägele et al. 2024: 1 - sqrt(share of the cooldown)
    assert schedule.lr_at(85) == pytest.approx(1 - math.sqrt(5 / 20))
    assert schedule.lr_at(100) == pytest.approx(0.0)
    assert all(schedule.lr_at(s) > schedule.lr_at(s + 1) for s in range(80, 100))


def test_linear_cooldown_ends_at_the_final_rate():
    schedule = Schedule(
        "wsd",
        lr=1.0,
        steps=100,
        warmup_steps=0,
        cooldown_steps=50,
        cooldown_shape="linear",
        final_lr=0.1,
    )
    assert schedule.lr_at(0) == 1.0
    assert schedule.lr_at(75) == pytest.approx(0.55)
    assert schedule.lr_at(100) == pytest.approx(0.1)


def test_cosine_ends_at_the_budget():
    schedule = Schedule("cosine", lr=2.0, steps=110, warmup_steps=10, final_lr=0.2)
    assert schedule.lr_at(10) == pytest.approx(2.0)
    assert schedule.lr_at(60) == pytest.approx(1.1)
    assert schedule.lr_at(110) == pytest.approx(0.2)


def test_constant_stays_after_warmup():
    schedule = Schedule("constant", lr=0.3, steps=50, warmup_steps=5)
    assert {schedule.lr_at(s) for s in range(5, 50)} == {0.3}


@pytest.mark.parametrize("tied", [False, True])
def test_decay_is_on_matrices_only(tied):
    shape = resolve_shape(
        ModelConfig(layers=2, width=16, heads=2, context=8, bias=True, norm="layernorm", position="learned", tied=tied), vocab=32
    )  # fmt: skip
    model = Transformer(shape)
    optimizer = build_optimizer(model, OptimConfig(), lr=1e-3, weight_decay=0.1)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    names = {n for n, p in model.named_parameters() if id(p) in decayed}
    expected = {
        f"blocks.{i}.{part}.weight"
        for i in (0, 1)
        for part in ("attention.qkv", "attention.out", "ffn.gate", "ffn.up", "ffn.down")
    }
    assert names == expected | (set() if tied else {"head.weight"})
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


@pytest.mark.parametrize("max_norm", [0.5, 100.0, 0.0])
def test_clip_matches_the_reference(max_norm):
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.zeros(n)) for n in (3, 7)]
    theirs = [torch.nn.Parameter(torch.zeros(n)) for n in (3, 7)]
    for a, b in zip(ours, theirs, strict=True):
        a.grad = torch.randn(a.shape, generator=generator)
        b.grad = a.grad.clone()
    norm = clip_gradients(ours, max_norm)
    reference = torch.nn.utils.clip_grad_norm_(theirs, max_norm or math.inf)
    torch.testing.assert_close(norm, reference)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
