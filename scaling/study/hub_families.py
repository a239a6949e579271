"""The `config.json` of each Hugging Face family that ours can be: what it must hold, both ways.

Only what changes numbers is read. An option that our model lacks is refused with its key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling.study.errors import ConfigError
from scaling.study.shape import BUCKETS, FARTHEST, ModelShape

# names of GELU in tanh form; `gelu` alone is the exact one
GELU_TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
# our activation: its name in BERT and in T5; a gated one is none of BERT's
ACTIVATIONS = {"gelu": "gelu_new", "gelu_exact": "gelu", "relu": "relu", "relu2": "relu2"}
T5_ACTIVATIONS = ACTIVATIONS | {"geglu": "gated-gelu", "swiglu": "gated-silu"}

PLAIN = {
    "norm_at": "pre",
    "embedding_norm": False,
    "scale_scores": True,
    "head_transform": False,
    "scale_head": False,
    "segments": False,
    "qk_norm": "none",
}
# What every model of a family has; the names are ours. Several values: any of them.
PARTS: dict[str, dict[str, Any]] = {
    "llama": {**PLAIN, "position": "rotary", "norm": "rmsnorm", "activation": "swiglu"},
    "gpt2": {
        **PLAIN,
        "position": "learned",
        "norm": "layernorm",
        "activation": "gelu",
        "bias": True,
    },
    "bert": {
        **PLAIN,
        "position": "learned",
        "norm": "layernorm",
        "norm_at": "post",
        "embedding_norm": True,
        "head_transform": True,
        "segments": True,
        "activation": tuple(ACTIVATIONS),
        "tied": True,
        "bias": True,
    },
    "t5": {
        **PLAIN,
        "position": "relative",
        "norm": "rmsnorm",
        "scale_scores": False,
        "activation": tuple(T5_ACTIVATIONS),
        "bias": False,
    },
}


def llama_config(s: ModelShape) -> dict[str, Any]:
    """Return what is particular to the family; the same of the others."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": s.tied,
        "hidden_size": s.width,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.head_size,
        "intermediate_size": s.ffn,
        "max_position_embeddings": s.context,
        "rms_norm_eps": s.norm_eps,
        "hidden_act": "silu",
        "attention_bias": s.bias,
        "mlp_bias": s.bias,
        "attention_dropout": 0.0,
        # transformers 4 reads the first, 5 the second
        "rope_theta": s.rotary_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": s.rotary_base},
    }


def gpt2_config(s: ModelShape) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "tie_word_embeddings": s.tied,
        "n_embd": s.width,
        "n_layer": s.layers,
        "n_head": s.heads,
        "n_inner": s.ffn,
        "n_positions": s.context,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": s.norm_eps,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


def bert_config(s: ModelShape) -> dict[str, Any]:
    judges = "BertForPreTraining" if s.pairs else "BertForMaskedLM"
    labels = {"num_labels": s.classes} if s.classes else {}
    return labels | {
        "architectures": ["BertForSequenceClassification" if s.classes else judges],
        "tie_word_embeddings": s.tied,
        "hidden_size": s.width,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "intermediate_size": s.ffn,
        "max_position_embeddings": s.positions,
        "type_vocab_size": 2,
        "hidden_act": ACTIVATIONS[s.activation],
        "layer_norm_eps": s.norm_eps,
        "position_embedding_type": "absolute",  # what transformers 4 had a choice of
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": s.vocab - 1 if s.padded else None,
    }


def t5_config(s: ModelShape) -> dict[str, Any]:
    return {
        "architectures": ["T5ForConditionalGeneration"],
        # transformers takes from this whether what the head reads is scaled
        "tie_word_embeddings": s.scale_head,
        "is_encoder_decoder": True,
        "d_model": s.width,
        "num_layers": s.encoder_layers,
        "num_decoder_layers": s.layers,
        "num_heads": s.heads,
        "d_kv": s.head_size,
        "d_ff": s.ffn,
        "n_positions": s.positions,
        "relative_attention_num_buckets": BUCKETS,
        "relative_attention_max_distance": FARTHEST,
        "feed_forward_proj": T5_ACTIVATIONS[s.activation],
        "layer_norm_epsilon": s.norm_eps,
        "dropout_rate": 0.0,
    }


def llama_shape(c: Mapping[str, Any], where: str) -> ModelShape:
    """Return the shape that a configuration describes; the same of the others.

    Raises:
        ConfigError: an option that our model lacks.
        KeyError: a size is missing.
    """
    bias = bool(c.get("attention_bias", False))
    rotary = c.get("rope_parameters") or {}
    scaling = c.get("rope_scaling") or {}
    for kind in (scaling.get("rope_type", scaling.get("type")), rotary.get("rope_type")):
        _need(where, "rope_type", kind, [None, "default"], "plain rotary positions")
    _need(where, "hidden_act", c.get("hidden_act", "silu"), ["silu", "swish"], "SwiGLU")
    _need(where, "mlp_bias", bool(c.get("mlp_bias", False)), [bias], "biases everywhere or nowhere")
    heads, width = c["num_attention_heads"], c["hidden_size"]
    return ModelShape(
        layers=c["num_hidden_layers"], width=width, heads=heads,
        kv_heads=c.get("num_key_value_heads") or heads, head_size=c.get("head_dim") or width // heads,
        ffn=c["intermediate_size"], vocab=c["vocab_size"], context=c.get("max_position_embeddings", 2048),
        norm="rmsnorm", norm_eps=float(c.get("rms_norm_eps", 1e-6)), position="rotary",
        rotary_base=float(rotary.get("rope_theta") or c.get("rope_theta") or 10_000.0),
        activation="swiglu", tied=bool(c.get("tie_word_embeddings", False)), bias=bias,
    )  # fmt: skip


