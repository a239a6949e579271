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
from scaling.study.objective import PAIRS
from scaling.training.data.cache import build_once, cache_folder, read_manifest
from scaling.training.data.corpus import ENDS, Progress, build_corpus
from scaling.training.data.dataset import DataFacts, TokenData, facts_from
from scaling.training.data.generated import build_generated
from scaling.training.data.pairfiles import build_pairs, pair_files, pairs_identity
from scaling.training.data.pairs import LENGTHS, PairStore
from scaling.training.data.randomness import hash_table
from scaling.training.data.shard import load_array
from scaling.training.data.slices import open_slices
from scaling.training.data.sources import stdlib_files
from scaling.training.data.store import TokenStore, hash_texts
from scaling.training.data.tasks import build_task
from scaling.training.data.texts import text_identity
from scaling.training.data.tokenizers import tokenizer_identity
from scaling.training.data.validation import check_sets, prepare_sets, sets_are_prepared

FORMAT = 2  # counts up when the same configuration would give other files
TEXTS = ("stdlib", "text")  # the other sources are generated
TASKS = tuple(source for source in PAIRS if source != "pairs")  # or are pairs


def prepare(config: DataConfig, *, context: int, on_progress: Progress | None = None) -> TokenData:
    """Return the training and held-out tokens a configuration names, built on first use.

    Several processes may call this at once; the cache then holds one complete copy.

    Args:
        config: which text in which tokens.
        context: sequence length [tokens]; at least one sequence must fit.
        on_progress: called with a message and the fraction done (0 to 1) during a long build.

    Raises:
        DataError: the source is missing, empty, too small or damaged, or the cache not writable.
        ConfigError: keys of `data` contradict each other, for example tokenizer and vocab.
    """
    _check(config)
    folder = _folder(config)
    manifest = build_once(folder, lambda where: _build(config, where, on_progress or _silent))
    facts = facts_from(manifest, config.unique_tokens, context)
    _check_size(facts, context, folder)
    logprob, ends = folder / "true_logprob.npy", folder / ENDS
    return TokenData(
        **dataclasses.asdict(facts),
        train=_open(config, folder, "train", context),
        val=_open(config, folder, "val", context),
        true_logprob=load_array(logprob) if logprob.is_file() else None,
        document_ends=load_array(ends) if ends.is_file() else _pair_ends(manifest, context),
        sets=(
            *open_slices(config, folder, manifest.get("slices", ()), context=context),
            *prepare_sets(config, folder, context=context, on_progress=on_progress or _silent),
        ),
    )


def _open(config: DataConfig, folder: Path, name: str, context: int) -> TokenStore:
    if config.source in PAIRS:
        return PairStore.open_pairs(folder, name, context=context)
    return TokenStore.open(folder, name)


def _pair_ends(manifest: dict[str, Any], context: int) -> np.ndarray | None:
    """Return where held-out pairs end, for each is a document; null where there are none."""
    if "pairs" not in manifest:
        return None
    return np.arange(1, manifest["pairs"]["val"]) * context + 1


def describe(config: DataConfig, *, context: int | None = None) -> DataFacts | None:
    """Return what is known of prepared data without opening it; None if it is not prepared yet.

    Args:
        context: tokens per sequence; a pair of texts takes one, so that those of pairs are counted by it.
    """
    _check(config)
    folder = _folder(config)
    manifest = read_manifest(folder)
    if manifest is None or not sets_are_prepared(config, folder):
        return None
    return facts_from(manifest, config.unique_tokens, context)


def prepared_folder(config: DataConfig) -> Path:
    """Return the cache folder of a data set, whether or not it is there yet."""
    return _folder(config)


def _check(config: DataConfig) -> None:
    """Answer keys that contradict each other before anything is read."""
    if config.source == "zipf_memory":
        raise DataError(
            "data.source=zipf_memory: is a formula, there is no text to train on. "
            "Use `scaling.simulate`, or choose another data.source."
        )
    if config.source == "pairs" and config.path:
        pair_files(config.path)
    if config.source == "text" and not config.path:
        raise DataError(
            "data.path: data.source=text needs it. Give a .txt, .jsonl or .parquet file, "
            "a folder or glob of them, or a Hugging Face dataset name."
        )
    if config.group_key and config.source not in ("text", "pairs"):
        raise ConfigError(
            f"data.group_key={config.group_key}: names a column of files, and data.source={config.source} has none. "
            "Leave it null; the bilingual source has its languages as groups by itself."
        )
    if config.second_share is not None and config.source != "classify":
        raise ConfigError(
            f"data.second_share={config.second_share}: is of data.source=classify, not {config.source}. Leave it null; "
            "the groups of your own pairs are a column, data.group_key."
        )
    if config.source not in (*TEXTS, "pairs") and config.tokenizer != "bytes":
        raise ConfigError(
            f"data.tokenizer={config.tokenizer}: data.source={config.source} makes its own "
            "symbols. "
            "Leave data.tokenizer=bytes, or use data.source=stdlib or text."
        )
    if (
        config.tokenizer == "bytes"
        and config.vocab != 256
        and config.source in (*TEXTS, "ngram", "bilingual", "pairs")
    ):
        raise ConfigError(
            f"data.vocab={config.vocab}, but the tokenizer 'bytes' has 256 tokens. "
            "Set data.vocab=256, or data.tokenizer=bpe."
        )
    check_sets(config)


