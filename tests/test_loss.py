"""Cross-entropy in chunks: the plain one's loss and gradients, at a fraction of its memory."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from scaling.study.config import ModelConfig
from scaling.study.shape import resolve_shape
from scaling.training import loss as loss_module
from scaling.training.loss import chunk_tokens, chunked_cross_entropy, logits_bytes, needs_chunks
from scaling.training.model import Transformer


def draw(*size, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("chunk", [1, 7, 20, 64])
def test_chunks_have_the_right_gradients(chunk):
    h, weight, targets = draw(20, 5), draw(11, 5, seed=1), torch.arange(20) % 11
    torch.autograd.gradcheck(
        lambda h, w: chunked_cross_entropy(h, w, targets, chunk=chunk), (h, weight)
    )


@pytest.mark.parametrize("autocast", [False, True])
def test_chunked_loss_is_the_plain_one(autocast):
    h, weight = draw(96, 32, dtype=torch.float32), draw(501, 32, dtype=torch.float32, seed=1)
    targets = torch.arange(96) * 5 % 501
    found = []
    for chunked in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if chunked:
                loss = chunked_cross_entropy(h, weight, targets, chunk=40)
            else:
                loss = F.cross_entropy(F.linear(h, weight).float(), targets)
        (3 * loss).backward()  # a factor from above reaches both gradients
        found.append((loss.detach(), h.grad, weight.grad))
        h.grad = weight.grad = None
    (a, dh_a, dw_a), (b, dh_b, dw_b) = found
    assert a.dtype == torch.float32
    # the same products; sums over the vocabulary in float32 either way
    torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
    # gradients of logits are rounded to bfloat16 before (here) or after the factor 3
    bound = 2**-7 if autocast else 1e-5
    for mine, plain in ((dh_a, dh_b), (dw_a, dw_b)):
        assert (mine - plain).abs().max() < bound * plain.abs().max()


def test_model_takes_chunks_when_logits_are_large(monkeypatch):
    shape = resolve_shape(ModelConfig(layers=1, width=32, heads=2, context=16), vocab=300)
    model = Transformer(dataclasses.replace(shape)).init_weights(0)
    tokens = torch.randint(300, (8, 16), generator=torch.Generator().manual_seed(0))
    found = []
    for limit in (loss_module.LOGITS_BYTES, 4 * 300 * 50):
        monkeypatch.setattr(loss_module, "LOGITS_BYTES", limit)
        loss = model(tokens, tokens)
        loss.backward()
        found.append((loss.detach(), {n: p.grad for n, p in model.named_parameters()}))
        model.zero_grad(set_to_none=True)
    assert needs_chunks(128, 300) and chunk_tokens(300) == 50
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=0)
    for name, grad in found[0][1].items():
        # float32 sums in another order
        torch.testing.assert_close(grad, found[1][1][name], rtol=1e-4, atol=1e-7)


def test_memory_of_logits_is_bounded():
    # 65,536 tokens of GPT-2's vocabulary would be 46 GB with their gradients
    assert logits_bytes(65_536, 50_257, narrow=2) < 4 * loss_module.LOGITS_BYTES
    assert logits_bytes(4096, 256, narrow=4) == 4096 * 256 * 12
