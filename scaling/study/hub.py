"""Shapes as Hugging Face configurations: `config.json` of llama, gpt2, bert and t5, both ways.

A part that a family lacks is refused with its key, so that an exported model computes what the run
computed, and a loaded one what its folder says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling.study import hub_families as families
from scaling.study.errors import ConfigError
from scaling.study.hub_families import PARTS, shown
from scaling.study.shape import ModelShape

FAMILIES = tuple(PARTS)
_CONFIGS = {
    "llama": families.llama_config,
    "gpt2": families.gpt2_config,
    "bert": families.bert_config,
    "t5": families.t5_config,
}
_SHAPES = {
    "llama": families.llama_shape,
    "gpt2": families.gpt2_shape,
    "bert": families.bert_shape,
    "t5": families.t5_shape,
}
NAMES = "llama, gpt2, bert or t5"


def family_of(shape: ModelShape) -> str:
    """Return the Hugging Face family that computes what this shape computes.

    Raises:
        ConfigError: none does; names each key that stands in the way.
    """
    family = _nearest(shape)
    wrong = [
        f"model.{key}={shown(_part(shape, key))} (it has {_shown_any(value)})"
        for key, value in PARTS[family].items()
        if _part(shape, key) not in (value if isinstance(value, tuple) else (value,))
    ]
    if family != "llama" and shape.kv_heads != shape.heads:
        wrong.append(f"model.kv_heads={shape.kv_heads} (it has as many as heads, {shape.heads})")
    if family in ("gpt2", "bert") and shape.heads * shape.head_size != shape.width:
        wrong.append(f"heads of {shape.head_size} channels (it has width / heads)")
    if family == "t5" and shape.tied != shape.scale_head:
        wrong.append(f"model.tied={shown(shape.tied)} with model.scale_head={shown(shape.scale_head)} (it has both or neither)")  # fmt: skip
    if wrong:
        raise ConfigError(
            f"Hugging Face's {family}, the nearest family, cannot express {', '.join(wrong)}. "
            f"Only runs trained with the parts of model={NAMES} can be exported."
        )
    return family


def _nearest(shape: ModelShape) -> str:
    if shape.kind == "decoder":
        return "gpt2" if shape.position == "learned" else "llama"
    return "bert" if shape.kind == "encoder" else "t5"


def _part(shape: ModelShape, key: str) -> Any:
    if key == "segments":
        return shape.has_segments
    if key == "scale_head" and shape.kind == "encoder_decoder":
        return False  # it goes with `tied`
    return getattr(shape, key)


def _shown_any(value: Any) -> str:
    return " or ".join(value) if isinstance(value, tuple) else shown(value)


def config_of(
    shape: ModelShape,
    *,
    end_of_text: int | None = None,
    specials: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return the `config.json` of a shape, for old and new versions of `transformers`.

    Args:
        shape: one that `family_of` accepts.
        end_of_text: number of the token that ends a document, where there is one.
        specials: numbers of the objective's special tokens; an encoder_decoder's answers begin with
            `start` and close with `end`.

    Raises:
        ConfigError: no family computes what this shape computes.
    """
    family = family_of(shape)
    tokens = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    if family == "t5":
        given = specials or {}
        start, end = given.get("start", 0), given.get("end", 1)  # T5's own, where nothing is said
        pad = given.get("pad", start)
        tokens = {"decoder_start_token_id": start, "pad_token_id": pad, "eos_token_id": end}
    common = {
        "model_type": family,
        "vocab_size": shape.vocab,
        "torch_dtype": "float32",
        "use_cache": True,
    }
    return common | tokens | _CONFIGS[family](shape)


def shape_of(config: Mapping[str, Any], *, where: str = "config.json") -> ModelShape:
    """Return the shape that a Hugging Face configuration describes.

    Args:
        config: what `config.json` holds; keys that are missing have transformers' defaults.
        where: named in errors.

    Returns:
        The shape. Of a T5, which has no longest text, it is that of `n_positions` tokens (512) to read
        and as many to write.

    Raises:
        ConfigError: another family, or an option that our model does not have.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ConfigError(
            f"{where}: model_type is {family!r}; only {NAMES} can be loaded. "
            "Give a folder of one of these, or of one of our runs."
        )
    try:
        return _SHAPES[family](config, where)
    except KeyError as error:
        raise ConfigError(
            f"{where}: {error.args[0]} is missing. Save the model again with save_pretrained."
        ) from None
