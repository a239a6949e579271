"""What a model learns to predict: the objective of a configuration, and the sizes that follow from it.

Objectives cut the same windows of text, `model.context` tokens each, so that D means the same for
all: tokens of text that were read. What the model sees and predicts of a window has other lengths;
they are fixed by the configuration, so that counts and FLOPs are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from scaling.study.config import DataConfig, ModelConfig, ObjectiveConfig
from scaling.study.errors import ConfigError

KINDS = {  # of models, and the objective each has by default
    "decoder": "next_token",
    "encoder": "masked",
    "encoder_decoder": "span_corruption",
}

PAIRS = (
    "classify",
    "translate",
    "summarize",
    "pairs",
)  # sources of texts with what belongs to them

IGNORE = -100  # a target that is not predicted; torch's own number for it
MARKS = 32  # of spans, in whole lots, so that models of most contexts have one vocabulary


def first_length(context: int) -> int:
    """Return the positions of a pair's first half: [cls], its tokens, [sep]."""
    return (context - 3) // 2 + 2


@dataclass(frozen=True)
class Layout:
    """How an objective lays out one window of text.

    Args:
        objective: next_token, masked, span_corruption, seq2seq or classify.
        specials: tokens that are added behind the tokenizer's vocabulary, in order.
        given: tokens that the tokenizer has, with their numbers.
        source: positions of the encoder of an encoder_decoder; 0: there is none.
        outputs: positions that are predicted; 0: every position of the context.
        pairs: whether two halves are told apart and judged to follow each other.
        classes: outputs of a head of labels; 0: labels, if any, are special tokens that are written.
        padded: whether sequences are filled up by `pad`, the last special token.
    """

    objective: str = "next_token"
    specials: tuple[str, ...] = ()
    given: tuple[tuple[str, int], ...] = ()
    source: int = 0
    outputs: int = 0
    pairs: bool = False
    classes: int = 0
    padded: bool = False

    @property
    def sizes(self) -> dict[str, Any]:
        """Return what a model's shape takes from here, by the shape's own names."""
        names = ("source", "outputs", "pairs", "classes", "padded")
        return {name: getattr(self, name) for name in names}

    def special(self, name: str, vocab: int) -> int:
        """Return the number of a special token; `vocab`: tokens of the tokenizer."""
        return self.numbers(vocab)[name]

    def numbers(self, vocab: int) -> dict[str, int]:
        """Return the numbers of all special tokens by name."""
        added = {name: vocab + i for i, name in enumerate(self.specials)}
        return dict(self.given) | added

    def with_given(self, specials: Mapping[str, int] | None) -> Layout:
        """Return the layout that takes these tokens from the tokenizer, where it needs them."""
        known = specials or {}
        return replace(
            self,
            specials=tuple(name for name in self.specials if name not in known),
            given=tuple((name, known[name]) for name in self.specials if name in known),
        )


PLAIN = Layout()


def find_layout(
    objective: ObjectiveConfig, model: ModelConfig, data: DataConfig | None = None
) -> Layout:
    """Return the layout that an objective gives windows of `model.context` tokens.

    Args:
        data: of labelled texts and of pairs of texts the windows are these; null: of plain text.

    Raises:
        ConfigError: the model's kind cannot learn it, or the context is too short.
    """
    return _find_layout(objective, model, data).with_given(objective.specials)


def _find_layout(objective: ObjectiveConfig, model: ModelConfig, data: DataConfig | None) -> Layout:
    if data is not None and data.source in PAIRS:
        return _of_pairs(objective, model, data)
    name = objective.name or KINDS[model.kind]
    if name in ("seq2seq", "classify"):
        raise ConfigError(
            f"objective.name: {name} needs texts in pairs. Set data.source to one of {', '.join(PAIRS)}."
        )
    if name != KINDS[model.kind]:
        kind = next(k for k, o in KINDS.items() if o == name)
        raise ConfigError(
            f"objective.name: {name} does not go with model.kind={model.kind}. Set model.kind={kind}, or leave "
            f"objective.name null, which is {KINDS[model.kind]} here."
        )
    if name == "masked":
        return _masked(objective, model.context)
    if name == "span_corruption":
        return _spans(objective, model.context)
    return PLAIN


