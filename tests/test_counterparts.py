"""BERT and T5 to and from Hugging Face: outputs agree, there and back to the bit, published sizes."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch

from scaling.study.errors import CheckpointError, ConfigError
from scaling.study.flops import flops_per_token
from scaling.study.hub import config_of, family_of, shape_of
from scaling.study.objective import first_length
from scaling.study.shape import ModelShape, count_params
from scaling.training.export import write_weights
from scaling.training.huggingface import from_hub, load_pretrained, to_hub
from scaling.training.model import build_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()

# of the largest output: float32 rounds to 6e-8, and two or three layers of sums of 50 to 100 products
# are taken in another order; seen up to 2e-6
CLOSE = 1e-5

BERT = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 40}  # fmt: skip
T5 = {"vocab_size": 97, "d_model": 48, "d_kv": 12, "d_ff": 100, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4, "decoder_start_token_id": 0}  # fmt: skip
THEIRS = {
    "bert": ("bert", "BertForMaskedLM", BERT),
    "bert_pairs": ("bert", "BertForPreTraining", BERT),
    "bert_tanh_eps": ("bert", "BertForMaskedLM", {**BERT, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3}),
    "t5_1_0": ("t5", "T5ForConditionalGeneration", T5),
    "t5_1_1": ("t5", "T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5_other_heads": ("t5", "T5ForConditionalGeneration", {**T5, "d_kv": 8, "num_decoder_layers": None}),
}  # fmt: skip


def their_model(name):
    """A random model of transformers, biases and gains included."""
    family, kind, values = THEIRS[name]
    config = transformers.AutoConfig.for_model(family, **values)
    model = getattr(transformers, kind)(config).eval()
    if values.get("tie_word_embeddings") is False:  # transformers 5 ties them whatever is said
        model.lm_head.weight = torch.nn.Parameter(torch.randn(97, 48) * 0.3)
        model.all_tied_weights_keys.pop("lm_head.weight", None)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def random_tokens(vocab, length, *, seed=1):
    return torch.randint(vocab, (2, length), generator=torch.Generator().manual_seed(seed))


def answers(model, shape, tokens):
    """Logits of one of transformers' models on the tokens that ours are given."""
    with torch.no_grad():
        if shape.kind == "encoder_decoder":
            read, written = tokens[:, : shape.source], tokens[:, shape.source :]
            return model(input_ids=read, decoder_input_ids=written).logits, None
        T = tokens.shape[1]
        second = (torch.arange(T) >= first_length(T)).long().expand_as(tokens) if shape.pairs else None  # fmt: skip
        if shape.classes:
            return model(tokens, attention_mask=tokens != shape.vocab - 1).logits, None
        out = model(tokens, token_type_ids=second)
        return (out.prediction_logits, out.seq_relationship_logits) if shape.pairs else (out.logits, None)  # fmt: skip


def our_answers(shape, tensors, tokens):
    model = build_model(shape).eval()
    assert model.load_state_dict(tensors, strict=False).unexpected_keys == []
    assert {n for n, _ in model.named_parameters()} == set(tensors)
    with torch.no_grad():
        return model(tokens), model.judge(model.read(tokens)) if shape.pairs else None


def agree(shape, tensors, theirs, tokens):
    logits, judged = our_answers(shape, tensors, tokens)
    expected, follows = answers(theirs, shape, tokens)
    assert expected.std() > 0.3  # there is something to agree on
    assert (logits - expected).abs().max() < CLOSE * max(1, expected.abs().max())
    if shape.pairs:  # transformers: 0 says that the second follows the first
        assert (judged.flip(1) - follows).abs().max() < CLOSE * max(1, follows.abs().max())


