"""Text to token numbers and back: bytes, trained byte-level BPE, or any Hugging Face tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scaling.study.errors import ConfigError, DataError

END_OF_TEXT_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")
BATCH_CHARACTERS = 4_000_000  # encoded at a time; bounds memory


class Tokenizer(Protocol):
    """What the token store needs of a tokenizer."""

    name: str
    vocab: int
    end_of_text: int | None  # the token put after each document; None: there is none

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Return the tokens of each text, without special tokens."""
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """Return the text of tokens."""
        ...


class ByteTokenizer:
    """UTF-8 bytes as tokens; byte 0 ends a document."""

    name = "bytes"
    vocab = 256
    end_of_text: int | None = 0

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Return the UTF-8 bytes of each text."""
        return [np.frombuffer(text.encode("utf-8"), np.uint8) for text in texts]

    def decode(self, tokens: np.ndarray) -> str:
        """Return the text; a character cut in two at an end is replaced."""
        return np.asarray(tokens).astype(np.uint8).tobytes().decode("utf-8", errors="replace")


class FastTokenizer:
    """A tokenizer of the `tokenizers` library."""

    def __init__(self, backend: Any, *, name: str, end_of_text: str | None = None):
        """Wrap a `tokenizers.Tokenizer`; the end-of-text token is looked for if not named."""
        self.backend = backend
        self.name = name
        self.vocab = backend.get_vocab_size(with_added_tokens=True)
        names = (end_of_text,) if end_of_text else END_OF_TEXT_NAMES
        found = (backend.token_to_id(token) for token in names)
        self.end_of_text = next((number for number in found if number is not None), None)

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Return the tokens of each text, without special tokens."""
        encoded = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(e.ids, np.int64) for e in encoded]

    def decode(self, tokens: np.ndarray) -> str:
        """Return the text of tokens, special tokens left out."""
        return self.backend.decode(np.asarray(tokens).tolist())


def train_bpe(texts: Iterable[str], *, vocab: int) -> FastTokenizer:
    """Train a byte-level BPE with exactly `vocab` entries; the same texts give the same tokenizer.

    Raises:
        ConfigError: `vocab` is below the 257 that bytes and end-of-text need.
        DataError: the texts are too few to learn so many entries.
    """
    import tokenizers as hf

    if vocab < 257:
        raise ConfigError(
            f"data.vocab={vocab}: byte-level BPE needs 257 or more (256 bytes and end-of-text). "
            "Set data.vocab=512."
        )
    backend = hf.Tokenizer(hf.models.BPE())
    backend.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT_NAMES[0]],
        initial_alphabet=sorted(hf.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    trained = FastTokenizer(backend, name="bpe")
    if trained.vocab != vocab:
        raise DataError(
            f"data.vocab={vocab}: the training text yields only {trained.vocab} BPE entries. Set "
            f"data.vocab={trained.vocab} or give more text."
        )
    return trained


def load_tokenizer(name: str) -> Tokenizer:
    """Return `bytes`, or a Hugging Face tokenizer by folder, file or name.

    A folder needs its tokenizer.json. A name is looked up by `transformers` in the local hub cache
    and then, unless HF_HUB_OFFLINE is set, online.

    Raises:
        DataError: there is no such tokenizer; says where it was looked for.
    """
    if name == "bytes":
        return ByteTokenizer()
    path = Path(name).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        return _load_file(file, name)
    return _load_pretrained(name)


def tokenizer_identity(name: str) -> str:
    """Return the name, and for a local tokenizer a hash of its file, which may change."""
    path = Path(name).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        return name
    return f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}"


def check_vocab(tokenizer: Tokenizer, vocab: int) -> None:
    """Raise ConfigError, with both numbers, unless `data.vocab` is what the tokenizer has."""
    if tokenizer.vocab != vocab:
        raise ConfigError(
            f"data.vocab={vocab}, but the tokenizer {tokenizer.name!r} has {tokenizer.vocab} "
            f"tokens. Set data.vocab={tokenizer.vocab}."
        )


def encode_documents(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Yield the tokens of documents, each closed by the end-of-text token, many at a time."""
    for batch in _batches(texts):
        yield np.concatenate(list(_encode_batch(tokenizer, batch)))


def encode_singly(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Yield the tokens of each document, closed by the end-of-text token where there is one."""
    for batch in _batches(texts):
        yield from _encode_batch(tokenizer, batch)


def _encode_batch(tokenizer: Tokenizer, batch: list[str]) -> Iterator[np.ndarray]:
    end = [] if tokenizer.end_of_text is None else [np.array([tokenizer.end_of_text])]
    return (np.concatenate([tokens, *end]) for tokens in tokenizer.encode(batch))


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for text in texts:
        batch.append(text)
        held += len(text)
        if held >= BATCH_CHARACTERS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _load_file(file: Path, name: str) -> FastTokenizer:
    import tokenizers as hf

    try:
        backend = hf.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises a bare Exception for a file it cannot parse
        raise DataError(
            f"data.tokenizer={name!r}: {file} is not a tokenizer.json ({error}). Save it again "
            "with `tokenizer.save`."
        ) from error
    return FastTokenizer(backend, name=name, end_of_text=_configured_end(file.parent))


def _configured_end(folder: Path) -> str | None:
    """Return the eos_token that a tokenizer_config.json beside the tokenizer names, if any."""
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return None
    token = json.loads(file.read_text(encoding="utf-8")).get("eos_token")
    return token.get("content") if isinstance(token, dict) else token


def _load_pretrained(name: str) -> FastTokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError(
            f"data.tokenizer={name!r}: no such folder or tokenizer.json, and looking up a name "
            "needs the "
            "package `transformers`. Give a folder, or install it: pip install 'scaling-lab[hf]'."
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True)
    except (OSError, ValueError) as error:
        raise DataError(
            f"data.tokenizer={name!r}: no such folder, and not found on the Hugging Face hub "
            f"({str(error).splitlines()[0]}). "
            "Check the name and the connection, or give a folder that holds tokenizer.json."
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"data.tokenizer={name!r}: has no fast version. Convert it to a tokenizer.json and "
            "give its folder."
        )
    return FastTokenizer(tokenizer.backend_tokenizer, name=name, end_of_text=tokenizer.eos_token)
