"""Published models, built for real on the meta device: parameters and FLOPs are those of the formulas."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scaling.study.counting import FAMILIES, MODELS, count_model
from scaling.study.flops import flops_per_token
from scaling.study.shape import ModelShape, count_params
from scaling.training.model import Transformer

GPT2 = {"norm": "layernorm", "position": "learned", "activation": "gelu", "tied": True, "bias": True}  # fmt: skip
# OPT's position table has two rows more than its context; OLMo's ladder counts a norm over all heads
PARTS = {
    "gpt2": GPT2, "opt": GPT2, "llama": {}, "olmo": {"qk_norm": "full"},
    "pythia": {"norm": "layernorm", "activation": "gelu", "bias": True},
}  # fmt: skip
BUILT = [name for name, (family, _) in MODELS.items() if family in PARTS]


def published_shape(name):
    family, sizes = MODELS[name]
    _, vocab, context = FAMILIES[family]
    s = {"ffn": 4 * sizes["width"], "vocab": vocab, "context": context, **sizes}
    s.setdefault("kv_heads", s["heads"])
    if family == "opt":
        s["context"] += 2
    return ModelShape(**s, head_size=s["width"] // s["heads"], **PARTS[family])


def build(shape):
    with torch.device("meta"):
        return Transformer(shape, attention="matmul")


@pytest.mark.parametrize("name", BUILT)
def test_built_model_has_the_published_parameters(name):
    # the numbers are in test_facts.py with their sources; here the module is built
    built = sum(p.numel() for p in build(published_shape(name)).parameters())
    assert built == count_model(name).total == count_params(published_shape(name)).total


# the larger take seconds each
SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in ("gpt2-xl", "llama2-13b", "llama2-70b")]


@pytest.mark.parametrize(
    "name", ["gpt2-small", "llama3-8b", "pythia-70m", "opt-125m", "olmo-190m", *SLOW]
)
def test_flops_of_a_published_model_equal_a_flop_counter(name):
    # two sequences of 64 tokens through the whole model, forward and backward, without memory
    shape = dataclasses.replace(published_shape(name), context=64)
    model = build(shape)
    tokens = torch.zeros(2, 64, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(tokens, tokens).backward()
    assert counter.get_total_flops() == flops_per_token(shape).counted * tokens.numel()


def test_six_nd_is_what_a_large_model_costs():
    # blocks cost 6 FLOPs per parameter and token. At 70B scores over 4,096 tokens add 12 L d T = 3.22e10
    # to 6N = 4.139e11, 7.78 %, and the token table, 0.38 % of N, is no product: 1.0740 in all
    shape = published_shape("llama2-70b")
    flops, counts = flops_per_token(shape), count_params(shape)
    assert flops.blocks / (6 * counts.non_embedding) == pytest.approx(1, abs=1e-4)
    assert flops.counted / (6 * counts.total) == pytest.approx(1.0740, abs=1e-4)
