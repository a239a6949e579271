"""Further held-out texts: per domain, per language, in the tokens of the run they judge.

A set is read, shuffled by content and tokenised once, and kept in the cache like all other tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from scaling.study.config import DataConfig
from scaling.study.errors import ConfigError, DataError
from scaling.training.data.cache import build_once, cache_folder, read_manifest
from scaling.training.data.corpus import (
    ENDS,
    STREAM_BYTES_PER_TOKEN,
    Progress,
    write_held_out,
)
from scaling.training.data.dataset import HeldOut
from scaling.training.data.documents import SMALL_DOCUMENT, DocumentPool
from scaling.training.data.shard import load_array
from scaling.training.data.store import TokenStore, hash_texts
from scaling.training.data.texts import text_documents, text_identity
from scaling.training.data.tokenizers import (
    ByteTokenizer,
    Tokenizer,
    check_vocab,
    encode_singly,
    load_tokenizer,
    tokenizer_identity,
)

FORMAT = 1  # counts up when the same text would give other files
READABLE = ("stdlib", "text", "ngram", "bilingual")  # sources whose tokens are text
SHARE = 8  # of the tokens, one document has at most an eighth: the loss is to be a mean over many


def check_sets(config: DataConfig) -> None:
    """Refuse validation sets for a source whose symbols are not text.

    Raises:
        ConfigError: names the first set and the source.
    """
    if config.validation and config.source not in READABLE:
        name = next(iter(config.validation))
        raise ConfigError(
            f"data.validation.{name}: data.source={config.source} makes symbols that are not text, so no text can "
            f"be scored. Leave data.validation out, or use data.source={', '.join(READABLE[:-1])} or {READABLE[-1]}."
        )


def prepare_sets(
    config: DataConfig, base: Path, *, context: int, on_progress: Progress
) -> tuple[HeldOut, ...]:
    """Return the sets of `data.validation`, each built on first use.

    Args:
        config: names the sets, the tokenizer and the most tokens of each (`val_tokens`).
        base: folder of the prepared training data, which holds the tokenizer trained on it.
        context: sequence length [tokens]; one sequence must fit.
        on_progress: called with a message and the fraction done.

    Raises:
        DataError: a text is missing, empty, damaged or too short; names the set.
    """
    return tuple(
        _prepare(config, name, base, context=context, on_progress=on_progress)
        for name in config.validation or {}
    )


def sets_are_prepared(config: DataConfig, base: Path) -> bool:
    """Return whether every set is in the cache."""
    return all(read_manifest(_folder(config, name, base)) for name in config.validation or {})


def _prepare(
    config: DataConfig, name: str, base: Path, *, context: int, on_progress: Progress
) -> HeldOut:
    key, text = f"data.validation.{name}", (config.validation or {})[name]
    on_progress(f"reading {name}", 0.0)
    try:
        folder = _folder(config, name, base)
        manifest = build_once(folder, lambda where: _build(config, text, base, where))
    except DataError as error:  # what reads texts knows one key by another name
        raise DataError(str(error).replace("data.path", key)) from error
    if manifest["tokens"] < context + 1:
        raise DataError(
            f"{key}: {text} has {manifest['tokens']:,} tokens, too few for a sequence of model.context={context} "
            "and its target. Give more text, or leave the set out."
        )
    return HeldOut(
        name=name,
        text=text,
        val=TokenStore.open(folder, "val"),
        bytes_per_token=manifest["bytes_per_token"],
        document_ends=load_array(folder / ENDS),
        data_hash=manifest["data_hash"],
        characters_per_token=manifest.get("characters_per_token"),  # null in older caches
    )


def _folder(config: DataConfig, name: str, base: Path) -> Path:
    """Return where in the cache a set is, by what its tokens depend on; the name does not matter."""
    text = (config.validation or {})[name]
    identity = [
        FORMAT,
        text_identity(text, config.val_tokens),
        config.text_key,
        int(config.val_tokens),
        tokenizer_identity(_tokenizer_name(config, base)),
    ]
    return cache_folder(config.cache) / f"validation-{hash_texts([json.dumps(identity)])[:12]}"


def _tokenizer_name(config: DataConfig, base: Path) -> str:
    """Return the run's tokenizer as `load_tokenizer` takes it; a trained one is beside the data."""
    return str(base / "tokenizer.json") if config.tokenizer == "bpe" else config.tokenizer


def _build(config: DataConfig, text: str, base: Path, folder: Path) -> dict[str, Any]:
    """Write the files of a set and return its manifest."""
    limit = int(config.val_tokens) + 1
    tokenizer = _tokenizer(config, base)
    ratio = 1.0 if isinstance(tokenizer, ByteTokenizer) else STREAM_BYTES_PER_TOKEN
    found = text_documents(text, text_key=config.text_key, stream_bytes=ratio * limit)
    pool = DocumentPool(found, folder / "spool.tmp")
    if not len(pool):
        raise DataError(f"data.path={text!r}: no text in it. Give files that hold text.")
    documents, sizes = [], 0
    for tokens in encode_singly(
        tokenizer, pool.read(np.arange(len(pool)))
    ):  # in order of their hashes
        documents.append(tokens)
        sizes += min(len(tokens), _most(limit))
        if sizes >= limit:
            break
    used = pool.count_bytes(np.arange(len(documents)))
    characters = sum(len(t) + 1 for t in pool.read(np.arange(len(documents))))
    per_token = used / sum(map(len, documents))
    write_held_out(folder, [d[: _most(limit)] for d in documents], vocab=config.vocab, limit=limit)
    (folder / "spool.tmp").unlink()
    store = TokenStore.open(folder, "val")
    return {
        "format": FORMAT,
        "text": text,
        "tokens": len(store),
        "bytes_per_token": per_token,
        "characters_per_token": per_token * characters / used,
        "documents": len(documents),
        "data_hash": store.sha256[:16],
    }


def _most(limit: int) -> int:
    """Return how many tokens of one document are used."""
    return max(limit // SHARE, SMALL_DOCUMENT)


def _tokenizer(config: DataConfig, base: Path) -> Tokenizer:
    if config.source in ("ngram", "bilingual"):
        return ByteTokenizer()
    tokenizer = load_tokenizer(_tokenizer_name(config, base))
    check_vocab(tokenizer, config.vocab)
    return tokenizer