def _masked(objective: ObjectiveConfig, context: int) -> Layout:
    """A fixed number of positions is chosen, so that the head need not score the others."""
    words = context
    specials: tuple[str, ...] = ("mask",)
    if objective.next_sentence:
        words, specials = context - 3, ("mask", "cls", "sep")  # [cls] half [sep] half [sep]
        _check_context(words, 4, context)
    return Layout(
        objective="masked",
        specials=specials,
        outputs=min(words, max(1, round(objective.rate * words))),
        pairs=objective.next_sentence,
    )


def count_spans(objective: ObjectiveConfig, context: int) -> tuple[int, int]:
    """Return how many tokens of a window are cut out, and in how many spans.

    Source: Raffel et al. 2020 (arXiv:1910.10683), section 3.1.4; both numbers are fixed, not drawn.
    """
    cut = min(max(1, round(objective.rate * context)), context - 1)
    spans = max(1, round(cut / objective.span))
    return cut, min(spans, context - cut)


def _spans(objective: ObjectiveConfig, context: int) -> Layout:
    """The encoder reads what is left with a mark for each span, the decoder writes the spans."""
    cut, spans = count_spans(objective, context)
    return Layout(
        objective="span_corruption",
        specials=("start", "end", *(f"span_{i}" for i in range(-(-spans // MARKS) * MARKS))),
        source=context - cut + spans + 1,
        outputs=cut + spans + 1,
    )


def _of_pairs(objective: ObjectiveConfig, model: ModelConfig, data: DataConfig) -> Layout:
    """A text is read, and its label told or another text written; both in places of fixed number.

    A decoder reads [sep] behind the text and then writes; an encoder tells the label from [cls]
    before the text; what an encoder_decoder writes follows [start].
    """
    name = "seq2seq" if data.classes is None else "classify"
    _check_pairs(objective, model, data, name)
    written = 1 if data.classes else data.target_tokens or model.context // 2
    _check_context(model.context - written, 1, model.context)
    labels = tuple(f"class_{i}" for i in range(data.classes or 0))
    first = {"decoder": "sep", "encoder": "cls", "encoder_decoder": "start"}[model.kind]
    told = model.kind == "encoder"
    return Layout(
        objective=name,
        specials=(first, *(() if told else labels or ("end",)), "pad"),
        source=model.context - written if model.kind == "encoder_decoder" else 0,
        outputs=written,
        classes=len(labels) if told else 0,
        padded=True,
    )


def _check_pairs(
    objective: ObjectiveConfig, model: ModelConfig, data: DataConfig, name: str
) -> None:
    where = f"data.source={data.source}"
    if (data.source == "classify") != (data.classes is not None) and data.source != "pairs":
        how = "Set data.classes=8" if data.classes is None else "Set data.classes=null"
        raise ConfigError(f"data.classes: is {data.classes} with {where}. {how}.".replace("None", "null"))  # fmt: skip
    if objective.name not in (None, name):
        raise ConfigError(
            f"objective.name: {objective.name} is not what is learned from {where}, which is {name}. Leave it null."
        )
    if name == "seq2seq" and model.kind == "encoder":
        raise ConfigError(
            f"model.kind: an encoder writes no text, as {where} asks. Set model.kind=decoder or encoder_decoder; "
            "or, where the second text is a label, data.classes to their number."
        )
    if data.source in ("translate", "summarize") and data.levels > data.depth:
        raise ConfigError(
            f"data.levels: {data.levels} levels are more than the hierarchy has (data.depth={data.depth}). Set data.levels={data.depth} or less."
        )


def _check_context(words: int, least: int, context: int) -> None:
    if words < least:
        raise ConfigError(
            f"model.context: {context} tokens are too few for this objective. Set model.context={context - words + least} or more."
        )
