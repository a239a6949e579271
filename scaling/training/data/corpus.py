"""Real text to token stores: spool, deduplicate, split, tokenise, write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scaling.study.config import DataConfig
from scaling.study.errors import DataError
from scaling.training.data.documents import DocumentPool
from scaling.training.data.slices import check_groups, write_slice
from scaling.training.data.sources import stdlib_documents
from scaling.training.data.store import write_store
from scaling.training.data.texts import is_streamed, text_documents
from scaling.training.data.tokenizers import (
    FastTokenizer,
    Tokenizer,
    check_vocab,
    encode_documents,
    encode_singly,
    load_tokenizer,
    train_bpe,
)

BYTES_PER_TOKEN = 4.0  # first guess for tokenizers other than bytes; only sizes the first split
STREAM_BYTES_PER_TOKEN = 6.0  # generous: a streamed dataset is cut to its size after tokenising
ENDS = "val_ends.npy"  # int64 [documents]: the token after the last of each held-out document
Progress = Callable[[str, float], None]


def build_corpus(config: DataConfig, folder: Path, *, on_progress: Progress) -> dict[str, Any]:
    """Write the stores `train` and `val` of a text source into a folder.

    A trained tokenizer sees training documents only and is saved beside the tokens.

    Returns:
        What the manifest says of it: tokenizer, bytes per token, numbers of documents.

    Raises:
        DataError: there is no text, or too little for the held-out part.
    """
    on_progress(f"reading {config.source}", 0.0)
    pool = DocumentPool(_documents(config), folder / "spool.tmp")
    tokenizer, documents, held_out, training = _split(config, pool, on_progress)
    val_tokens = write_held_out(
        folder, documents, vocab=config.vocab, limit=int(config.val_tokens) + 1
    )
    texts = _watch(pool.read(training), pool.count_bytes(training), on_progress)
    streamed = config.source == "text" and is_streamed(config.path or "")
    limit = int(config.size) if streamed else None
    tokens = encode_documents(tokenizer, texts)
    write_store(folder, "train", tokens, vocab=config.vocab, limit=limit)
    if isinstance(tokenizer, FastTokenizer) and config.tokenizer == "bpe":
        tokenizer.backend.save(str(folder / "tokenizer.json"))
    slices = _write_slices(config, folder, pool, documents, held_out, training)
    (folder / "spool.tmp").unlink()
    return {
        "tokenizer": config.tokenizer,
        "slices": slices,
        "bytes_per_token": pool.count_bytes(held_out) / val_tokens,
        "documents": {"train": len(training), "val": len(held_out), "bytes": pool.bytes},
    }


def _write_slices(
    config: DataConfig,
    folder: Path,
    pool: DocumentPool,
    documents: list[np.ndarray],
    held_out: np.ndarray,
    training: np.ndarray,
) -> list[dict[str, Any]]:
    """Write the held-out documents once more, each group by itself."""
    if config.group_key is None:
        return []
    check_groups(config.group_key, pool.groups)
    groups = np.array(pool.groups)
    slices: list[dict[str, Any]] = []
    for label in sorted(set(pool.groups)):
        chosen = np.flatnonzero(groups[held_out] == label)
        if not len(chosen):
            continue  # all of its documents are in training
        tokens = [documents[i] for i in chosen]
        size, count = pool.count_bytes(held_out[chosen]), sum(map(len, tokens))
        characters = sum(len(text) + 1 for text in pool.read(held_out[chosen]))
        own = pool.count_bytes(training[groups[training] == label])
        slices.append(
            write_slice(
                folder, len(slices), tokens, group=label, vocab=config.vocab, limit=int(config.val_tokens) + 1,
                bytes_per_token=size / count, characters_per_token=characters / count,
                share=own / pool.count_bytes(training),
            )
        )  # fmt: skip
    return slices


def write_held_out(folder: Path, documents: list[np.ndarray], *, vocab: int, limit: int) -> int:
    """Write the store `val` and where its documents end; returns the tokens before the limit."""
    ends = np.cumsum([len(d) for d in documents])
    write_store(folder, "val", documents, vocab=vocab, limit=limit)
    np.save(folder / ENDS, ends[ends < limit])
    return int(ends[-1])


def _documents(config: DataConfig) -> Iterator[str]:
    if config.source == "stdlib":
        return stdlib_documents()
    ratio = 1.0 if config.tokenizer == "bytes" else STREAM_BYTES_PER_TOKEN
    wanted = ratio * (config.size + config.val_tokens)
    return text_documents(
        config.path or "", text_key=config.text_key, group_key=config.group_key, stream_bytes=wanted
    )


def _split(
    config: DataConfig, pool: DocumentPool, on_progress: Progress
) -> tuple[Tokenizer, list[np.ndarray], np.ndarray, np.ndarray]:
    """Hold out enough documents for `val_tokens`; return tokenizer, held-out tokens, both splits.

    How many bytes a token holds is known only after the tokenizer is trained, which may only see
    training documents; so too small a held-out part is made larger and all is done again.
    """
    wanted = int(config.val_tokens) + 1
    guess = 1.0 if config.tokenizer == "bytes" else BYTES_PER_TOKEN
    while True:
        held_out, training = pool.split(wanted * guess)
        _check_split(config, pool, held_out, training)
        tokenizer = _tokenizer(config, pool.read(training), on_progress)
        check_vocab(tokenizer, config.vocab)
        val = list(encode_singly(tokenizer, pool.read(held_out)))
        if (tokens := sum(map(len, val))) >= wanted:
            return tokenizer, val, held_out, training
        guess *= 1.1 * wanted / tokens


def _check_split(
    config: DataConfig, pool: DocumentPool, held_out: np.ndarray, training: np.ndarray
) -> None:
    where = f"data.source={config.source}" + (f" ({config.path})" if config.path else "")
    if not len(pool):
        raise DataError(f"{where}: no text in it. Give files that hold text.")
    if not len(held_out):
        raise DataError(
            f"{where}: each of its {len(pool)} documents has more than 16 KiB and more than an eighth of "
            f"data.val_tokens={config.val_tokens:g}, too much to be held out. Set data.val_tokens larger, "
            "or give text in shorter documents."
        )
    if 2 * pool.count_bytes(held_out) > pool.bytes or not len(training):
        raise DataError(
            f"{where}: {pool.bytes:,} bytes in {len(pool)} different documents are too little to "
            f"hold out data.val_tokens={config.val_tokens:g}. "
            f"Set data.val_tokens to {max(1, pool.bytes // 10)} or less, or give more text in "
            "more documents."
        )


def _tokenizer(config: DataConfig, texts: Iterable[str], on_progress: Progress) -> Tokenizer:
    if config.tokenizer != "bpe":
        return load_tokenizer(config.tokenizer)
    on_progress("training the tokenizer", 0.1)
    return train_bpe(texts, vocab=config.vocab)


def _watch(texts: Iterable[str], size: int, on_progress: Progress) -> Iterator[str]:
    """Pass texts on and report how far they are, from 0.3 on, some hundred times in all."""
    done, reported = 0, 0.0
    for text in texts:
        yield text
        done += len(text)
        if done / size > reported + 0.01:
            reported = done / size
            on_progress("tokenising", 0.3 + 0.7 * min(1.0, reported))