@pytest.mark.parametrize("name", THEIRS)
def test_their_model_gives_the_same_outputs_here(name, tmp_path):
    theirs = their_model(name)
    theirs.save_pretrained(tmp_path)
    shape, tensors = load_pretrained(tmp_path)
    length = 40
    if shape.kind == "encoder_decoder":  # far apart: beyond the distances that are told apart
        shape, length = replace(shape, source=150, outputs=140), 290
    agree(shape, tensors, theirs, random_tokens(shape.vocab, length))


SIZES = {"layers": 2, "width": 48, "heads": 4, "kv_heads": 4, "head_size": 12, "ffn": 100, "vocab": 97, "context": 40}  # fmt: skip
BERT_SHAPE = ModelShape(
    **SIZES, kind="encoder", norm="layernorm", norm_at="post", embedding_norm=True, norm_eps=1e-12, position="learned",
    segments=True, activation="gelu_exact", head_transform=True, tied=True, bias=True,
)  # fmt: skip
T5_SHAPE = ModelShape(
    **SIZES, kind="encoder_decoder", encoder_layers=3, source=40, outputs=40, norm_eps=1e-6, position="relative",
    activation="relu", scale_scores=False, tied=True, scale_head=True,
)  # fmt: skip
OURS = {
    "bert": BERT_SHAPE,
    "bert_pairs": replace(BERT_SHAPE, pairs=True),
    "bert_relu": replace(BERT_SHAPE, activation="relu"),
    "bert_labels": replace(BERT_SHAPE, classes=3, outputs=1, padded=True),
    "t5_1_0": T5_SHAPE,
    "t5_1_1": replace(T5_SHAPE, activation="geglu", tied=False, scale_head=False),
    "t5_silu": replace(T5_SHAPE, activation="swiglu", ffn=60, head_size=8),
}


def our_model(shape):
    model = build_model(shape).init_weights(0).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and gains too
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.mark.parametrize("name", OURS)
def test_our_model_gives_the_same_outputs_there(name, tmp_path):
    shape = OURS[name]
    tensors = {n: p.detach() for n, p in our_model(shape).named_parameters()}
    write_weights(tmp_path, tensors, shape)
    kind = getattr(transformers, config_of(shape)["architectures"][0])
    theirs, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    length = shape.source + shape.outputs if shape.source else shape.context
    tokens = random_tokens(shape.vocab - shape.padded, length)
    if shape.padded:
        tokens[0, 20:] = shape.vocab - 1
    agree(shape, tensors, theirs.eval(), tokens)


@pytest.mark.parametrize("name", OURS)
def test_there_and_back_is_the_same_to_the_bit(name):
    shape = OURS[name]
    tensors = dict(our_model(shape).named_parameters())
    back = from_hub(to_hub(tensors, shape), shape)
    assert set(back) == set(tensors)
    assert all(torch.equal(back[n], tensors[n]) for n in tensors)
    assert shape_of(json.loads(json.dumps(config_of(shape)))) == shape


