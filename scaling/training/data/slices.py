"""Held-out documents by group: a language, a domain, a label in the data. One held-out text per group.

A slice lies beside the tokens it was cut from and is read like a set of `data.validation`, so that
every run scores it, and every fit, plot and table has a column for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling.study.config import DataConfig
from scaling.study.errors import ConfigError, DataError
from scaling.training.data.dataset import HeldOut
from scaling.training.data.pairs import Pair, PairStore, write_pairs
from scaling.training.data.shard import load_array
from scaling.training.data.store import TokenStore, write_store

MANY = 64  # groups; more are no groups but names of documents


def write_slice(
    folder: Path,
    number: int,
    documents: Sequence[np.ndarray],
    *,
    group: str,
    vocab: int,
    limit: int,
    bytes_per_token: float,
    characters_per_token: float,
    share: float | None,
    logprob: np.ndarray | None = None,
) -> dict[str, Any]:
    """Write the held-out documents of one group beside the tokens they belong to.

    Args:
        documents: tokens of each; limit: tokens that are kept.
        group: its label; share: of the training bytes.
        logprob: log p of the source for each token kept [nats], where it is known.

    Returns:
        What the manifest says of it.
    """
    name = f"slice-{number}"
    write_store(folder, name, documents, vocab=vocab, limit=limit)
    ends = np.cumsum([len(d) for d in documents])
    np.save(folder / f"{name}-ends.npy", ends[ends < limit])
    if logprob is not None:
        np.save(folder / f"{name}-logprob.npy", logprob.astype(np.float32))
    store = TokenStore.open(folder, name)
    return {
        "group": group,
        "store": name,
        "tokens": len(store),
        "bytes_per_token": bytes_per_token,
        "characters_per_token": characters_per_token,
        "share": share,
        "data_hash": store.sha256[:16],
    }


def write_pair_slice(
    folder: Path, number: int, pairs: Iterable[Pair], *, group: str, vocab: int, share: float
) -> dict[str, Any]:
    """Write the held-out pairs of one group; returns what the manifest says of it.

    Args:
        share: of the training pairs.
    """
    name = f"slice-{number}"
    lengths = write_pairs(folder, name, pairs, vocab=vocab)
    return {
        "group": group,
        "store": name,
        "pairs": len(lengths),
        "tokens": int(lengths.sum()),
        "bytes_per_token": 1.0,  # losses of pairs are not divided by bytes
        "characters_per_token": None,
        "share": share,
        "data_hash": TokenStore.open(folder, name).sha256[:16],
    }


def open_slices(
    config: DataConfig, folder: Path, slices: Sequence[Mapping[str, Any]], *, context: int
) -> tuple[HeldOut, ...]:
    """Return the slices of prepared data that hold a sequence of `context` tokens, or a pair.

    Raises:
        ConfigError: a set of `data.validation` has the name of a group.
        DataError: no group, or only one, has enough held-out text.
    """
    found = tuple(
        _open(config, folder, s, context) for s in slices if "pairs" in s or s["tokens"] > context
    )
    if slices and len(found) < 2:
        sizes = ", ".join(f"{s['group']} {s['tokens']:,}" for s in slices)
        raise DataError(
            f"data.group_key={config.group_key}: fewer than two groups have more than model.context={context} held-out "
            f"tokens ({sizes}). Set data.val_tokens larger, or data.group_key=null."
        )
    for name in config.validation or {}:
        if name in {s.name for s in found}:
            raise ConfigError(
                f"data.validation.{name}: a group of the data has this name too. Give the set another one."
            )
    return found


def slice_name(group: str) -> str:
    """Return a group's name as it stands in columns: letters of any script, digits, _ and -."""
    name = re.sub(r"[^\w-]+", "_", group).strip("_") or "empty"
    return "se_" if name == "se" else name  # val_loss_se is another column


def check_groups(key: str, labels: Sequence[str]) -> None:
    """Refuse a column that names no groups.

    Raises:
        ConfigError: one value only, too many, or two that make one name.
    """
    kinds = sorted(set(labels))
    if not 2 <= len(kinds) <= MANY:
        shown = ", ".join(repr(k)[:30] for k in kinds[:5])
        raise ConfigError(
            f"data.group_key={key}: the documents have {len(kinds)} different values in it ({shown}); gaps need 2 to "
            f"{MANY}. Name a column that says the group, e.g. language or domain."
        )
    names = [slice_name(k) for k in kinds]
    for kind, name in zip(kinds, names, strict=True):
        if names.count(name) > 1:
            raise ConfigError(
                f"data.group_key={key}: {kind!r} and another value both become the column val_loss_{name}. Rename one."
            )


def _open(config: DataConfig, folder: Path, manifest: Mapping[str, Any], context: int) -> HeldOut:
    name, logprob = manifest["store"], folder / f"{manifest['store']}-logprob.npy"
    if "pairs" in manifest:
        val: TokenStore = PairStore.open_pairs(folder, name, context=context)
        ends = np.arange(1, manifest["pairs"]) * context + 1  # each pair is a document
    else:
        val, ends = TokenStore.open(folder, name), load_array(folder / f"{name}-ends.npy")
    return HeldOut(
        name=slice_name(manifest["group"]),
        text=f"{config.group_key or 'language'}={manifest['group']}",
        val=val,
        bytes_per_token=manifest["bytes_per_token"],
        document_ends=ends,
        data_hash=manifest["data_hash"],
        true_logprob=load_array(logprob) if logprob.is_file() else None,
        characters_per_token=manifest["characters_per_token"],
        group=manifest["group"],
        share=manifest["share"],
    )
