"""Parameter counts are published numbers; a shape hits its target."""

import math

import pytest

from scaling.study.config import ModelConfig
from scaling.study.errors import ConfigError
from scaling.study.flops import flops_per_token
from scaling.study.shape import ModelShape, count_params, resolve_shape

GPT2 = {
    "norm": "layernorm",
    "position": "learned",
    "activation": "gelu",
    "tied": True,
    "bias": True,
}
SWITCHES = {"llama": {}, "gpt2": GPT2}


def gpt2(layers, width, heads, vocab=50257, context=1024, **changes):
    return ModelShape(
        layers,
        width,
        heads,
        heads,
        width // heads,
        4 * width,
        vocab,
        context,
        **{**GPT2, **changes},
    )


def llama(layers, width, heads, kv_heads, ffn, vocab):
    return ModelShape(layers, width, heads, kv_heads, width // heads, ffn, vocab, 4096)


# Totals computed from the published configurations (exact integers; the names are the papers').
@pytest.mark.parametrize(
    ("shape", "total"),
    [
        (gpt2(12, 768, 12), 124_439_808),  # GPT-2 small
        (gpt2(24, 1024, 16), 354_823_168),  # medium
        (gpt2(36, 1280, 20), 774_030_080),  # large
        (gpt2(48, 1600, 25), 1_557_611_200),  # XL
        (gpt2(96, 12288, 96, context=2048), 174_604_259_328),  # GPT-3
        (llama(32, 4096, 32, 32, 11008, 32000), 6_738_415_616),  # Llama-2 7B
        (llama(40, 5120, 40, 40, 13824, 32000), 13_015_864_320),  # Llama-2 13B
        (llama(80, 8192, 64, 8, 28672, 32000), 68_976_648_192),  # Llama-2 70B, grouped-query
        (llama(32, 4096, 32, 8, 14336, 128256), 8_030_261_248),  # Llama-3 8B
        (llama(126, 16384, 128, 8, 53248, 128256), 405_853_388_800),  # Llama-3.1 405B
        (
            ModelShape(12, 768, 12, 12, 64, 3072, 100352, 4096, qk_norm="full", tied=True),
            190_354_176,
        ),  # OLMo ladder 190M
        (
            gpt2(32, 4096, 32, vocab=50432, context=2048, position="rotary", tied=False),
            6_857_302_016,
        ),  # Pythia 6.9B
    ],
)
def test_counts_agree_with_published_sizes(shape, total):
    assert count_params(shape).total == total


def test_pythia_non_embedding_count_agrees():
    assert (
        count_params(gpt2(6, 512, 8, vocab=50304, position="rotary", tied=False)).non_embedding
        == 18_915_328
    )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("convention", ["non_embedding", "total"])
def test_shape_hits_any_target_within_one_percent(family, convention):
    for step in range(0, 126):  # 10k to 1B, 25 sizes a decade, off every round number
        target = 1e4 * 10 ** (step / 25)
        model = ModelConfig(params=target, params_convention=convention, **SWITCHES[family])
        shape = resolve_shape(model, vocab=256)
        assert abs(count_params(shape).by(convention) / target - 1) <= 0.01, target
        assert shape.width % shape.heads == 0 and shape.head_size % 2 == 0


def test_proportions_stay_near_nominal_along_the_ladder():
    ratios = [
        s.ffn / s.width
        for s in (
            resolve_shape(ModelConfig(params=1e4 * 10 ** (i / 10)), vocab=256) for i in range(51)
        )
    ]
    assert min(ratios) > 0.75 * 8 / 3 and max(ratios) < 1.33 * 8 / 3


def test_unreachable_target_is_refused_with_the_cure():
    with pytest.raises(
        ConfigError,
        match=r"no shape is within 1 % of 10k total parameters with vocabulary 50257.*params_convention",
    ):
        resolve_shape(ModelConfig(params=1e4, params_convention="total"), vocab=50257)
    with pytest.raises(ConfigError, match="5 heads do not divide width 64"):
        resolve_shape(ModelConfig(layers=2, width=64, heads=5), vocab=256)


def test_palm_flops_per_token_agree():
    # 6 N + 12 L H Q T with N 540.35B, L 118, H 48, Q 256, T 2048 (Chowdhery et al. 2022, appendix B): the attention term
    shape = ModelShape(118, 18432, 48, 1, 256, 73728, 256000, 2048)
    attention = flops_per_token(shape).attention
    assert attention == 12 * 118 * 48 * 256 * 2048
    assert math.isclose(6 * 540.35e9 + attention, 3.2777e12, rel_tol=1e-4)
