"""Schedules, AdamW's groups, clipping."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch
from small_run import small_plan

from scaling.study.config import ModelConfig, OptimConfig
from scaling.study.errors import ConfigError
from scaling.study.record import read_metrics
from scaling.study.shape import resolve_shape
from scaling.training.model import Transformer
from scaling.training.optim import Schedule, build_optimizer, clip_gradients
from scaling.training.trainer import train


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


def test_warmup_shrinks_with_the_budget(tmp_path):
    plans = [small_plan(tmp_path, **{"budget.tokens": 256 * steps}) for steps in (40, 200)]
    assert [plan.warmup_steps for plan in plans] == [2, 10]  # 5 % of each
    for plan in plans:
        schedule = Schedule.from_plan(plan)
        rates = [schedule.lr_at(s) for s in range(plan.steps)]
        assert rates[plan.warmup_steps - 1] == plan.lr  # the peak is reached
        assert rates[plan.warmup_steps - 2] < plan.lr
        # the last step is short of zero by one step of the cooldown, whatever the budget
        assert 0 < rates[-1] < rates[-2] < plan.lr


def muon_model():
    shape = resolve_shape(ModelConfig(layers=2, width=16, heads=2, context=8, bias=True), vocab=32)
    return Transformer(shape).init_weights(0)


def test_muon_trains_matrices_in_blocks_and_adamw_the_rest():
    model = muon_model()
    optimizer = build_optimizer(model, OptimConfig(name="muon"), lr=0.01, weight_decay=0.1)
    muon, adamw = optimizer.parts
    names = {id(p): n for n, p in model.named_parameters()}
    by_muon = {names[id(p)] for g in muon.param_groups for p in g["params"]}
    assert by_muon == {
        f"blocks.{i}.{part}.weight"
        for i in (0, 1)
        for part in ("attention.qkv", "attention.out", "ffn.gate", "ffn.up", "ffn.down")
    }
    rest = {names[id(p)] for g in adamw.param_groups for p in g["params"]}
    assert by_muon | rest == set(names.values()) and not by_muon & rest
    assert {names[id(p)] for g in adamw.param_groups if g["weight_decay"] for p in g["params"]} == {
        "head.weight"
    }


def test_muon_steps_like_torchs_own_with_entries_of_adams_size():
    ours, theirs = muon_model(), muon_model()
    tokens = torch.randint(32, (8, 9), generator=torch.Generator().manual_seed(0))
    optimizer = build_optimizer(ours, OptimConfig(name="muon"), lr=0.01, weight_decay=0.0)
    matrices = [p for n, p in theirs.named_parameters() if n.startswith("blocks.") and p.dim() == 2]
    reference = torch.optim.Muon(
        matrices, lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    for model in (ours, theirs):
        model(tokens[:, :-1], tokens[:, 1:]).backward()
    before = [p.detach().clone() for p in matrices]
    optimizer.step()
    reference.step()
    trained = dict(ours.named_parameters())
    for (name, p), old in zip(
        ((n, p) for n, p in theirs.named_parameters() if n.startswith("blocks.") and p.dim() == 2),
        before,
        strict=True,
    ):
        assert torch.equal(trained[name], p)
        size = (p - old).square().mean().sqrt().item() / 0.01
        # 0.2 for a square matrix whose singular values are all 1; a narrow one has fewer of them,
        # and five Newton-Schulz iterations leave them between about 0.5 and 1.2
        assert 0.08 < size < 0.26


def test_muon_resumes_to_the_bit(tmp_path):
    keys = {"optim.name": "muon", "optim.parametrization": "completep", "optim.base_width": 8}
    straight, stopped = (small_plan(tmp_path / n, **keys) for n in ("straight", "stopped"))
    record = train(straight)

    def stop(progress):
        if progress["step"] == 30:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        train(stopped, on_progress=stop)
    assert train(stopped).val_loss == record.val_loss
    rows = [
        [row["train_loss"] for row in read_metrics(plan.folder) if "train_loss" in row]
        for plan in (straight, stopped)
    ]
    assert rows[0] == rows[1]


def test_muon_without_torchs_muon_says_what_to_do(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ConfigError, match="muon needs torch 2.9"):
        build_optimizer(muon_model(), OptimConfig(name="muon"), lr=0.01, weight_decay=0.1)
