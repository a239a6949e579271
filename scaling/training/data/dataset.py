"""What the trainer gets: training and held-out tokens, and what is known of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from scaling.training.data.order import count_windows, sequence_keys, window_starts
from scaling.training.data.store import TokenStore


class Objective(Protocol):
    """Lays out windows of a token store; see `scaling.training.objectives`.

    hides: whether parts of a text are predicted from what is on both sides of them.
    pairs: whether the first target of a window is a judgement and no token.
    """

    @property
    def hides(self) -> bool: ...

    @property
    def pairs(self) -> bool: ...

    def make(
        self, store: TokenStore, starts: np.ndarray, keys: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets, int64, of the windows that begin at `starts`.

        Args:
            keys: uint64, one per window; what is hidden is drawn from them.
        """
        ...


Sequences = tuple[np.ndarray, np.ndarray, np.ndarray]


VALIDATION = 0x5CA1AB1E  # seed of what validation hides: the same for every run


def sequences(
    store: TokenStore, *, context: int, batch_seqs: int, objective: Objective | None = None
) -> Iterator[Sequences]:
    """Yield a store's tokens in whole sequences, always in the same order.

    Args:
        objective: lays the sequences out; null: each token is to be predicted from those before.

    Returns:
        Inputs and targets, int64 [rows, context] where nothing else is asked for, targets one token
        later; and int64 [rows]: where in the store the first target of each row is.
    """
    starts = np.arange(count_windows(len(store), context)) * context
    for first in range(0, len(starts), batch_seqs):
        part = starts[first : first + batch_seqs]
        if objective is not None:
            yield *objective.make(store, part, sequence_keys(part, seed=VALIDATION)), part + 1
            continue
        tokens = store.windows(part, context + 1)
        yield tokens[:, :-1], tokens[:, 1:], part + 1


@dataclass(frozen=True, repr=False)
class HeldOut:
    """A further held-out text, in the tokens of a run; it has no training part.

    Args:
        name, text: its name, and the path it was read from.
        val: the tokens; the last is a target only.
        bytes_per_token: of the documents in it.
        document_ends: int64, the token after the last of each document.
        data_hash: of the tokens.
        true_logprob: float32, nats: log p of the true source for each token; null: not known.
        characters_per_token: of the documents in it, where counted.
        group, share: of a slice of the run's own data: its label, and its share of training bytes.
    """

    name: str
    text: str
    val: TokenStore
    bytes_per_token: float
    document_ends: np.ndarray
    data_hash: str
    true_logprob: np.ndarray | None = None
    characters_per_token: float | None = None
    group: str | None = None
    share: float | None = None

    def val_batches(
        self, *, context: int, batch_seqs: int, objective: Objective | None = None
    ) -> Iterator[Sequences]:
        """Yield the tokens in whole sequences, see `sequences`."""
        return sequences(self.val, context=context, batch_seqs=batch_seqs, objective=objective)

    def __repr__(self) -> str:
        """Return one line: name, text, tokens."""
        return f"HeldOut({self.name}, {self.text}, {len(self.val) - 1:,} tokens, {self.data_hash})"


@dataclass(frozen=True)
class DataFacts:
    """What is known of prepared data without opening it."""

    source: str
    tokenizer: str
    vocab: int
    unique_tokens: int  # training tokens, after data.unique_tokens
    val_tokens: int  # held-out targets
    bytes_per_token: float  # on the held-out text; 1 where symbols are not text
    data_hash: str  # of the training and held-out tokens on disk
    source_hash: str | None  # of a generated source's probability table
    entropy_rate: float | None  # nats/token of the true source, where known
    entropy_rate_se: float | None  # its standard error; 0 where it is a closed form
    entropy_method: str | None  # how the entropy rate is known


@dataclass(frozen=True, repr=False)
class TokenData(DataFacts):
    """Training and held-out tokens, memory-mapped, with what is known of them.

    The last held-out token is a target only, so that `val_tokens` targets need one token more.
    """

    train: TokenStore
    val: TokenStore
    true_logprob: np.ndarray | None  # float32 [len(val)], nats: log p_true of each held-out token
    document_ends: np.ndarray | None = None  # int64: the token after each held-out document
    sets: tuple[HeldOut, ...] = ()  # further held-out texts, by `data.validation`

    def batch(
        self,
        step: int,
        *,
        batch_seqs: int,
        context: int,
        seed: int,
        rows: slice = slice(None),
        objective: Objective | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets of one step.

        Which tokens these are depends on (seed, step) and the batch size alone: micro-batches and
        devices take rows of the same batch.

        Args:
            step: optimiser step, from 0.
            batch_seqs: sequences in the global batch.
            context: tokens per sequence.
            seed: seed of the order.
            rows: the part of the batch to read; all of it by default.
            objective: lays the sequences out; null: each token is to be predicted from those before.

        Returns:
            Two int64 arrays, [rows, context] and targets one token later where nothing else is asked
            for.
        """
        first, last, stride = rows.indices(batch_seqs)
        windows = count_windows(self.unique_tokens, context)
        starts = window_starts(
            step * batch_seqs + first,
            step * batch_seqs + last,
            windows=windows,
            context=context,
            seed=seed,
        )
        if objective is not None:
            numbers = step * batch_seqs + np.arange(first, last, stride)
            keys = sequence_keys(numbers, seed=seed)
            return objective.make(self.train, starts[::stride], keys)
        tokens = self.train.windows(starts[::stride], context + 1)
        return tokens[:, :-1], tokens[:, 1:]

    def val_batches(
        self, *, context: int, batch_seqs: int, objective: Objective | None = None
    ) -> Iterator[Sequences]:
        """Yield the held-out tokens in whole sequences, see `sequences`."""
        return sequences(self.val, context=context, batch_seqs=batch_seqs, objective=objective)

    def __repr__(self) -> str:
        """Return one line: source, tokens, vocabulary."""
        sizes = f"{self.unique_tokens:,} training tokens, {self.val_tokens:,} held out"
        return f"TokenData({self.source}, {sizes}, vocab {self.vocab}, {self.data_hash})"


def facts_from(
    manifest: dict[str, Any], unique_tokens: float | None, context: int | None = None
) -> DataFacts:
    """Return the facts of a manifest, with the training tokens limited to `unique_tokens`.

    Args:
        context: tokens of the place that each pair takes, where they are pairs; null: as long as they are.
    """
    if "pairs" in manifest and context is not None:
        counts = {f"{part}_tokens": n * context for part, n in manifest["pairs"].items()}
        manifest = {**manifest, **counts, "train_tokens": counts["train_tokens"] + 1}
    unique = manifest["train_tokens"]
    if unique_tokens is not None:
        unique = min(unique, int(unique_tokens))
    names = (
        "source", "tokenizer", "vocab", "val_tokens", "bytes_per_token", "data_hash", "source_hash",
        "entropy_rate", "entropy_rate_se", "entropy_method",
    )  # fmt: skip
    return DataFacts(unique_tokens=unique, **{name: manifest[name] for name in names})
