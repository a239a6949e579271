"""Parametrisations: the published table, the base shape, and activations that move alike at every size."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from small_run import small_plan

from scaling.study.config import ModelConfig, OptimConfig, RunConfig
from scaling.study.parametrization import Parametrization, with_attention_scale
from scaling.study.plan import make_plan
from scaling.study.shape import resolve_shape
from scaling.training.coordinates import PARTS, coordinate_check
from scaling.training.huggingface import from_hub, to_hub
from scaling.training.model import Transformer
from scaling.training.optim import build_optimizer, set_lr
from scaling.training.trainer import train

FULL = ModelConfig(
    layers=4, width=32, heads=4, context=8, norm="layernorm", bias=True, position="learned"
)


@pytest.mark.parametrize("name", ["mup", "completep"])
def test_base_shape_is_the_standard_run_to_the_bit(tmp_path, name):
    base = {"optim.parametrization": name, "optim.base_width": 16, "optim.base_depth": 2}
    standard = train(small_plan(tmp_path))
    other = train(small_plan(tmp_path, **base))
    assert other.val_loss == standard.val_loss
    assert other.run_id != standard.run_id
    assert (standard.parametrization, other.parametrization) == ("standard", name)


def multiplier_form(model, optim, parametrization, lr):
    """The same training as the papers write it: multipliers in the forward pass, weights divided.

    Factors are those of Dey et al. 2025, table 1, alpha = 1 (its epsilon of the blocks, taken for
    tables, last norm and head as well, as its authors' code does without the depth).
    """
    m, l = parametrization.width, parametrization.depth  # noqa: E741
    groups = []
    for name, parameter in model.named_parameters():
        hidden = name.startswith("blocks.") and parameter.dim() == 2
        multiplier = 1.0
        if "attention.out" in name or "ffn.down" in name:
            multiplier = 1 / l
        if name == "head.weight":
            multiplier = 1 / m
        with torch.no_grad():
            parameter.div_(multiplier)
        depth = l if name.startswith("blocks.") else 1.0
        groups.append({
            "params": [parameter],
            "lr": lr / m if hidden else lr,
            "weight_decay": 0.1 * m if hidden else 0.1 if name == "head.weight" else 0.0,
            "eps": optim.eps / (m * depth),
        })  # fmt: skip
    for block in model.blocks:
        for module in (block.attention.out, block.ffn.down):
            module.register_forward_hook(lambda *a: a[-1] / l)
    model.head.register_forward_hook(lambda *a: a[-1] / m)
    return torch.optim.AdamW(groups, betas=(optim.beta1, optim.beta2))


@pytest.mark.parametrize("name", ["mup", "completep"])
def test_folded_factors_train_as_the_published_multipliers(name):
    # a large epsilon, so that its factor is seen as well
    optim = OptimConfig(parametrization=name, base_width=8, base_depth=2, eps=1e-3)
    shape = resolve_shape(FULL, vocab=16)
    parametrization = Parametrization.of(optim, shape)
    models = [Transformer(shape).init_weights(0, parametrization).double() for _ in range(2)]
    folded = build_optimizer(
        models[0], optim, lr=0.01, weight_decay=0.1, parametrization=parametrization
    )
    published = multiplier_form(models[1], optim, parametrization, 0.01)
    tokens = torch.randint(16, (4, 9), generator=torch.Generator().manual_seed(0))
    losses = []
    for model, optimizer in zip(models, (folded, published), strict=True):
        losses.append([])
        for _ in range(10):
            loss = model(tokens[:, :-1], tokens[:, 1:])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[-1].append(loss.item())
    assert losses[0][-1] < losses[0][0] - 0.5  # ten steps do learn
    # float64 and the same mathematics; the loss itself is in float32 (1e-7)
    assert losses[0] == pytest.approx(losses[1], abs=2e-6)


def test_initial_sizes_are_those_of_the_table():
    optim = OptimConfig(parametrization="completep", base_width=64, base_depth=2)
    stds = {}
    for width, layers in ((64, 2), (256, 8)):
        shape = resolve_shape(ModelConfig(width=width, layers=layers, heads=4), vocab=256)
        model = Transformer(shape).init_weights(0, Parametrization.of(optim, shape))
        block = model.blocks[-1]
        stds[width] = [
            w.weight.std().item()
            for w in (model.embedding, block.attention.qkv, block.ffn.down, model.head)
        ]
    ratio = [b / a for a, b in zip(stds[64], stds[256], strict=True)]
    # m = 4, l = 4: tables 1, hidden 1/sqrt(m), writers 1/sqrt(m) with multiplier 1/l, head 1 with
    # multiplier 1/m; times sampling error of 16,384 normal numbers (0.6 %)
    assert ratio == pytest.approx([1, 1 / 2, 1 / 8, 1 / 4], rel=0.03)


def test_attention_scale_follows_the_head_size_not_its_root():
    optim = OptimConfig(parametrization="mup", base_width=64)
    few, many = (ModelConfig(width=256, layers=2, heads=h) for h in (2, 8))
    shapes = [
        with_attention_scale(resolve_shape(m, vocab=16), optim=optim, model=m) for m in (few, many)
    ]
    # 2 heads: of 32 channels at the base, of 128 here; 8 heads: 8 and 32
    assert shapes[0].attention_scale == pytest.approx(math.sqrt(32) / 128)
    assert shapes[1].attention_scale == pytest.approx(math.sqrt(8) / 32)
    same = with_attention_scale(shapes[0], optim=OptimConfig(), model=few)
    assert same is shapes[0]


@pytest.mark.parametrize("kernel", ["matmul", "sdpa"])
def test_attention_scale_is_used(kernel):
    shape = resolve_shape(ModelConfig(width=16, layers=1, heads=2, context=8), vocab=16)
    x = torch.randint(16, (2, 8), generator=torch.Generator().manual_seed(0))
    usual, twice = (dataclasses.replace(shape, attention_scale=s) for s in (None, 2 / math.sqrt(8)))
    logits = []
    for s, factor in ((usual, 2.0), (twice, 1.0)):
        model = Transformer(s, attention=kernel).init_weights(0)
        with torch.no_grad():
            model.blocks[0].attention.qkv.weight[:16].mul_(factor)  # the queries' rows
        logits.append(model(x))
    torch.testing.assert_close(*logits)


# Bounds of the growth exponents below: flat is within 0.3 (measured at most 0.2 in blocks: sizes are
# finite and the fresh part of a change falls as 1/sqrt(width)), growing is above 0.4 (theory: 1 for
# Adam and 0.5 for Muon with width; measured 0.75 to 1.0 and 0.45 to 0.75).
FLAT, GROWS = 0.3, 0.4


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_changes_are_flat_in_width_under_mup_and_grow_under_standard(optimizer):
    checks = {
        p: coordinate_check(OptimConfig(name=optimizer, parametrization=p), seeds=1)
        for p in ("standard", "mup")
    }
    for part in ("embedding", "half way", "last block"):
        assert abs(checks["mup"].growth(part)) < FLAT
    # the fresh head adds a part that falls as 1/sqrt(width)
    assert -0.5 < checks["mup"].growth("logits") < 0.1
    for part in ("half way", "last block", "logits"):
        assert checks["standard"].growth(part) > GROWS


def test_changes_are_flat_in_depth_under_completep_and_grow_under_mup():
    checks = {
        p: coordinate_check(
            OptimConfig(parametrization=p), widths=(64,), depths=(2, 4, 8, 16), seeds=1
        )
        for p in ("mup", "completep")
    }
    for part in PARTS:
        assert abs(checks["completep"].growth(part)) < FLAT
    for part in ("half way", "last block", "logits"):
        assert checks["mup"].growth(part) > GROWS


@pytest.mark.parametrize("parts", [
    {"tied": True},
    {"norm": "layernorm", "bias": True, "position": "learned", "activation": "gelu"},
    {"qk_norm": "head", "heads": 4},
])  # fmt: skip
def test_changes_are_flat_for_every_part(parts):
    model = ModelConfig(context=32, **parts)
    check = coordinate_check(OptimConfig(parametrization="mup"), model=model, seeds=1)
    for part in ("embedding", "half way", "last block"):
        assert abs(check.growth(part)) < FLAT


def test_coordinate_check_shows_a_table():
    check = coordinate_check(widths=(16, 32), seeds=1, steps=1)
    text = check.table().text()
    assert "growth" in text and "mup" in text and "16" in text
    assert "half way" in repr(check)


def test_one_rate_serves_all_sizes_by_rule():
    def lr(params, **optim):
        return make_plan(RunConfig.from_dict({"model": {"params": params}, "optim": optim})).lr

    assert lr("30k") != lr("1M")
    assert lr("30k", parametrization="mup") == lr("1M", parametrization="mup")
    # at the base size the rule means the same in both: 2 layers of 64 have 98k parameters
    assert lr("98k", parametrization="mup") == pytest.approx(lr("98k"), rel=0.01)


def test_set_lr_keeps_the_factors():
    shape = resolve_shape(FULL, vocab=16)
    optim = OptimConfig(parametrization="mup", base_width=8)
    parametrization = Parametrization.of(optim, shape)
    model = Transformer(shape).init_weights(0, parametrization)
    optimizer = build_optimizer(
        model, optim, lr=0.01, weight_decay=0.1, parametrization=parametrization
    )
    set_lr(optimizer, 0.004)
    assert sorted({g["lr"] for g in optimizer.param_groups}) == pytest.approx([0.001, 0.004])
    products = [g["lr"] * g["weight_decay"] for g in optimizer.param_groups if g["weight_decay"]]
    assert products == pytest.approx([0.0004] * len(products))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_exported_weights_need_no_scale(family):
    parts = {"norm": "layernorm", "position": "learned", "activation": "gelu", "bias": True}
    model = ModelConfig(
        width=32, layers=2, heads=2, context=8, **(parts if family == "gpt2" else {})
    )
    plain = resolve_shape(model, vocab=16)
    scaled = dataclasses.replace(plain, attention_scale=0.4)
    ours, theirs = Transformer(scaled).init_weights(0), Transformer(plain)
    if family == "gpt2":
        torch.nn.init.normal_(ours.blocks[0].attention.qkv.bias)
    there = to_hub({n: p.detach() for n, p in ours.named_parameters()}, scaled)
    theirs.load_state_dict(from_hub(there, plain), strict=False)
    tokens = torch.randint(16, (2, 8), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(theirs(tokens), ours(tokens))
