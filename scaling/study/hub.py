"""Shapes as Hugging Face configurations: `config.json` of the families llama and gpt2, both ways.

Only what changes numbers is read. A part that a family lacks is refused with its key, so that an
exported model computes what the run computed, and a loaded one what its folder says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling.study.errors import ConfigError
from scaling.study.shape import ModelShape

_PLAIN = {
    "norm_at": "pre",
    "embedding_norm": False,
    "scale_scores": True,
    "head_transform": False,
    "scale_head": False,
    "segments": False,
}
# What every model of a family has; the names are ours, a null is free.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        **_PLAIN,
        "position": "rotary",
        "norm": "rmsnorm",
        "activation": "swiglu",
        "qk_norm": "none",
    },
    "gpt2": {
        **_PLAIN,
        "position": "learned",
        "norm": "layernorm",
        "activation": "gelu",
        "qk_norm": "none",
        "bias": True,
    },
}
GELU_TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # names of the form GPT-2 uses


def family_of(shape: ModelShape) -> str:
    """Return the Hugging Face family that computes what this shape computes.

    Raises:
        ConfigError: neither llama nor gpt2 does; names each key that stands in the way.
    """
    if shape.kind != "decoder":
        raise ConfigError(
            f"model.kind={shape.kind}: only decoders can be brought to Hugging Face so far, as llama or gpt2. "
            "Read the weights from the run's checkpoint/model.safetensors."
        )
    family = "gpt2" if shape.position == "learned" else "llama"
    wrong = [
        f"model.{key}={_shown(getattr(shape, key))} (it has {_shown(value)})"
        for key, value in FAMILIES[family].items()
        if getattr(shape, key) != value
    ]
    if family == "gpt2" and shape.kv_heads != shape.heads:
        wrong.append(f"model.kv_heads={shape.kv_heads} (it has as many as heads, {shape.heads})")
    if family == "gpt2" and shape.heads * shape.head_size != shape.width:
        wrong.append(f"heads of {shape.head_size} channels (it has width / heads)")
    if wrong:
        raise ConfigError(
            f"Hugging Face's {family}, the nearest family, cannot express {', '.join(wrong)}. "
            "Only runs trained with the parts of model=llama or model=gpt2 can be exported."
        )
    return family


def config_of(shape: ModelShape, *, end_of_text: int | None = None) -> dict[str, Any]:
    """Return the `config.json` of a shape, for old and new versions of `transformers`.

    Args:
        shape: one that `family_of` accepts.
        end_of_text: number of the token that ends a document, where there is one.

    Raises:
        ConfigError: neither family computes what this shape computes.
    """
    family = family_of(shape)
    tokens = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    common = {
        "architectures": [{"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}[family]],
        "model_type": family,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "float32",
        "use_cache": True,
    }
    return common | tokens | (_llama_config if family == "llama" else _gpt2_config)(shape)


def _llama_config(s: ModelShape) -> dict[str, Any]:
    return {
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


def _gpt2_config(s: ModelShape) -> dict[str, Any]:
    return {
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


def shape_of(config: Mapping[str, Any], *, where: str = "config.json") -> ModelShape:
    """Return the shape that a Hugging Face configuration describes.

    Args:
        config: what `config.json` holds; keys that are missing have transformers' defaults.
        where: named in errors.

    Raises:
        ConfigError: another family, or an option that our model does not have.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ConfigError(
            f"{where}: model_type is {family!r}; only {' and '.join(FAMILIES)} can be loaded. "
            "Give a folder of one of these, or of one of our runs."
        )
    try:
        return (_llama_shape if family == "llama" else _gpt2_shape)(config, where)
    except KeyError as error:
        raise ConfigError(
            f"{where}: {error.args[0]} is missing. Save the model again with save_pretrained."
        ) from None


def _llama_shape(c: Mapping[str, Any], where: str) -> ModelShape:
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


_GPT2_NEEDS: tuple[tuple[str, Any, tuple, str], ...] = (  # key, default, allowed, what ours has
    ("activation_function", "gelu_new", GELU_TANH, "GELU in tanh form"),
    ("scale_attn_weights", True, (True,), "scores over sqrt(head size)"),
    ("scale_attn_by_inverse_layer_idx", False, (False,), "one scale in all layers"),
    ("add_cross_attention", False, (False,), "a decoder alone"),
)


def _gpt2_shape(c: Mapping[str, Any], where: str) -> ModelShape:
    for key, default, allowed, ours in _GPT2_NEEDS:
        _need(where, key, c.get(key, default), allowed, ours)
    heads, width = c["n_head"], c["n_embd"]
    return ModelShape(
        layers=c["n_layer"], width=width, heads=heads, kv_heads=heads, head_size=width // heads,
        ffn=c.get("n_inner") or 4 * width, vocab=c["vocab_size"], context=c["n_positions"],
        norm="layernorm", norm_eps=float(c.get("layer_norm_epsilon", 1e-5)), position="learned",
        activation="gelu", tied=bool(c.get("tie_word_embeddings", True)), bias=True,
    )  # fmt: skip


def _need(where: str, key: str, value: Any, allowed: Any, ours: str) -> None:
    if value not in allowed:
        raise ConfigError(
            f"{where}: {key}={_shown(value)} is not supported; our model has {ours}. "
            "Give a folder whose model has the same."
        )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