# Parameters as transformers counts the published models (SCIENCE: bert-base 109,482,240 is the one
# without a head and with a pooler): those of the models that were trained, heads included.
PUBLISHED = {
    "bert-base-uncased": ("bert", {}, 110_106_428),
    "bert-large-uncased": ("bert", {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}, 336_226_108),
    "t5-small": ("t5", {}, 60_506_624),
    "t5-base": ("t5", {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}, 222_903_552),
    "t5-v1_1-small": ("t5", {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, 76_961_152),
    "t5-v1_1-base": ("t5", {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, 247_577_856),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_counted_exactly(name):
    family, values, published = PUBLISHED[name]
    kind = "BertForPreTraining" if family == "bert" else "T5ForConditionalGeneration"
    shape = shape_of({**_full(family, values), "model_type": family, "architectures": [kind]})
    assert count_params(shape).total == published
    with torch.device("meta"):
        ours = build_model(shape)
        theirs = getattr(transformers, kind)(transformers.AutoConfig.for_model(family, **values))
    assert sum(p.numel() for p in ours.parameters()) == published
    # transformers 5 builds T5 1.1 with one table, and learns from the weights that there are two
    spare = shape.vocab * shape.width if values.get("tie_word_embeddings") is False else 0
    assert sum(p.numel() for p in theirs.parameters()) + spare == published


def _full(family, values):
    config = transformers.AutoConfig.for_model(family, **values).to_dict()
    return config | values


def test_flops_of_bert_base_are_those_of_its_products():
    """Per layer and token 4 d^2 + 8 d^2 weights and 2 T d products of attention; the head apart."""
    shape = replace(shape_of({"model_type": "bert", **_full("bert", {})}), outputs=77)
    flops = flops_per_token(shape)
    d, T, V = 768, 512, 30_522
    assert flops.blocks == 6 * 12 * 12 * d**2
    assert flops.attention == 12 * 12 * d * T
    assert flops.head == pytest.approx(6 * 77 * (V * d + d**2) / T, rel=1e-12)


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (BERT_SHAPE, {"norm_at": "pre"}, r"bert.*cannot express model.norm_at=pre \(it has post\)"),
        (BERT_SHAPE, {"tied": False}, r"model.tied=false \(it has true\)"),
        (BERT_SHAPE, {"segments": False}, r"model.segments=false \(it has true\)"),
        (BERT_SHAPE, {"activation": "swiglu"}, r"model.activation=swiglu \(it has gelu or gelu_exact or relu"),
        (BERT_SHAPE, {"position": "rotary"}, r"model.position=rotary \(it has learned\)"),
        (T5_SHAPE, {"scale_scores": True}, r"t5.*model.scale_scores=true \(it has false\)"),
        (T5_SHAPE, {"scale_head": False}, "model.tied=true with model.scale_head=false .it has both or neither"),
        (T5_SHAPE, {"kv_heads": 2}, r"model.kv_heads=2 \(it has as many as heads, 4\)"),
    ],
)  # fmt: skip
def test_shape_that_no_family_has_is_refused_with_its_key(base, changes, message):
    with pytest.raises(ConfigError, match=message):
        family_of(replace(base, **changes))


@pytest.mark.parametrize(
    ("family", "values", "message"),
    [
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type=relative_key"),
        ("bert", {"tie_word_embeddings": False}, "tie_word_embeddings=false"),
        ("bert", {"hidden_act": "silu"}, "hidden_act=silu is not supported"),
        ("t5", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets=16"),
        ("t5", {"feed_forward_proj": "gated-relu"}, "feed_forward_proj=gated-relu"),
    ],
)  # fmt: skip
def test_option_that_ours_lacks_is_refused_with_its_key(family, values, message):
    with pytest.raises(ConfigError, match=message):
        shape_of({"model_type": family, **(BERT if family == "bert" else T5), **values})


def test_first_names_of_norms_and_spare_weights_are_understood():
    """bert-base-uncased as released has gamma and beta, a pooler, and heads that were trained along."""
    tensors = dict(our_model(OURS["bert_pairs"]).named_parameters())
    theirs = to_hub(tensors, OURS["bert_pairs"])
    old = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t for n, t in theirs.items()}  # fmt: skip
    old["bert.embeddings.position_ids"] = torch.arange(40)
    old["cls.predictions.decoder.weight"] = theirs["bert.embeddings.word_embeddings.weight"]
    found = from_hub(old, OURS["bert"])
    assert all(torch.equal(found[n], tensors[n]) for n in found)
    assert set(tensors) - set(found) == {"pool.weight", "pool.bias", "pair.weight", "pair.bias"}


def test_a_head_of_its_own_is_not_dropped_where_the_configuration_says_tied():
    theirs = to_hub(dict(our_model(T5_SHAPE).named_parameters()), T5_SHAPE)
    theirs["lm_head.weight"] = theirs["shared.weight"] + 1
    with pytest.raises(CheckpointError, match=r"lm_head.weight is no weight"):
        from_hub(theirs, T5_SHAPE)
