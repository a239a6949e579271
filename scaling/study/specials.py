"""Special tokens that a tokenizer itself has, read from its files; what is missing comes behind its vocabulary.

Nothing here loads a tokenizer: a plan needs the numbers alone.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling.study.errors import ConfigError, DataError

# How tokenizers write them, the first as ours does: BERT's, RoBERTa's and T5's (the files that
# `transformers` 5 writes of BertTokenizer, RobertaTokenizer and T5Tokenizer).
TEXTS = {
    "mask": ("[MASK]", "<mask>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "start": ("<pad>",),  # T5 begins its answers with it
    "end": ("</s>",),
}
MARK = "<extra_id_{}>"  # of a span; T5's
_SPAN = "span_"


def text_of(name: str) -> str:
    """Return how a special token is written where a tokenizer gets it from us."""
    if name.startswith(_SPAN):
        return MARK.format(name.removeprefix(_SPAN))
    if name == "pad":  # <pad> is what T5 begins with
        return "[PAD]"
    return TEXTS[name][0] if name in TEXTS else f"<{name}>"


def read_specials(tokenizer: str) -> dict[str, int]:
    """Return the numbers of the special tokens that a tokenizer has, by our names for them.

    Args:
        tokenizer: `data.tokenizer`; of a folder or file its tokenizer.json is read, of `bytes`, `bpe`
            and names on the hub nothing is known.

    Raises:
        DataError: the file is no tokenizer.json.
    """
    path = Path(tokenizer).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if tokenizer in ("bytes", "bpe") or not file.is_file():
        return {}
    return dict(_read(file, file.stat().st_mtime_ns))


@functools.lru_cache(maxsize=8)
def _read(file: Path, _: int) -> tuple[tuple[str, int], ...]:
    try:
        added = json.loads(file.read_text(encoding="utf-8"))["added_tokens"]
        numbers = {str(token["content"]): int(token["id"]) for token in added}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{file}: its special tokens cannot be read ({error!r}). Save the tokenizer again with "
            "`tokenizer.save`, or name them, e.g. objective.specials.mask=4."
        ) from None
    found = {
        name: numbers[text] for name, texts in TEXTS.items() if (text := _first(texts, numbers))
    }
    marks: dict[str, int] = {}
    while (text := MARK.format(len(marks))) in numbers:
        marks[f"{_SPAN}{len(marks)}"] = numbers[text]
    if not marks:  # only T5's begin an answer with what fills up a text
        found.pop("start", None)
    return tuple((found | marks).items())


def _first(texts: tuple[str, ...], numbers: Mapping[str, int]) -> str | None:
    return next((text for text in texts if text in numbers), None)


def check_specials(specials: Mapping[str, Any], *, vocab: int) -> None:
    """Refuse numbers that are none of the tokenizer's, and one number for two tokens.

    Raises:
        ConfigError: names the token.
    """
    for name, number in specials.items():
        if name not in TEXTS and not name.removeprefix(_SPAN).isdigit():
            raise ConfigError(
                f"objective.specials.{name}: no such token. Name one of {', '.join(TEXTS)}, span_0, span_1 ..."
            )
        if not 0 <= number < vocab:
            raise ConfigError(
                f"objective.specials.{name}={number}: the tokenizer has the numbers 0 to {vocab - 1} (data.vocab). "
                "Leave the token out, and it comes behind them."
            )
        other = next(n for n, k in specials.items() if k == number)
        if other != name:
            raise ConfigError(
                f"objective.specials: {other} and {name} are both {number}. Give each its own, or leave one out."
            )