Needs = tuple[tuple[str, Any, tuple, str], ...]  # key, default, allowed, what ours has
_GPT2_NEEDS: Needs = (
    ("activation_function", "gelu_new", GELU_TANH, "GELU in tanh form"),
    ("scale_attn_weights", True, (True,), "scores over sqrt(head size)"),
    ("scale_attn_by_inverse_layer_idx", False, (False,), "one scale in all layers"),
    ("add_cross_attention", False, (False,), "a decoder alone"),
)
_BERT_NEEDS: Needs = (
    ("position_embedding_type", "absolute", ("absolute", None), "a table of positions"),
    ("type_vocab_size", 2, (2,), "two segments"),
    ("tie_word_embeddings", True, (True,), "a head that shares the table"),
    ("is_decoder", False, (False,), "an encoder"),
    ("add_cross_attention", False, (False,), "an encoder alone"),
)
_T5_NEEDS: Needs = (
    ("relative_attention_num_buckets", 32, (BUCKETS,), f"{BUCKETS} classes of distances"),
    ("relative_attention_max_distance", 128, (FARTHEST,), f"distances up to {FARTHEST}"),
)


def gpt2_shape(c: Mapping[str, Any], where: str) -> ModelShape:
    _check(c, where, _GPT2_NEEDS)
    heads, width = c["n_head"], c["n_embd"]
    return ModelShape(
        layers=c["n_layer"], width=width, heads=heads, kv_heads=heads, head_size=width // heads,
        ffn=c.get("n_inner") or 4 * width, vocab=c["vocab_size"], context=c["n_positions"],
        norm="layernorm", norm_eps=float(c.get("layer_norm_epsilon", 1e-5)), position="learned",
        activation="gelu", tied=bool(c.get("tie_word_embeddings", True)), bias=True,
    )  # fmt: skip


def bert_shape(c: Mapping[str, Any], where: str) -> ModelShape:
    _check(c, where, _BERT_NEEDS)
    heads, width = c["num_attention_heads"], c["hidden_size"]
    kinds = c.get("architectures") or ()
    # transformers writes names of the labels, unless they are two, or as many as it was told
    labels = len(c.get("id2label") or ()) or c.get("num_labels", 2)
    classes = labels if "BertForSequenceClassification" in kinds else 0
    return ModelShape(
        layers=c["num_hidden_layers"], width=width, heads=heads, kv_heads=heads, head_size=width // heads,
        ffn=c["intermediate_size"], vocab=c["vocab_size"], context=c.get("max_position_embeddings", 512),
        classes=classes, outputs=1 if classes else 0,
        padded=bool(classes) and c.get("pad_token_id") == c["vocab_size"] - 1, kind="encoder", norm="layernorm", norm_at="post", embedding_norm=True,
        norm_eps=float(c.get("layer_norm_eps", 1e-12)), position="learned", segments=True,
        activation=_activation(c.get("hidden_act", "gelu"), ACTIVATIONS, where, "hidden_act"),
        head_transform=True, tied=True, bias=True,
        pairs="BertForPreTraining" in kinds,
    )  # fmt: skip


def t5_shape(c: Mapping[str, Any], where: str) -> ModelShape:
    _check(c, where, _T5_NEEDS)
    depth, context = c["num_layers"], c.get("n_positions") or 512
    # Version 1.0 shares its table with the head and scales what the head reads, 1.1 does neither.
    # transformers 5 says "tied" of both once it has saved them, and keeps the scaling in a key.
    scaled = bool(c.get("scale_decoder_outputs", c.get("tie_word_embeddings") is not False))
    proj = c.get("feed_forward_proj", "relu")
    return ModelShape(
        layers=c.get("num_decoder_layers") or depth, encoder_layers=depth, width=c["d_model"],
        heads=c["num_heads"], kv_heads=c["num_heads"], head_size=c["d_kv"], ffn=c["d_ff"],
        vocab=c["vocab_size"], context=context, source=context, outputs=context,
        kind="encoder_decoder", norm="rmsnorm", norm_eps=float(c.get("layer_norm_epsilon", 1e-6)),
        position="relative", scale_scores=False, bias=False, tied=scaled, scale_head=scaled,
        activation=_activation(proj, T5_ACTIVATIONS, where, "feed_forward_proj"),
    )  # fmt: skip


def _activation(name: str, ours: Mapping[str, str], where: str, key: str) -> str:
    """Return our name of an activation of theirs."""
    theirs = {v: k for k, v in ours.items()} | dict.fromkeys(GELU_TANH, "gelu")
    if "geglu" in ours:
        theirs |= {f"gated-{tanh}": "geglu" for tanh in GELU_TANH}
    _need(where, key, name, tuple(theirs), f"one of {', '.join(ours.values())}")
    return theirs[name]


def _check(c: Mapping[str, Any], where: str, needs: Needs) -> None:
    for key, default, allowed, ours in needs:
        _need(where, key, c.get(key, default), allowed, ours)


def _need(where: str, key: str, value: Any, allowed: Any, ours: str) -> None:
    if value not in allowed:
        raise ConfigError(
            f"{where}: {key}={shown(value)} is not supported; our model has {ours}. "
            "Give a folder whose model has the same."
        )


def shown(value: Any) -> str:
    """Return a value as configurations write it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
