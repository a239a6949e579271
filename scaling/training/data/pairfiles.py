"""Pairs from the user's own files: .tsv or .jsonl with two columns, a text and its label or answer.

A third column may say the group of a pair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scaling.study.config import DataConfig
from scaling.study.errors import ConfigError, DataError
from scaling.training.data.corpus import Progress
from scaling.training.data.pairs import Pair, summarise_pairs, write_pairs
from scaling.training.data.slices import check_groups, write_pair_slice
from scaling.training.data.texts import Document, decode, text_files
from scaling.training.data.tokenizers import (
    FastTokenizer,
    Tokenizer,
    check_vocab,
    load_tokenizer,
    train_bpe,
)

SUFFIXES = (".tsv", ".jsonl")
SHOWN = 8  # labels named in a message
BATCH = 4096  # texts tokenised at a time

Texts = tuple[str, str]
Line = tuple[int, str, str, str | None]  # its number, a text, what belongs to it, their group


def build_pairs(config: DataConfig, folder: Path, *, on_progress: Progress) -> dict[str, Any]:
    """Write the pairs of the user's files as `train` and `val` and return what the manifest says of them.

    Held out are pairs chosen by the hash of their text until they have `data.val_tokens`; pairs of one text fall on
    one side, and what is there twice counts once. A tokenizer that is trained sees the others only.

    Raises:
        DataError: a file is not what its name says, or there are too few pairs.
        ConfigError: `data.classes` is not the number of labels.
    """
    on_progress("reading pairs", 0.0)
    pairs = _shuffled(read_files(config))
    labels = find_labels(config, pairs)
    # a token has a byte at least, so that the first split may be too small but never too large
    tokenizer, held_out = _split(config, pairs, on_progress)
    encode = _Encoder(tokenizer, labels)
    vocab = max(config.vocab, len(labels))
    val = write_pairs(folder, "val", encode(pairs[:held_out]), vocab=vocab)
    train = write_pairs(folder, "train", encode(pairs[held_out:]), vocab=vocab)
    if isinstance(tokenizer, FastTokenizer) and config.tokenizer == "bpe":
        tokenizer.backend.save(str(folder / "tokenizer.json"))
    size = sum(
        len(part.encode("utf-8", errors="replace"))
        for pair in pairs[:held_out]
        for part in pair[: 1 if labels else 2]
    )
    return {
        "tokenizer": config.tokenizer,
        "bytes_per_token": size / int(val[:, : 1 if labels else 2].sum()),
        "labels": labels,
        "slices": _write_slices(config, folder, pairs, held_out, encode, vocab),
        **summarise_pairs(train, val),
    }  # fmt: skip


def _write_slices(
    config: DataConfig,
    folder: Path,
    pairs: list[Texts],
    held_out: int,
    encode: _Encoder,
    vocab: int,
) -> list[dict[str, Any]]:
    """Write the held-out pairs once more, each group by itself."""
    if config.group_key is None:
        return []
    groups = np.array([getattr(text, "group", "") for text, _ in pairs])
    check_groups(config.group_key, groups.tolist())
    slices: list[dict[str, Any]] = []
    for label in sorted(set(groups[:held_out].tolist())):
        own = [pairs[i] for i in np.flatnonzero(groups[:held_out] == label)]
        share = float(np.mean(groups[held_out:] == label))
        slices.append(
            write_pair_slice(
                folder, len(slices), encode(own), group=label, vocab=vocab, share=share
            )
        )
    return slices


def read_files(config: DataConfig) -> Iterator[Texts]:
    """Yield the pairs of the files that `data.path` names; with `data.group_key` texts are `Document`s.

    A .jsonl file has an object in each line with the keys `data.text_key` and `data.target_key`. A .tsv file
    has two columns, or a first line that names its columns, those two among them.

    Raises:
        DataError: names file and line, and what is wrong with it.
    """
    if not config.path:
        raise DataError(
            "data.path: data.source=pairs needs it. Give a .tsv or .jsonl file, or a folder or glob of them."
        )
    for file in pair_files(config.path):
        read = _read_tsv if file.suffix == ".tsv" else _read_jsonl
        try:
            content = file.read_bytes()
        except PermissionError as error:
            raise DataError(f"{file}: cannot be read. Check its permissions.") from error
        for number, text, answer, group in read(file, decode(file, content), config):
            if not text.strip() or not answer.strip():
                which = config.target_key if text.strip() else config.text_key
                raise DataError(
                    f"{file}, line {number}: {which!r} is empty. Fill it in, or take the line out."
                )
            yield (text if group is None else _grouped(text, group)), answer


def _grouped(text: str, group: str) -> Document:
    document = Document(text)
    document.group = group
    return document


def pair_files(path: str) -> list[Path]:
    """Return the files of a path, sorted.

    Raises:
        DataError: there are none, or one is of another kind.
    """
    return text_files(path, kinds=SUFFIXES)


def pairs_identity(path: str | None) -> str:
    """Return a hash of the files' names, sizes and times."""
    if path is None:
        return ""
    stats = [(file, file.stat()) for file in pair_files(path)]
    listing = "".join(f"{file.absolute()} {s.st_size} {s.st_mtime_ns}\n" for file, s in stats)
    return hashlib.sha256(listing.encode()).hexdigest()


def find_labels(config: DataConfig, pairs: list[Texts]) -> list[str]:
    """Return the different labels in order; none where the second of a pair is a text.

    Raises:
        ConfigError: they are not as many as `data.classes`.
    """
    if config.classes is None:
        return []
    labels = sorted({answer for _, answer in pairs})
    if len(labels) != config.classes:
        shown = ", ".join(map(repr, labels[:SHOWN])) + (", ..." if len(labels) > SHOWN else "")
        raise ConfigError(
            f"data.classes: is {config.classes}, but {config.path} has {len(labels)} different labels in {config.target_key!r}: "
            f"{shown}. Set data.classes={len(labels)}, or to null if that column is a text to be written."
        )
    return labels


