"""Encoders and encoder-decoders: counts, FLOPs, what each position sees, training to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from small_run import numbers, preset, small_plan
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scaling.study.objective import IGNORE
from scaling.training.calibrate import _gather, _random_tokens
from scaling.training.checkpoint import read_weights
from scaling.training.kernels import attend_matmul, attend_reference
from scaling.training.model import build_model
from scaling.training.trainer import train

GPT2_PARTS = {
    "model.position": "learned", "model.norm": "layernorm", "model.bias": True,
    "model.tied": True, "model.activation": "gelu",
}  # fmt: skip
BERT_PARTS, T5_PARTS = (preset(name) for name in ("bert", "t5"))
KINDS = {
    "encoder": {"model.kind": "encoder"},
    "pairs": {"model.kind": "encoder", "objective.next_sentence": True},
    "encoder_decoder": {"model.kind": "encoder_decoder"},
    "shallow encoder": {"model.kind": "encoder_decoder", "model.encoder_layers": 1, **GPT2_PARTS},
    "grouped": {"model.kind": "encoder_decoder", "model.kv_heads": 1},
    "gpt2 parts": {"model.kind": "encoder", **GPT2_PARTS},
    "bert parts": BERT_PARTS,
    "bert parts and pairs": {**BERT_PARTS, "objective.next_sentence": True},
    "t5 parts": T5_PARTS,
    "t5 1.1 parts": {**T5_PARTS, "model.activation": "geglu", "model.tied": False, "model.scale_head": False},
    "post-norm writer": {"model.kind": "encoder_decoder", "model.norm_at": "post", "model.embedding_norm": True, "model.activation": "gelu_exact"},
    "post-norm decoder": {"model.norm_at": "post", "model.position": "relative", "model.head_transform": True},
}  # fmt: skip


def _model(plan, *, attention="sdpa"):
    return build_model(plan.shape, attention=attention).init_weights(0)


def _batch(plan, rows=3):
    pair = _gather(_random_tokens(plan.shape, rows), rows, plan.shape)
    return tuple(torch.as_tensor(part.copy()) for part in pair)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_counted_exactly(tmp_path, kind):
    plan = small_plan(tmp_path, **KINDS[kind])
    assert sum(p.numel() for p in _model(plan).parameters()) == plan.counts.total


@pytest.mark.parametrize("kind", KINDS)
def test_flops_equal_a_flop_counter(tmp_path, kind):
    plan = small_plan(tmp_path, **KINDS[kind])
    inputs, targets = _batch(plan)
    # torch's fused kernel for the CPU is not known to its counter; its plain form is products
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        _model(plan)(inputs, targets).backward()
    words = len(inputs) * plan.shape.context
    assert counter.get_total_flops() == pytest.approx(plan.flops.counted * words, rel=1e-12)


def test_sizes_are_met_for_every_kind(tmp_path):
    for kind in ("encoder", "encoder_decoder"):
        sized = {"model.kind": kind, "model.params": 50_000, "model.layers": None, "model.width": None}  # fmt: skip
        assert small_plan(tmp_path, **sized).params == pytest.approx(50_000, rel=0.01)


@pytest.mark.parametrize("kernel", ["sdpa", "matmul", "native"])
def test_an_encoder_sees_both_ways_and_a_decoder_one(tmp_path, kernel):
    inputs = torch.randint(32, (1, 32), generator=torch.Generator().manual_seed(0))
    other = inputs.clone()
    other[0, 20] = (other[0, 20] + 1) % 32
    for kind, reaches in (("decoder", False), ("encoder", True)):
        model = _model(small_plan(tmp_path, **{"model.kind": kind}), attention=kernel).eval()
        with torch.no_grad():
            moved = (model(inputs) - model(other)).abs().amax(-1)[0]
        assert bool(moved[:20].amax() > 0) is reaches
        assert moved[20] > 0


def test_a_written_token_sees_the_source_and_what_was_written_before(tmp_path):
    plan = small_plan(tmp_path, **{"model.kind": "encoder_decoder"})
    model, (inputs, _) = _model(plan).eval(), _batch(plan, rows=1)
    source = plan.shape.source

    def change(position):
        other = inputs.clone()
        other[0, position] = (other[0, position] + 1) % 32
        with torch.no_grad():
            return (model(inputs) - model(other)).abs().amax(-1)[0] > 0

    assert change(source - 1).all()
    written = change(source + 2)
    assert not written[:2].any() and written[2:].all()


@pytest.mark.parametrize("kind", KINDS)
def test_losses_one_by_one_have_the_mean_loss(tmp_path, kind):
    plan = small_plan(tmp_path, **KINDS[kind])
    model, (inputs, targets) = _model(plan).eval(), _batch(plan)
    with torch.no_grad():
        each, mean = model(inputs, targets, reduction="none"), model(inputs, targets)
        if plan.shape.pairs:
            judged = model.judge(model.read(inputs)).float()
            mean = mean - torch.nn.functional.cross_entropy(judged, targets[:, 0])
            targets[:, 0] = IGNORE
    counted = targets != IGNORE
    assert each.shape == targets.shape and (each[~counted] == 0).all()
    # float32 sums of about 20 numbers of order 3
    assert each[counted].mean().item() == pytest.approx(mean.item(), abs=1e-5)


@pytest.mark.slow
def test_an_encoder_learns_a_code_that_needs_both_sides(tmp_path):
    """Tokens of a Markov chain: the neighbour on the right says as much again as that on the left."""
    wide = {"model.width": 32, "model.heads": 4, "optim.batch_tokens": 1024, "data.size": 1_000_000}
    plain = {"model.kind": "encoder", "objective.masking": "plain"}
    both = train(small_plan(tmp_path, **wide, **plain, **{"budget.tokens": 600_000}))
    left = train(small_plan(tmp_path, **wide, **{"budget.tokens": 200_000}))
    assert both.objective == "masked" and both.val_perplexity is None
    assert both.val_pseudo_perplexity == pytest.approx(math.exp(both.val_loss))
    # seen: 2.7 against 2.91, which is what the true chain has from one side alone (2.90)
    assert both.val_loss < left.true_loss - 0.1


@pytest.mark.parametrize("kind", ["pairs", "encoder_decoder"])
def test_an_interrupted_run_goes_on_to_the_bit(tmp_path, kind, monkeypatch):
    plan = small_plan(tmp_path / "whole", **KINDS[kind])
    whole = train(plan)
    cut = small_plan(tmp_path / "cut", **KINDS[kind], **{"train.checkpoint_seconds": 0.001})

    class Stop(Exception):
        pass

    def stop(progress):
        if progress["step"] >= 30:
            raise Stop

    with pytest.raises(Stop):
        train(cut, on_progress=stop)
    resumed = train(cut)
    assert resumed.resumes == 1 and resumed.val_loss == whole.val_loss
    assert numbers(cut.folder) == numbers(plan.folder)
    first, second = read_weights(plan.folder), read_weights(cut.folder)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_attention_is_the_equation():
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 7, 8, generator=draw, dtype=torch.float64) for _ in range(3))
    for causal in (False, True):
        expected = attend_reference(q, k, v, causal=causal)
        fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        mask = torch.zeros(7, 7, dtype=torch.float64)
        mask = mask + torch.full((7, 7), -math.inf, dtype=torch.float64).triu(1) * causal if causal else mask  # fmt: skip
        plain = attend_matmul(q, k, v, mask)
        # rounding of float64 sums of a dozen numbers of order 1
        assert (fused - expected).abs().max() < 1e-14
        assert (plain - expected).abs().max() < 1e-14
