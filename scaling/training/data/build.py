"""From a configuration to tokens: open what is in the cache, else build it."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

from scaling.study.config import DataConfig
from scaling.study.errors import ConfigError, DataError
from scaling.training.data import sources
from scaling.training.data.cache import build_once, cache_folder, read_manifest
from scaling.training.data.corpus import Progress, build_corpus
from scaling.training.data.dataset import DataFacts, TokenData, facts_from
from scaling.training.data.store import TokenStore, hash_texts

FORMAT = 1  # counts up when the same configuration would give other tokens


def prepare(config: DataConfig, *, context: int, on_progress: Progress | None = None) -> TokenData:
    """Return the training and held-out tokens a configuration names, built on first use.

    Several processes may call this at once; the cache then holds one complete copy.

    Args:
        config: which text in which tokens.
        context: sequence length [tokens]; at least one sequence must fit.
        on_progress: called with a message and the fraction done (0 to 1) during a long build.

    Raises:
        DataError: the source is missing, empty, too small or damaged, or the cache not writable.
        ConfigError: keys of `data` that contradict each other, as a vocabulary the tokenizer has not.
    """
    _check(config)
    folder = _folder(config)
    manifest = build_once(folder, lambda where: _build(config, where, on_progress or _silent))
    facts = facts_from(manifest, config.unique_tokens)
    _check_size(facts, context, folder)
    return TokenData(
        **dataclasses.asdict(facts),
        train=TokenStore.open(folder, "train"),
        val=TokenStore.open(folder, "val"),
        true_logprob=_read_logprob(folder / "true_logprob.npy"),
    )


def describe(config: DataConfig) -> DataFacts | None:
    """Return what is known of prepared data without opening it; None if it is not prepared yet."""
    _check(config)
    manifest = read_manifest(_folder(config))
    return None if manifest is None else facts_from(manifest, config.unique_tokens)


def _check(config: DataConfig) -> None:
    if config.source == "zipf_memory":
        raise DataError(
            "data.source=zipf_memory: has a formula in place of text and is not trained on. Use `scaling.simulate`, or choose another data.source."
        )
    if (
        config.tokenizer == "bytes"
        and config.source in ("stdlib", "text", "ngram")
        and config.vocab != 256
    ):
        raise ConfigError(
            f"data.vocab={config.vocab}, but the tokenizer 'bytes' has 256 tokens. Set data.vocab=256, or data.tokenizer=bpe."
        )


def _check_size(facts: DataFacts, context: int, folder: Path) -> None:
    for name, tokens in (
        ("unique_tokens", facts.unique_tokens),
        ("val_tokens", facts.val_tokens + 1),
    ):
        if tokens < context + 1:
            raise DataError(
                f"data.{name}: {tokens} tokens hold no sequence of model.context={context} and its target ({folder}). "
                f"Set data.{name} to {context + 1} or more, use more text, or set a smaller model.context."
            )


def _folder(config: DataConfig) -> Path:
    """Return where in the cache this data set is: its name ends in a hash of all that makes it."""
    name = f"{config.source}-{Path(config.tokenizer).name}-{hash_texts([json.dumps(_identity(config), sort_keys=True)])[:12]}"
    return cache_folder(config.cache) / name


def _identity(config: DataConfig) -> dict[str, Any]:
    """Return everything that the tokens on disk depend on."""
    return {
        "format": FORMAT,
        "source": config.source,
        "tokenizer": config.tokenizer,
        "vocab": config.vocab,
        "val_tokens": int(config.val_tokens),
        **_stdlib_identity(),
    }


def _stdlib_identity() -> dict[str, Any]:
    files = sources.stdlib_files()
    return {
        "python": platform.python_version(),
        "files": hash_texts(f"{p.name} {p.stat().st_size}" for p in files),
    }


def _build(config: DataConfig, folder: Path, on_progress: Progress) -> dict[str, Any]:
    """Write all files of a data set and return its manifest."""
    made = build_corpus(config, folder, on_progress=on_progress)
    train, val = TokenStore.open(folder, "train"), TokenStore.open(folder, "val")
    defaults = {
        "source_hash": None,
        "entropy_rate": None,
        "entropy_rate_se": None,
        "entropy_method": None,
    }
    return {
        **defaults,
        "format": FORMAT,
        "source": config.source,
        "vocab": config.vocab,
        "train_tokens": len(train),
        "val_tokens": len(val) - 1,
        "data_hash": hash_texts([train.sha256, val.sha256])[:16],
        **made,
    }


def _read_logprob(path: Path) -> np.ndarray | None:
    return np.load(path) if path.is_file() else None


def _silent(message: str, fraction: float) -> None:
    """Report to nobody."""
