"""Pairs on disk: a text and what belongs to it, a label or another text.

The tokens of all pairs stand one after another in a token store, with the lengths of both parts of
each beside it. A pair takes a place of `model.context` tokens in a run whatever its length, so that
order, epochs, batches and budgets are those of plain text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.study.errors import DataError
from scaling.training.data.shard import load_array
from scaling.training.data.store import TokenStore, write_store

LENGTHS = "lengths.npy"  # int32 [pairs, 2], of both parts of each pair, behind the store's name

Pair = tuple[np.ndarray, np.ndarray]  # tokens of a text, and of what belongs to it


@dataclass(frozen=True)
class PairStore(TokenStore):
    """Pairs, each in a place of `context` tokens.

    Args:
        context: tokens of a place.
        lengths: int64 [pairs, 2], tokens of both parts.
        begins: int64 [pairs], where in the shards each begins.
    """

    context: int = 1
    lengths: np.ndarray = None  # type: ignore[assignment]
    begins: np.ndarray = None  # type: ignore[assignment]

    @classmethod
    def open_pairs(cls, folder: str | Path, name: str, *, context: int) -> PairStore:
        """Open what `write_pairs` wrote; errors as `TokenStore.open` has them."""
        store = TokenStore.open(folder, name)
        lengths = load_array(Path(folder) / f"{name}_{LENGTHS}").astype(np.int64)
        ends = np.cumsum(lengths.sum(1))
        return cls(
            **vars(store), context=context, lengths=lengths, begins=ends - lengths.sum(1)
        )  # fmt: skip

    def __len__(self) -> int:
        """Return the tokens of all places, and the one behind them that windows of text need."""
        return len(self.lengths) * self.context + 1

    def read(self, starts: np.ndarray, *, part: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one part of the pairs whose places begin at `starts`.

        Args:
            part: 0: the text; 1: what belongs to it.
            most: tokens; what is longer is cut.

        Returns:
            int64 [pairs, most], anything behind the end of each; int64 [pairs], tokens of each.
        """
        self._check_files()
        number = np.asarray(starts) // self.context
        begins = self.begins[number] + (self.lengths[number, 0] if part else 0)
        length = np.minimum(self.lengths[number, part], most)
        total = int(self.begins[-1] + self.lengths[-1].sum())
        index = np.minimum(begins[:, None] + np.arange(most), total - 1)
        return self._pick(index), length


def write_pairs(folder: Path, name: str, pairs: Iterable[Pair], *, vocab: int) -> np.ndarray:
    """Write pairs as a store and return their lengths, int32 [pairs, 2].

    Raises:
        DataError: there are none.
    """
    lengths: list[tuple[int, int]] = []

    def chunks() -> Iterator[np.ndarray]:
        for text, belonging in pairs:
            lengths.append((len(text), len(belonging)))
            yield np.concatenate([text, belonging])

    write_store(folder, name, chunks(), vocab=vocab)
    if not lengths:
        raise DataError("data: no pairs for the part `" + name + "`. Give more of them.")
    table = np.array(lengths, np.int32)
    np.save(folder / f"{name}_{LENGTHS}", table)
    return table


def summarise_pairs(train: np.ndarray, val: np.ndarray) -> dict[str, Any]:
    """Return what a manifest says of the lengths of pairs."""
    return {
        "train_tokens": int(train.sum()),
        "val_tokens": int(val.sum()),
        "pairs": {"train": len(train), "val": len(val)},
        "longest": [int(max(train[:, i].max(), val[:, i].max())) for i in (0, 1)],
    }
