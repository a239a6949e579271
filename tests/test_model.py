"""The Transformer: counts, FLOPs, causality, kernels, learning."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scaling.study.config import ModelConfig
from scaling.study.flops import flops_per_token
from scaling.study.shape import ModelShape, count_params, resolve_shape
from scaling.training.kernels import RmsNorm, attend_matmul
from scaling.training.model import Transformer
from scaling.training.parts import rotate

SWITCHES = {
    "llama": {},
    "gpt2": {
        "norm": "layernorm",
        "position": "learned",
        "activation": "gelu",
        "tied": True,
        "bias": True,
    },
    "grouped": {"kv_heads": 2},
    "one_kv_head": {"kv_heads": 1, "qk_norm": "full"},
    "head_norm": {"qk_norm": "head", "norm": "layernorm"},
    "full_norm": {"qk_norm": "full", "bias": True},
    "sinusoidal": {"position": "sinusoidal", "activation": "relu2", "tied": True},
    "no_position": {"position": "none", "activation": "swiglu", "bias": True, "norm": "layernorm"},
}


def small_shape(**switches) -> ModelShape:
    model = ModelConfig(layers=3, width=48, heads=4, ffn=100, context=16, **switches)
    return resolve_shape(model, vocab=61)


def random_tokens(shape: ModelShape, sequences: int = 2, length: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(shape.vocab, (sequences, length or shape.context), generator=generator)


@pytest.mark.parametrize("name", SWITCHES)
def test_counts_equal_the_built_module_by_group(name):
    shape = small_shape(**SWITCHES[name])
    model = Transformer(shape)
    counts = count_params(shape)
    tables = model.embedding.weight.numel() + (
        0 if model.position is None else model.position.numel()
    )
    head = 0 if shape.tied else model.head.weight.numel()
    total = sum(p.numel() for p in model.parameters())
    assert (tables, head, total - tables - head) == (
        counts.embedding,
        counts.head,
        counts.non_embedding,
    )


@pytest.mark.parametrize(
    ("model", "vocab", "published"),
    [
        # Radford et al. 2019; the released weights of gpt2 and gpt2-xl
        (ModelConfig(layers=12, width=768, heads=12, ffn=3072, context=1024, **SWITCHES["gpt2"]), 50257, 124_439_808),
        (ModelConfig(layers=48, width=1600, heads=25, ffn=6400, context=1024, **SWITCHES["gpt2"]), 50257, 1_557_611_200),
        # Touvron et al. 2023 (Llama 2 7B), Grattafiori et al. 2024 (Llama 3 8B): released weights
        (ModelConfig(layers=32, width=4096, heads=32, ffn=11008, context=4096), 32000, 6_738_415_616),
        (ModelConfig(layers=32, width=4096, heads=32, kv_heads=8, ffn=14336, context=64), 128256, 8_030_261_248),
    ],
)  # fmt: skip
def test_built_module_has_the_published_size(model, vocab, published):
    shape = resolve_shape(model, vocab=vocab)
    with torch.device("meta"):
        module = Transformer(shape)
    assert sum(p.numel() for p in module.parameters()) == published


@pytest.mark.parametrize("name", SWITCHES)
def test_flops_equal_a_flop_counter(name):
    shape = small_shape(**SWITCHES[name])
    model = Transformer(shape, attention="matmul").init_weights(0)
    tokens = random_tokens(shape)
    with FlopCounterMode(display=False) as counter:
        model(tokens, tokens).backward()
    assert counter.get_total_flops() == flops_per_token(shape).counted * tokens.numel()


def test_flops_of_the_fused_kernel_are_the_same_products():
    # torch's math backend does the fused kernel's work as plain products, which the counter sees
    shape = small_shape()
    model = Transformer(shape, attention="sdpa").init_weights(0)
    tokens = random_tokens(shape)
    backend = torch.nn.attention.SDPBackend.MATH
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(backend):
        model(tokens, tokens).backward()
    assert counter.get_total_flops() == flops_per_token(shape).counted * tokens.numel()


@pytest.mark.parametrize("attention", ["matmul", "sdpa"])
@pytest.mark.parametrize("name", SWITCHES)
def test_future_tokens_do_not_change_past_logits(name, attention):
    shape = small_shape(**SWITCHES[name])
    model = Transformer(shape, attention=attention).init_weights(0)
    tokens = random_tokens(shape)
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % shape.vocab
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    # the same products in another order may differ in the last bits of float32
    torch.testing.assert_close(before[:, :9], after[:, :9], rtol=0, atol=1e-6)
    assert (before[:, 9:] - after[:, 9:]).abs().max() > 1e-2


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("length", [16, 7])
def test_kernels_agree_in_loss_and_gradient(name, length):
    shape = small_shape(**SWITCHES[name])
    tokens = random_tokens(shape, length=length)
    results = []
    for attention in ("matmul", "sdpa"):
        model = Transformer(shape, attention=attention).init_weights(3).double()
        loss = model(tokens, tokens)
        loss.backward()
        results.append((loss, {n: p.grad for n, p in model.named_parameters()}))
    (loss_a, grads_a), (loss_b, grads_b) = results
    # the rotation and the loss are float32 by design, all else is float64 here
    torch.testing.assert_close(loss_a, loss_b, rtol=1e-6, atol=1e-6)
    for parameter in grads_a:
        torch.testing.assert_close(grads_a[parameter], grads_b[parameter], rtol=1e-4, atol=1e-6)


def test_rotary_scores_depend_on_distance_only():
    shape = small_shape(position="rotary")
    turn = Transformer(shape).turn_TQ2
    query, key = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    turned_q, turned_k = (rotate(x.expand(1, 1, 16, 12), turn)[0, 0] for x in (query, key))
    scores = turned_q @ turned_k.T
    for distance in (0, 3, 7):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    compiled = torch.stack([_real_rotation(query.expand(16, 12), turn)])
    torch.testing.assert_close(compiled[0], turned_q, rtol=0, atol=1e-6)


def _real_rotation(x, turn):
    (a, b), (cos, sin) = x.unflatten(-1, (-1, 2)).unbind(-1), turn.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


@pytest.mark.parametrize("width", [16, 160, 1024])
def test_fresh_model_guesses_nearly_uniformly_at_any_width(width):
    # logits of variance v cost about v/2 nats above ln V; the head is drawn for v = 1 at most
    shape = resolve_shape(ModelConfig(layers=2, width=width, context=32), vocab=256)
    model = Transformer(shape).init_weights(0)
    tokens = random_tokens(shape, sequences=8)
    with torch.no_grad():
        loss = model(tokens, tokens.roll(1)).item()
    assert math.log(256) - 0.05 < loss < math.log(256) + 0.7


def test_weights_follow_the_seed():
    shape = small_shape()
    first, same, other = (Transformer(shape).init_weights(s).head.weight for s in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_model_learns_a_markov_source_below_its_unigram_entropy():
    # each symbol is followed by one of two, so that the floor is ln 2 and the unigram entropy ln 16
    shape = resolve_shape(ModelConfig(layers=2, width=32, heads=2, context=32), vocab=16)
    model = Transformer(shape, attention="matmul").init_weights(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        tokens = _markov(16, 33, generator)
        loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert math.log(2) - 0.02 < loss.item() < 0.5 * math.log(16)


def _markov(sequences: int, length: int, generator: torch.Generator) -> torch.Tensor:
    state = torch.randint(16, (sequences,), generator=generator)
    tokens = [state]
    for _ in range(length - 1):
        state = (5 * state + 3 + torch.randint(2, (sequences,), generator=generator)) % 16
        tokens.append(state)
    return torch.stack(tokens, 1)


@pytest.mark.parametrize("attention", ["matmul", "sdpa"])
@pytest.mark.parametrize("name", SWITCHES)
def test_bfloat16_products_change_the_loss_by_rounding_only(name, attention):
    shape = small_shape(**SWITCHES[name])
    model = Transformer(shape, attention=attention).init_weights(0)
    tokens = random_tokens(shape, sequences=8)
    exact = model(tokens, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = model(tokens, tokens)
    narrow.backward()
    # bfloat16 keeps 8 bits: logits of order 1 are off by 2^-9 each, and the mean over 128 by less
    assert abs(exact.item() - narrow.item()) < 0.005
    assert narrow.dtype == torch.float32
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters()
    )


def test_own_norm_and_attention_have_the_right_gradients():
    generator = torch.Generator().manual_seed(0)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64, requires_grad=True)

    norm = RmsNorm(6, eps=1e-5).double()
    weight = draw(6)
    torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(norm, {"weight": w}, x), (draw(2, 3, 6), weight)
    )
    mask = torch.full((5, 5), -math.inf, dtype=torch.float64).triu(1)
    torch.autograd.gradcheck(
        lambda q, k, v: attend_matmul(q, k, v, mask), [draw(2, 2, 5, 4) for _ in range(3)]
    )
