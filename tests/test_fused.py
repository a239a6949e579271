"""The compiled kernels against torch in float64, the model built of them, and their library."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from scaling.study.config import ModelConfig, TrainConfig
from scaling.study.errors import ConfigError
from scaling.study.shape import resolve_shape
from scaling.training import fused, native
from scaling.training.cpu import keep_freed_memory
from scaling.training.device import choose_engine
from scaling.training.model import Transformer

DTYPES = [
    d for d in (torch.float32, torch.bfloat16) if native.is_available(d)
]  # none without AVX-512 or compiler: the file then skips
pytestmark = pytest.mark.skipif(not DTYPES, reason="no AVX-512 or no C++ compiler here")

# Relative to the largest number: float32 sums of up to 384 terms lose a few of their 24 bits.
# bfloat16 keeps 8, so that a result is off by 2^-9; gradients pass two rounded factors.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.2e-2}


def draw(*size, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(size))
    return torch.randn(*size, generator=generator).to(dtype).requires_grad_()


def assert_same(mine, exact, dtype):
    for a, b in zip(mine, exact, strict=True):
        gap = (a.detach().double() - b.detach()).abs().max() / b.detach().abs().max()
        assert gap < TOLERANCE[dtype], f"off by {gap:.1e}"


def results(function, inputs, grad):
    """The outcome of a function and the gradients of its inputs."""
    outcome = function()
    outcome.backward(grad.to(outcome.dtype))
    grads = [x.grad.clone() for x in inputs]
    for x in inputs:
        x.grad = None
    return [outcome, *grads]


def exact_attention(qkv, turn, heads, kv_heads, size):
    B, T, _ = qkv.shape
    x = qkv.double().view(B, T, heads + 2 * kv_heads, size).permute(2, 0, 1, 3)
    q, k, v = x.split([heads, kv_heads, kv_heads])
    if turn is not None:
        q, k = (_turned(x, turn.double()) for x in (q, k))
    k, v = (x.repeat_interleave(heads // kv_heads, 0) for x in (k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.permute(1, 2, 0, 3).reshape(B, T, heads * size)


def _turned(x, turn):
    (a, b), (cos, sin) = x.unflatten(-1, (-1, 2)).unbind(-1), turn.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def _table(T, size):
    angle = torch.outer(torch.arange(T).float(), 10_000.0 ** -(torch.arange(0, size, 2) / size))
    return torch.stack([angle.cos(), angle.sin()], -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("T", "heads", "kv_heads", "size", "rotary"),
    [(256, 2, 2, 32, False), (64, 4, 2, 32, True), (64, 3, 1, 10, True), (37, 2, 2, 64, False),
     (7, 2, 1, 128, True), (100, 1, 1, 48, False), (33, 1, 1, 5, False), (1, 1, 1, 16, True)],
)  # fmt: skip
def test_attention_is_exact_for_any_length_and_head_size(dtype, T, heads, kv_heads, size, rotary):
    qkv = draw(2, T, (heads + 2 * kv_heads) * size, dtype=dtype)
    grad = draw(2, T, heads * size, dtype=dtype, seed=1).detach()
    turn = _table(T, size) if rotary else None
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_size": size}
    mine = results(lambda: fused.attend(qkv, turn, **sizes), [qkv], grad)
    assert_same(
        mine, results(lambda: exact_attention(qkv, turn, *sizes.values()), [qkv], grad), dtype
    )


def test_attention_keeps_apart_scores_of_any_size():
    # logits of several hundreds: without the maximum taken off, e^x would overflow
    qkv = (30 * draw(1, 40, 3 * 16).detach()).requires_grad_()
    grad = torch.ones(1, 40, 16)
    mine = results(lambda: fused.attend(qkv, None, heads=1, kv_heads=1, head_size=16), [qkv], grad)
    exact = results(lambda: exact_attention(qkv, None, 1, 1, 16), [qkv], grad)
    assert all(t.isfinite().all() for t in mine)
    # scores near 1000 have an absolute error of 1e-4 in float32, and so the probabilities
    torch.testing.assert_close(mine[0].double(), exact[0], rtol=0, atol=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 37])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_add_norm_is_exact(dtype, width, centred, added):
    x, weight, bias = draw(5, 11, width), draw(width), draw(width, seed=2)
    delta = draw(5, 11, width, dtype=dtype, seed=3)
    inputs = [x, weight, *([bias] if centred else []), *([delta] if added else [])]
    mix = draw(2, 5, 11, width, seed=4).detach().to(dtype).float()

    def both(total, y):
        return total * mix[0] + y * mix[1]

    def mine():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            parts = fused.add_norm(
                x, delta if added else None, weight, bias if centred else None, eps=1e-5, centred=centred, scale=0.5
            )  # fmt: skip
        return both(*parts)

    def exact():
        total = x.double() + (0.5 * delta.double() if added else 0)
        if centred:
            y = F.layer_norm(total, (width,), weight.double(), bias.double(), 1e-5)
        else:
            y = F.rms_norm(total, (width,), weight.double(), 1e-5)
        return both(total, y)

    ones = torch.ones(5, 11, width)
    assert_same(results(mine, inputs, ones), results(exact, inputs, ones), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["gelu", "swiglu"])
def test_activations_are_exact(dtype, kind):
    gate, up = draw(50, 37, dtype=dtype), draw(50, 37, dtype=dtype, seed=1)
    grad = draw(50, 37, dtype=dtype, seed=2).detach()
    inputs = [gate, up] if kind == "swiglu" else [gate]

    def exact():
        if kind == "swiglu":
            return F.silu(gate.double()) * up.double()
        return F.gelu(gate.double(), approximate="tanh")

    mine = results(
        lambda: fused.activate(*inputs, *[None] * (2 - len(inputs)), kind=kind), inputs, grad
    )
    assert_same(mine, results(exact, inputs, grad), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [256, 61])
def test_cross_entropy_is_exact_and_float32(dtype, vocab):
    logits = (5 * draw(200, vocab, dtype=dtype).detach()).requires_grad_()
    targets = torch.arange(200) % vocab
    grad = draw(200, seed=1).detach()
    mine = results(lambda: fused.cross_entropy(logits, targets), [logits], grad)
    exact = results(
        lambda: F.cross_entropy(logits.double(), targets, reduction="none"), [logits], grad
    )
    assert mine[0].dtype == torch.float32
    assert_same(mine[:1], exact[:1], torch.float32)  # the loss is not rounded, whatever the logits
    assert_same(mine[1:], exact[1:], dtype)


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"kv_heads": 2, "qk_norm": "full"},
        {"qk_norm": "head", "norm": "layernorm"},
        {"norm": "layernorm", "position": "learned", "activation": "gelu", "tied": True, "bias": True},
        {"activation": "relu2", "position": "sinusoidal"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("scale", [None, 0.3])
def test_model_gives_the_same_loss_and_gradients_with_either_kernels(switches, scale):
    shape = resolve_shape(
        ModelConfig(layers=2, width=48, heads=4, ffn=100, context=40, **switches), vocab=61
    )
    tokens = torch.randint(61, (3, 40), generator=torch.Generator().manual_seed(0))
    found = []
    for attention in ("native", "sdpa"):
        model = Transformer(shape, attention=attention).init_weights(3)
        loss = model(tokens, tokens.roll(1))
        loss.backward()
        found.append((loss, {n: p.grad for n, p in model.named_parameters()}))
    (loss_a, grads_a), (loss_b, grads_b) = found
    # float32 sums in two orders
    torch.testing.assert_close(loss_a, loss_b, rtol=1e-6, atol=1e-6)
    for name in grads_a:
        torch.testing.assert_close(grads_a[name], grads_b[name], rtol=1e-3, atol=1e-6)


def test_threads_share_the_work_and_change_rounding_only():
    shape = resolve_shape(ModelConfig(layers=2, width=48, heads=4, context=64), vocab=61)
    tokens = torch.randint(61, (4, 64), generator=torch.Generator().manual_seed(0))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            model = Transformer(shape, attention="native").init_weights(0)
            loss = model(tokens, tokens)
            loss.backward()
            found.append((loss, model.blocks[0].attention_norm.weight.grad))
    finally:
        torch.set_num_threads(before)
    # sums over rows are added in parts, one per thread
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_engine_takes_the_compiled_kernels_where_they_can_be_built():
    shape = resolve_shape(ModelConfig(layers=2, width=48, heads=4, context=64), vocab=61)
    assert choose_engine(shape, batch_seqs=4, train=TrainConfig(device="cpu")).attention == "native"
    asked = TrainConfig(device="cpu", attention="sdpa")
    assert choose_engine(shape, batch_seqs=4, train=asked).attention == "sdpa"


def test_without_a_compiler_the_engine_takes_torchs_kernels(tmp_path):
    code = (
        "from scaling.study.config import ModelConfig, TrainConfig\n"
        "from scaling.study.errors import ConfigError\n"
        "from scaling.study.shape import resolve_shape\n"
        "from scaling.training.device import choose_engine\n"
        "shape = resolve_shape(ModelConfig(layers=2, width=48, heads=4, context=64), vocab=61)\n"
        "print(choose_engine(shape, batch_seqs=4, train=TrainConfig(device='cpu')).attention)\n"
        "try: choose_engine(shape, batch_seqs=4, train=TrainConfig(device='cpu', attention='native'))\n"
        "except ConfigError as error: print(error)\n"
    )
    environment = os.environ | {
        "PATH": str(tmp_path),
        "SCALING_CACHE": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    attention, refusal = done.stdout.splitlines()
    assert attention in ("sdpa", "matmul")
    assert "train.attention" in refusal and "Set train.attention=auto" in refusal


def test_freed_memory_is_kept_once_the_engine_is_chosen():
    # glibc says yes to all three settings; elsewhere nothing is set and nothing breaks
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_cpu_without_bfloat16_products_takes_torchs_kernels_for_them(monkeypatch):
    from scaling.training import device

    monkeypatch.setattr(device, "is_available", lambda dtype: dtype == torch.float32)
    shape = resolve_shape(ModelConfig(layers=2, width=48, heads=4, context=64), vocab=61)
    asked = TrainConfig(device="cpu", precision="bfloat16")
    assert choose_engine(shape, batch_seqs=4, train=asked).attention == "matmul"
    asked = TrainConfig(device="cpu", precision="float32")
    assert choose_engine(shape, batch_seqs=4, train=asked).attention == "native"


def test_native_kernels_are_refused_with_torch_compile():
    shape = resolve_shape(ModelConfig(layers=2, width=48, heads=4, context=64), vocab=61)
    asked = TrainConfig(device="cpu", attention="native", compile=True)
    with pytest.raises(ConfigError, match="train.compile=false"):
        choose_engine(shape, batch_seqs=4, train=asked)


def test_model_cast_to_bfloat16_gives_the_loss_of_torchs_kernels():
    shape = resolve_shape(
        ModelConfig(layers=2, width=48, heads=4, context=64, position="learned"), vocab=61
    )
    tokens = torch.randint(61, (4, 64), generator=torch.Generator().manual_seed(0))
    losses = [
        Transformer(shape, attention=kind).init_weights(0).bfloat16()(tokens, tokens).float()
        for kind in ("native", "sdpa")
    ]
    # sums in two orders, rounded to 8 bits along the way
    torch.testing.assert_close(*losses, rtol=1e-2, atol=0)
