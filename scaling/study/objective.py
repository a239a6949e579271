"""What a model learns to predict: the objective of a configuration, and the sizes that follow from it.

Objectives cut the same windows of text, `model.context` tokens each, so that D means the same for
all: tokens of text that were read. What the model sees and predicts of a window has other lengths;
they are fixed by the configuration, so that counts and FLOPs are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from scaling.study.config import ModelConfig, ObjectiveConfig
from scaling.study.errors import ConfigError

KINDS = {  # of models, and the objective each has by default
    "decoder": "next_token",
    "encoder": "masked",
    "encoder_decoder": "span_corruption",
}

IGNORE = -100  # a target that is not predicted; torch's own number for it
MARKS = 32  # of spans, in whole lots, so that models of most contexts have one vocabulary


def first_length(context: int) -> int:
    """Return the positions of a pair's first half: [cls], its tokens, [sep]."""
    return (context - 3) // 2 + 2


@dataclass(frozen=True)
class Layout:
    """How an objective lays out one window of text.

    Args:
        objective: next_token, masked or span_corruption.
        specials: tokens that are added behind the tokenizer's vocabulary, in order.
        source: positions of the encoder of an encoder_decoder; 0: there is none.
        outputs: positions that are predicted; 0: every position of the context.
        pairs: whether two halves are told apart and judged to follow each other.
    """

    objective: str = "next_token"
    specials: tuple[str, ...] = ()
    source: int = 0
    outputs: int = 0
    pairs: bool = False

    def special(self, name: str, vocab: int) -> int:
        """Return the number of a special token; `vocab`: tokens of the tokenizer."""
        return vocab + self.specials.index(name)


PLAIN = Layout()


def find_layout(objective: ObjectiveConfig, model: ModelConfig) -> Layout:
    """Return the layout that an objective gives windows of `model.context` tokens.

    Raises:
        ConfigError: the model's kind cannot learn it, or the context is too short.
    """
    name = objective.name or KINDS[model.kind]
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


def _check_context(words: int, least: int, context: int) -> None:
    if words < least:
        raise ConfigError(
            f"model.context: {context} tokens are too few for this objective. Set model.context={context - words + least} or more."
        )
