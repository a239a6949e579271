"""The written-out passes give what autograd gives, to the bit."""

import pytest
import torch

from scaling.study.config import ModelConfig, OptimConfig, TrainConfig
from scaling.study.shape import ModelShape, resolve_shape
from scaling.training.device import choose_engine
from scaling.training.direct import suits_direct
from scaling.training.learner import Learner
from scaling.training.model import Transformer
from scaling.training.native import is_available

VOCAB, CONTEXT, SEQS = 50, 20, 5
SMALL = {"layers": 2, "width": 24, "heads": 4, "ffn": 52, "context": CONTEXT}
FAMILIES = {
    "llama": {},
    "gpt2": {"norm": "layernorm", "position": "learned", "activation": "gelu", "tied": True, "bias": True},
    "grouped": {"position": "sinusoidal", "kv_heads": 2, "tied": True},
}  # fmt: skip


def make_shape(**model) -> ModelShape:
    return resolve_shape(ModelConfig(**SMALL, **model), vocab=VOCAB)


def make_learner(shape: ModelShape, precision: str) -> Learner:
    # micro-batches of two sequences: the last one is smaller and gradients add up
    asked = TrainConfig(device="cpu", precision=precision, micro_batch_tokens=2 * CONTEXT)
    engine = choose_engine(shape, batch_seqs=SEQS, train=asked)
    return Learner(shape, engine, optim=OptimConfig(), lr=1e-2, weight_decay=0.1, seed=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_direct_gives_the_gradients_of_autograd_to_the_bit(family, precision):
    if not is_available(getattr(torch, precision)):
        pytest.skip("no compiled kernels here")
    shape = make_shape(**FAMILIES[family])
    direct, autograd = (make_learner(shape, precision) for _ in range(2))
    autograd.direct = None
    assert direct.direct is not None
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        tokens = torch.randint(VOCAB, (SEQS, CONTEXT + 1), generator=generator)
        parts = [(p[:, :-1], p[:, 1:]) for p in tokens.split(direct.engine.micro_seqs)]
        assert len(parts) > 1
        ours, theirs = (learner._gradients(parts) for learner in (direct, autograd))
        assert torch.equal(ours, theirs)
        for (name, p), q in zip(
            direct.model.named_parameters(), autograd.model.parameters(), strict=True
        ):
            assert torch.equal(p.grad, q.grad), name
            with torch.no_grad():
                p.sub_(0.1 * p.grad)
                q.copy_(p)
            q.grad = None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_score_equals_the_losses_that_gradients_are_taken_of(family, precision):
    if not is_available(getattr(torch, precision)):
        pytest.skip("no compiled kernels here")
    learner = make_learner(make_shape(**FAMILIES[family]), precision)
    tokens = torch.randint(VOCAB, (2, CONTEXT + 1))
    with learner.engine.autocast():
        with_graph = learner.model(tokens[:, :-1], tokens[:, 1:], reduction="none")
        with torch.no_grad():
            without = learner.model(tokens[:, :-1], tokens[:, 1:], reduction="none")
    assert with_graph.requires_grad and torch.equal(with_graph, without)


def test_models_with_other_parts_are_left_to_autograd():
    kinds = ({"qk_norm": "full"}, {"qk_norm": "head"}, {"activation": "relu2"})
    for kind in kinds:
        assert not suits_direct(Transformer(make_shape(**kind), attention="native"))
    assert not suits_direct(Transformer(make_shape(), attention="sdpa"))
    assert suits_direct(Transformer(make_shape(), attention="native"))
