"""What a run takes from the weights it starts from: their shape, and which rows of their tables.

The run's data may be other than that of the weights: a language model learns to tell labels. Rows of
tables go by token, special tokens by name; heads that the weights lack are drawn fresh.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scaling.study.config import DataConfig, ModelConfig, ObjectiveConfig, RunConfig
from scaling.study.errors import ConfigError
from scaling.study.objective import Layout, find_layout
from scaling.study.pretrained import PARTS, SIZES, Pretrained
from scaling.study.shape import TOLERANCE, ModelShape, count_params, heads_for
from scaling.study.specials import read_specials

Rows = tuple[int | None, ...]  # of a table: the row of the weights that each starts as; null: fresh

# Released tables are filled up to a multiple of 64 or 128 rows, for the sake of matrix units: T5's has
# 32,128 for the 32,100 tokens of its tokenizer.
FILLED_UP, MOST_FILLED = 64, 128


def adopt_shape(
    model: ModelConfig,
    source: Pretrained,
    *,
    data: DataConfig,
    objective: ObjectiveConfig,
) -> ModelConfig:
    """Return the model configuration with the source's shape filled in.

    Sizes that are null and parts at their default are taken from the source; what is set to
    something else is refused. The context stays the run's own: rotary positions have no table, and
    of learned ones the first rows are used.

    Raises:
        ConfigError: a key, the vocabulary or the context contradicts the source.
    """
    shape, where = source.shape, f"model.init_from={source.name}"
    default = ModelConfig()
    for key in (*SIZES, *PARTS):
        asked, has = getattr(model, key), getattr(shape, key)
        if asked not in (has, getattr(default, key)):
            raise ConfigError(
                f"model.{key}={_shown(asked)}, but {where} has {_shown(has)}. Leave model.{key} out; the shape comes with the weights."
            )
    layout = find_layout(objective, replace(model, kind=shape.kind), data)
    map_rows(source, layout, vocab=data.vocab)  # or it says what does not fit
    if layout.pairs != shape.pairs and not layout.padded:
        raise ConfigError(
            f"objective.next_sentence={_shown(layout.pairs)}, but {where} has {_shown(shape.pairs)}. Set objective.next_sentence={_shown(shape.pairs)}."
        )
    if shape.position == "learned" and model.context > shape.context:
        raise ConfigError(
            f"model.context={model.context}, but {where} has {shape.context} learned positions. Set model.context={shape.context} or less."
        )
    size = count_params(shape).by(model.params_convention)
    if model.params is not None and abs(size / model.params - 1) > TOLERANCE:
        raise ConfigError(
            f"model.params={model.params:g}, but {where} has {size:,} {model.params_convention} parameters. "
            "Leave model.params out; the shape comes with the weights."
        )
    taken = {k: getattr(shape, k) for k in (*SIZES, *PARTS)}
    taken["encoder_layers"] = shape.encoder_layers or None
    taken["segments"] = shape.segments or (shape.pairs and not layout.pairs)  # its table stays
    if heads_for(shape.width) == shape.heads:  # as a run that leaves them open has them
        taken["heads"] = model.heads
    if model.family == default.family:
        taken["family"] = source.family
    return replace(model, params=None, **taken)


def adopted_shape(
    source: Pretrained, layout: Layout, *, model: ModelConfig, vocab: int
) -> ModelShape:
    """Return the shape of a run that starts from weights; its heads may be of any size.

    Args:
        layout: what the run's objective makes of a sequence.
        model: as `adopt_shape` gave it; vocab: tokens of the run's tokenizer.
    """
    return replace(
        source.shape, context=model.context, attention_scale=None, segments=model.segments,
        vocab=len(map_rows(source, layout, vocab=vocab)), **layout.sizes,
    )  # fmt: skip


def map_rows(source: Pretrained, layout: Layout, *, vocab: int) -> Rows:
    """Return for every row of a run's token table which row of the source's it starts as.

    The tokenizer's tokens keep their numbers, special tokens go by name. A Hugging Face table may have
    some rows more than tokens, which stay, unless the objective knows padding by its being the last.

    Args:
        layout: of the run; vocab: tokens of its tokenizer.

    Raises:
        ConfigError: the weights are for another number of tokens.
    """
    there, needed = source.shape.vocab, vocab + len(layout.specials)
    if source.tokens is None:
        filled = there % FILLED_UP == 0 and 0 <= there - needed < MOST_FILLED
        if there == needed or (filled and not layout.padded):
            return tuple(range(there))
    known = dict(source.specials) if source.tokens else read_specials(str(source.folder))
    own = source.tokens
    if own is None:  # a Hugging Face model of another objective
        own = _own_tokens(there, known, layout=layout, vocab=vocab)
    if own != vocab:
        raise ConfigError(
            f"data.vocab={vocab}, but the weights of model.init_from={source.name} are for {own} tokens. Set data.vocab={own} "
            "and data.tokenizer to the tokenizer they were trained with."
        )
    return (*range(vocab), *(known.get(name) for name in layout.specials))


def _own_tokens(there: int, known: dict[str, int], *, layout: Layout, vocab: int) -> int:
    """Return how many rows are tokens of the tokenizer: the asked number where that can be."""
    added = sum(number >= vocab for number in known.values())
    spare = there - vocab - added
    if layout.padded and (spare == 0 or (there % FILLED_UP == 0 and 0 <= spare < MOST_FILLED)):
        return vocab
    return there - len(layout.specials)


def check_parts(config: RunConfig, shape: ModelShape) -> None:
    """Refuse to train parts of weights that are not there.

    Raises:
        ConfigError: names the key.
    """
    parts, blocks = config.finetune.parts, config.finetune.blocks
    if parts != "all" and config.model.init_from is None:
        raise ConfigError(
            f"finetune.parts={parts}: needs weights to start from. Set model.init_from to a run or a Hugging Face "
            "folder, or leave finetune.parts out: fresh weights train all."
        )
    if parts == "last" and blocks > shape.layers:
        raise ConfigError(
            f"finetune.blocks={blocks}: the model has {shape.layers}. Set finetune.blocks={shape.layers} or less."
        )
    if parts == "lora" and config.finetune.rank > shape.width:
        raise ConfigError(
            f"finetune.rank={config.finetune.rank}: no matrix of the model has a rank above its width, {shape.width}. "
            f"Set finetune.rank={shape.width} or less."
        )
    if parts == "lora" and config.optim.parametrization != "standard":
        raise ConfigError(
            f"finetune.parts=lora: rates of adapters are not known under optim.parametrization={config.optim.parametrization}. "
            "Set optim.parametrization=standard."
        )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
