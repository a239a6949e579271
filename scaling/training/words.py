"""What stands between a user's text and the tokens of a model: its tokenizer, its marks, its numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from scaling.study.errors import ConfigError, DataError
from scaling.study.objective import Layout, find_layout
from scaling.study.pretrained import Pretrained, run_config
from scaling.study.record import read_record
from scaling.training.data.portable import run_tokenizer
from scaling.training.data.tokenizers import Tokenizer, load_tokenizer

# T5's name of the mark that stands for a missing span (Raffel et al. 2020, arXiv:1910.10683), as
# transformers writes it.
MARK = "<extra_id_{}>"
_MARK = re.compile(r"<extra_id_(\d+)>")
# Characters that end a decoded text while the bytes of one are not all there: at most 3 of 4.
BROKEN, MOST_BROKEN = "\ufffd", 3
# Tokens of which text is made again with every new one; more only once all their characters are whole.
KEPT = 16


class Words(Protocol):
    """Text to tokens and back.

    end: the token that ends a text. start: that which an encoder-decoder's answers begin behind.
    """

    end: int | None
    start: int | None

    def encode(self, text: str) -> np.ndarray:
        """Return the tokens of a prompt, one at least."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; what is no whole character is replaced."""
        ...


class TextWords:
    """A tokenizer's."""

    start: int | None = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.end = tokenizer, tokenizer.end_of_text

    def encode(self, text: str) -> np.ndarray:
        tokens = np.asarray(self.tokenizer.encode([text])[0], np.int64)
        if len(tokens):
            return tokens
        if self.end is None:
            raise ConfigError("prompt: empty, and the tokenizer has no token that a text begins behind. Give some words.")  # fmt: skip
        return np.array([self.end])

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(np.asarray(tokens, np.int64)) if len(tokens) else ""


class SymbolWords:
    """Numbers, for sources whose symbols stand for no text."""

    end: int | None = None
    start: int | None = None

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab

    def encode(self, text: str) -> np.ndarray:
        words = text.split()
        wrong = [w for w in words if not (w.isdecimal() and int(w) < self.vocab)]
        if wrong or not words:
            raise ConfigError(
                f"prompt: the run's symbols stand for no text; give numbers below {self.vocab}, e.g. prompt='3 17 4'; "
                f"got {wrong[0] if wrong else 'nothing'}."
            )
        return np.array(words, np.int64)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(f"{t} " for t in tokens)


class MarkedWords:
    """Those of objectives with special tokens.

    Span corruption: what a source lacks is a mark, and the answer says what stood there; a source
    without a mark gets one behind it, so that it is continued. Pairs: the text is read, and what
    belongs to it is written, or its label told.
    """

    def __init__(
        self, plain: TextWords | SymbolWords, layout: Layout, *, vocab: int, kind: str
    ) -> None:
        numbers = layout.numbers(vocab)
        self.plain, self.numbers, self.spans = plain, numbers, layout.objective == "span_corruption"
        self.start: int | None = numbers.get("start")
        self.end: int | None = numbers.get("end")
        self.behind = [numbers["sep"]] if kind == "decoder" else []
        if self.spans:
            self.behind = [numbers["end"]]
        self.marks = sum(name.startswith("span_") for name in numbers)
        self.texts = {number: _shown(name) for name, number in numbers.items()}

    def encode(self, text: str) -> np.ndarray:
        if self.spans and not _MARK.search(text):
            text += MARK.format(0)
        tokens: list[int] = []
        for place, part in enumerate(_MARK.split(text) if self.spans else [text]):
            if place % 2:  # text, number of a mark, text, ...
                tokens.append(self._number(part))
            elif part if isinstance(self.plain, TextWords) else part.strip():
                tokens += self.plain.encode(part).tolist()
        return np.array([*tokens, *self.behind], np.int64)

    def _number(self, text: str) -> int:
        if int(text) >= self.marks:
            raise ConfigError(f"prompt: {MARK.format(text)} is beyond the run's {self.marks} marks. Number them from {MARK.format(0)}.")  # fmt: skip
        return self.numbers[f"span_{int(text)}"]

    def decode(self, tokens: Sequence[int]) -> str:
        text, plain = "", []
        for token in tokens:
            if token not in self.texts:
                plain.append(token)
                continue
            text += self.plain.decode(plain) + self.texts[token]
            plain = []
        return text + self.plain.decode(plain)


def _shown(name: str) -> str:
    """Return how a special token is written in text."""
    return MARK.format(name[5:]) if name.startswith("span_") else f"<{name}>"


def open_words(source: Pretrained) -> Words:
    """Return the words of a run, or of a Hugging Face folder.

    Raises:
        DataError: its tokenizer cannot be had any more, or there is none.
    """
    if source.kind == "hub":
        if not (source.folder / "tokenizer.json").is_file():
            raise DataError(f"{source.folder / 'tokenizer.json'}: not there. Save the tokenizer beside the model with save_pretrained.")  # fmt: skip
        return TextWords(load_tokenizer(str(source.folder)))
    return _run_words(source.folder)


def _run_words(folder: Path) -> Words:
    config, record = run_config(folder), read_record(folder)
    layout = find_layout(config.objective, config.model, config.data)
    tokenizer = run_tokenizer(config.data, context=config.model.context, data_hash=record.data_hash)
    words = SymbolWords(config.data.vocab) if tokenizer is None else TextWords(tokenizer)
    if layout.objective == "next_token":
        return words
    return MarkedWords(words, layout, vocab=config.data.vocab, kind=config.model.kind)


class Speller:
    """Text of tokens that come one by one; the bytes of a character wait until it is whole.

    Args:
        words: of the model. before: the tokens of the prompt; some tokenizers write a word's first
            token with a space only if something stands before it.
    """

    def __init__(self, words: Words, before: Sequence[int] = ()) -> None:
        self.words, self.tokens = words, list(before[-KEPT:])
        self.shown = len(words.decode(self.tokens))

    def add(self, token: int) -> str:
        """Return the text that is whole with this token, and was not before."""
        self.tokens.append(token)
        text = self.words.decode(self.tokens)
        whole = len(text)
        while whole > 0 and len(text) - whole < MOST_BROKEN and text[whole - 1] == BROKEN:
            whole -= 1
        piece, self.shown = text[self.shown : whole], max(self.shown, whole)
        if whole == len(text) and len(self.tokens) >= 4 * KEPT:
            self.tokens = self.tokens[-KEPT:]
            self.shown = len(self.words.decode(self.tokens))
        return piece

    def finish(self) -> str:
        """Return what is left: the replacement of a character that never became whole."""
        return self.words.decode(self.tokens)[self.shown :]