def _check_size(facts: DataFacts, context: int, folder: Path) -> None:
    held_out = facts.val_tokens + 1
    for name, tokens in (("unique_tokens", facts.unique_tokens), ("val_tokens", held_out)):
        if tokens < context + 1:
            raise DataError(
                f"data.{name}: {tokens} tokens hold no sequence of model.context={context} and "
                f"its target ({folder}). "
                f"Set data.{name} to {context + 1} or more, use more text, or set a smaller "
                "model.context."
            )


def _folder(config: DataConfig) -> Path:
    """Return where in the cache this data set is: its name ends in a hash of all that makes it."""
    tokens = (
        Path(config.tokenizer).name if config.source in (*TEXTS, "pairs") else f"v{config.vocab}"
    )
    identity = hash_texts([json.dumps(_identity(config), sort_keys=True)])
    return cache_folder(config.cache) / f"{config.source}-{tokens}-{identity[:12]}"


def _identity(config: DataConfig) -> dict[str, Any]:
    """Return everything that the tokens on disk depend on."""
    identity: dict[str, Any] = {
        "format": FORMAT,
        "source": config.source,
        "vocab": config.vocab,
        "val_tokens": int(config.val_tokens),
    }
    if config.source in (*TEXTS, "pairs"):
        identity |= {"tokenizer": tokenizer_identity(config.tokenizer)}
    else:
        identity |= {"size": int(config.size), "source_seed": config.source_seed}
    if config.source in ("stdlib", "ngram"):
        identity |= _stdlib_identity()
    if config.source == "text":
        identity |= {"text_key": config.text_key, "texts": text_identity(config.path, config.size)}
    if config.source in ("text", "pairs") and config.group_key:
        identity |= {"group_key": config.group_key}
    if config.source == "bilingual":
        identity |= {"share": config.share}
    if config.source == "ngram":
        identity |= {"order": config.order}
    if config.source in ("grammar", *TASKS):
        identity |= {"rules": config.rules, "depth": config.depth}
    if config.source == "classify":
        identity |= {"noise": config.noise}
        if config.second_share is not None:
            identity |= {"second_share": config.second_share}
    if config.source in ("translate", "summarize"):
        identity |= {"levels": config.levels}
    if config.source in PAIRS:
        identity |= {"classes": config.classes}
    if config.source == "pairs":
        keys = [config.text_key, config.target_key]
        identity |= {"keys": keys, "files": pairs_identity(config.path)}
    return identity


def _stdlib_identity() -> dict[str, Any]:
    listing = hash_texts(f"{path.name} {path.stat().st_size}" for path in stdlib_files())
    return {"python": platform.python_version(), "files": listing}


def _build(config: DataConfig, folder: Path, on_progress: Progress) -> dict[str, Any]:
    """Write all files of a data set and return its manifest."""
    build = build_corpus if config.source in TEXTS else build_generated
    if config.source in PAIRS:
        build = build_pairs if config.source == "pairs" else build_task
    made = build(config, folder, on_progress=on_progress)
    train, val = TokenStore.open(folder, "train"), TokenStore.open(folder, "val")
    return {
        "format": FORMAT,
        "source": config.source,
        "vocab": config.vocab,
        "train_tokens": len(train),
        "val_tokens": len(val) - 1,
        "data_hash": hash_texts([train.sha256, val.sha256, *_lengths(folder)])[:16],
        "source_hash": None,
        "entropy_rate": None,
        "entropy_rate_se": None,
        "entropy_method": None,
        **made,
    }


def _lengths(folder: Path) -> list[str]:
    """Return hashes of where pairs begin and end; none of plain text."""
    paths = (folder / f"{name}_{LENGTHS}" for name in ("train", "val"))
    return [hash_table(load_array(path)) for path in paths if path.is_file()]


def _silent(message: str, fraction: float) -> None:
    """Report to nobody."""
