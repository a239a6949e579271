"""Weights to and from Hugging Face: logits agree, tokenizers agree, what cannot move is refused."""

from __future__ import annotations

import json
import os

import pytest
import torch

from scaling.study.hub import config_of, shape_of
from scaling.study.shape import ModelShape
from scaling.training.huggingface import from_hub, load_pretrained, to_hub
from scaling.training.model import Transformer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()

# float32 logits of order 1 to 10 after three layers of sums of 50 to 200 products, taken in another
# order: about 1e-6 each; 1e-4 is what was promised
CLOSE = {"rtol": 0, "atol": 1e-4}

LLAMA = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64}  # fmt: skip
GPT2 = {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64}
HUB = {
    "llama": ("llama", LLAMA),
    "llama_grouped_tied": ("llama", {**LLAMA, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama_one_kv_head_bias": ("llama", {**LLAMA, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
    "llama_base_eps_head": ("llama", {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}, "rms_norm_eps": 1e-3, "head_dim": 20}),
    "gpt2": ("gpt2", GPT2),
    "gpt2_untied_eps": ("gpt2", {**GPT2, "tie_word_embeddings": False, "n_inner": 60, "layer_norm_epsilon": 1e-3}),
}  # fmt: skip


def hub_model(name):
    """A random model of transformers, every weight and bias of order 1/sqrt(inputs) or 1."""
    family, values = HUB[name]
    config = transformers.AutoConfig.for_model(family, **values)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model


def random_tokens(vocab, length=64):
    return torch.randint(vocab, (2, length), generator=torch.Generator().manual_seed(1))


def our_logits(shape, tensors, tokens):
    model = Transformer(shape).eval()
    # a tied head is the embedding, which is there under that name
    assert model.load_state_dict(tensors, strict=False).unexpected_keys == []
    assert {n for n, _ in model.named_parameters()} == set(tensors)
    with torch.no_grad():
        return model(tokens)


@pytest.mark.parametrize("name", HUB)
def test_hub_model_gives_the_same_logits_here(name, tmp_path):
    theirs = hub_model(name)
    theirs.save_pretrained(tmp_path)
    shape, tensors = load_pretrained(tmp_path)
    tokens = random_tokens(shape.vocab)
    with torch.no_grad():
        expected = theirs(tokens).logits
    assert expected.std() > 0.5  # there is something to agree on
    torch.testing.assert_close(our_logits(shape, tensors, tokens), expected, **CLOSE)


OURS = {
    "llama": ModelShape(3, 48, 4, 4, 12, 100, 97, 64),
    "llama_grouped": ModelShape(3, 48, 4, 2, 12, 100, 97, 64, tied=True, rotary_base=5e5, norm_eps=1e-6),
    "llama_bias": ModelShape(2, 48, 6, 1, 8, 100, 97, 64, bias=True),
    "gpt2": ModelShape(3, 48, 4, 4, 12, 100, 97, 64, norm="layernorm", position="learned", activation="gelu", tied=True, bias=True),
    "gpt2_untied": ModelShape(2, 48, 4, 4, 12, 192, 97, 64, norm="layernorm", position="learned", activation="gelu", bias=True),
}  # fmt: skip


def our_model(shape):
    model = Transformer(shape).init_weights(0).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and gains too
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.mark.parametrize("name", OURS)
def test_our_model_gives_the_same_logits_there(name):
    shape = OURS[name]
    model = our_model(shape)
    config = transformers.AutoConfig.for_model(**config_of(shape))
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    state = to_hub(dict(model.named_parameters()), shape)
    lost = theirs.load_state_dict(state, strict=False)
    assert set(lost.missing_keys) <= ({"lm_head.weight"} if shape.tied else set())
    assert lost.unexpected_keys == []
    tokens = random_tokens(shape.vocab)
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), **CLOSE)


@pytest.mark.parametrize("name", OURS)
def test_there_and_back_is_the_same_to_the_bit(name):
    shape = OURS[name]
    tensors = dict(our_model(shape).named_parameters())
    back = from_hub(to_hub(tensors, shape), shape)
    assert set(back) == set(tensors)
    assert all(torch.equal(back[n], tensors[n]) for n in tensors)
    assert shape_of(json.loads(json.dumps(config_of(shape)))) == shape