class _Encoder:
    """Turns texts into tokens, and labels into their numbers."""

    def __init__(self, tokenizer: Tokenizer, labels: list[str]) -> None:
        self.tokenizer = tokenizer
        self.number = {label: i for i, label in enumerate(labels)}

    def __call__(self, pairs: list[Texts]) -> Iterator[Pair]:
        for first in range(0, len(pairs), BATCH):
            texts, answers = zip(*pairs[first : first + BATCH], strict=True)
            yield from zip(
                self.tokenizer.encode(list(texts)), self._belonging(answers), strict=True
            )

    def _belonging(self, answers: tuple[str, ...]) -> list[np.ndarray]:
        if self.number:
            return [np.array([self.number[a]]) for a in answers]
        return self.tokenizer.encode(list(answers))


def _shuffled(pairs: Iterator[Texts]) -> list[Texts]:
    """Return different pairs in an order given by their texts' content."""

    def key(pair: Texts) -> tuple[bytes, str]:
        return hashlib.sha256(pair[0].encode("utf-8", errors="replace")).digest(), pair[1]

    return sorted(set(pairs), key=key)


def _split(config: DataConfig, pairs: list[Texts], on_progress: Progress) -> tuple[Tokenizer, int]:
    """Return the tokenizer and how many pairs are held out: as many as have `data.val_tokens`."""
    guess = 1.0 if config.tokenizer == "bytes" else 4.0  # bytes in a token
    wanted = int(config.val_tokens)
    while True:
        held_out = _count(config, pairs, guess * wanted)
        tokenizer = _tokenizer(config, pairs[held_out:], on_progress)
        tokens = sum(len(part) for pair in _Encoder(tokenizer, [])(pairs[:held_out]) for part in pair)  # fmt: skip
        if tokens >= wanted:
            return tokenizer, held_out
        guess *= 1.1 * wanted / tokens


def _count(config: DataConfig, pairs: list[Texts], size: float) -> int:
    """Return how many of the first pairs have so many bytes; those of one text are not divided."""
    sizes = [len((a + b).encode("utf-8", errors="replace")) for a, b in pairs]
    ends = np.cumsum(sizes)
    count = int(np.searchsorted(ends, size)) + 1
    while count < len(pairs) and pairs[count][0] == pairs[count - 1][0]:
        count += 1
    if not pairs or 2 * count > len(pairs):
        total = int(ends[-1]) if pairs else 0
        raise DataError(
            f"data.source=pairs ({config.path}): {len(pairs)} different pairs with {total:,} bytes are too few to hold out "
            f"data.val_tokens={config.val_tokens:g}. Set data.val_tokens to {max(1, total // 10)} or less, or give more pairs."
        )
    return count


def _tokenizer(config: DataConfig, pairs: list[Texts], on_progress: Progress) -> Tokenizer:
    if config.tokenizer == "bpe":
        on_progress("training the tokenizer", 0.1)
        texts = (part for pair in pairs for part in (pair if config.classes is None else pair[:1]))
        tokenizer: Tokenizer = train_bpe(texts, vocab=config.vocab)
    else:
        tokenizer = load_tokenizer(config.tokenizer)
    check_vocab(tokenizer, config.vocab)
    return tokenizer


def _read_jsonl(file: Path, content: str, config: DataConfig) -> Iterator[Line]:
    # not splitlines(): texts may hold its rarer line ends
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        example = f'{{"{config.text_key}": "...", "{config.target_key}": "..."}}'
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{file}, line {number}: not JSON ({error.msg}). Each line is one object such as {example}."
            ) from error
        values = [_value(row, key) for key in (config.text_key, config.target_key)]
        if None in values:
            there = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            missing = config.target_key if values[0] is not None else config.text_key
            which = "data.text_key" if missing == config.text_key else "data.target_key"
            raise DataError(
                f"{file}, line {number}: nothing under {missing!r}; there is: {there}. Set {which}, "
                f"or write lines such as {example}."
            )
        group = _value(row, config.group_key) if config.group_key else None
        if config.group_key and group is None:
            raise DataError(
                f"{file}, line {number}: no group under {config.group_key!r}; there is: {', '.join(row)}. Set data.group_key, "
                "or give every pair a group."
            )
        yield number, str(values[0]), str(values[1]), group


def _value(row: Any, key: str) -> str | None:
    """Return a text; numbers and truth values may be labels."""
    value = row.get(key) if isinstance(row, dict) else None
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else None


def _read_tsv(file: Path, content: str, config: DataConfig) -> Iterator[Line]:
    columns, wide, group = (0, 1), 2, None
    for number, line in enumerate(content.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        cells = line.split("\t")
        names = (config.text_key, config.target_key)
        if number == 1 and all(name in cells for name in names):
            columns, wide = (cells.index(names[0]), cells.index(names[1])), len(cells)
            group = cells.index(config.group_key) if config.group_key in cells else None
            continue
        if config.group_key and group is None:
            raise DataError(
                f"{file}: no column data.group_key={config.group_key}. Its first line is to name the columns between tabs: "
                f"{names[0]}, {names[1]} and {config.group_key}."
            )
        if len(cells) != wide:
            what = "two columns" if wide == 2 else f"{wide} columns as the first line"
            raise DataError(
                f"{file}, line {number}: {len(cells)} columns, not {what}, between tabs. Separate them by one tab and take "
                f"tabs out of the texts; more columns need a first line with their names, {names[0]} and {names[1]} among them."
            )
        yield number, cells[columns[0]], cells[columns[1]], None if group is None else cells[group]
