"""Text with an exactly known truth: a Witten-Bell back-off model of bytes, built and sampled.

With c(h, w) how often byte w follows context h, c(h) their sum, T(h) how many different bytes
follow h, and h' the context without its oldest byte,

    p(w | h) = (c(h, w) + T(h) p(w | h')) / (c(h) + T(h)),    p(w | nothing left) = 1 / 256.

A *state* is a context that occurs in the text, 0 to `order` bytes long; an *edge* is a pair
(state, byte) that occurs. States are numbered by length, then by value, edges by (state, byte).
The chain is always in the longest state that its past ends with.

Source: Witten and Bell 1991; interpolated form as in Chen and Goodman 1998, section 2.4.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import numpy as np

SYMBOLS = 256
GUIDE = 5  # bits; one guide entry per 32 counts fits a processor's cache and leaves few steps


@dataclass(frozen=True, repr=False)
class NgramModel:
    """Tables of the model, S states and E edges."""

    order: int
    total: np.ndarray  # float64 [S]: c(h)
    mass: np.ndarray  # float64 [S]: c(h) + T(h)
    suffix: np.ndarray  # int32 [S]: h'; the empty context is state 0
    row: np.ndarray  # int64 [S]: counts of all edges before the state's first
    before: np.ndarray  # int64 [E + 1]: counts of all earlier edges
    guide: np.ndarray  # int32: the edge that count number 32 i falls into
    key: np.ndarray  # int64 [E]: state * 256 + byte
    prob: np.ndarray  # float64 [E]: p(w | h), back-off included
    after: np.ndarray  # int32 [E]: state after the edge

    @property
    def source_hash(self) -> str:
        """Return a hash of everything that the probabilities depend on."""
        digest = hashlib.sha256(f"witten-bell {self.order}".encode())
        for table in (self.key, self.before):
            digest.update(np.ascontiguousarray(table, "<i8").tobytes())
        return digest.hexdigest()[:16]

    def step(self, state: np.ndarray, uniform: np.ndarray) -> tuple[np.ndarray, ...]:
        """Draw one byte per chain.

        One uniform number serves all levels: below c(h) it is the number of a counted byte,
        the rest, stretched to [0, 1) again, goes to the shorter context.

        Args:
            state: int32 [chains].
            uniform: float64 [chains] in [0, 1).

        Returns:
            Byte, next state and p(byte | state), each [chains].
        """
        total = self.total.take(state)  # `take` is twice as fast as indexing here
        u = uniform * self.mass.take(state)
        edge = self._edge_of(self.row.take(state) + np.minimum(u, total - 1).astype(np.int64))
        byte = self.key.take(edge) & 255
        after, prob = self.after.take(edge), self.prob.take(edge)
        miss = np.flatnonzero(u >= total)
        if miss.size:
            byte[miss] = self._draw_shorter(state[miss], u[miss])
            after[miss], prob[miss] = self.look_up(state[miss], byte[miss])
        return byte, after, prob

    def look_up(self, state: np.ndarray, byte: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the state after each (state, byte) and p(byte | state), seen or unseen."""
        after = np.zeros(len(state), np.int32)
        prob = np.full(
            len(state), 1.0 / SYMBOLS
        )  # stands where not even the empty context knows it
        left = np.arange(len(state))
        weight = np.ones(len(state))  # product of T / (c + T) over the levels gone through
        while left.size:
            key = state.astype(np.int64) * SYMBOLS + byte[left]
            edge = np.minimum(np.searchsorted(self.key, key), len(self.key) - 1)
            hit = self.key[edge] == key
            after[left[hit]], prob[left[hit]] = self.after[edge[hit]], self.prob[edge[hit]]
            left, state = left[~hit], state[~hit]
            weight[left] *= 1 - self.total[state] / self.mass[state]
            left, state = left[state > 0], self.suffix[state[state > 0]]
        return after, prob * weight

    def walk(self, text: np.ndarray, state: int = 0) -> int:
        """Return the state after a text, from the empty context unless told."""
        for byte in text:
            after, _ = self.look_up(np.array([state], np.int32), np.array([int(byte)]))
            state = int(after[0])
        return state

    def distribution(self, state: np.ndarray) -> np.ndarray:
        """Return p(. | state) as float64 [states, 256]."""
        pairs = np.repeat(state, SYMBOLS), np.tile(np.arange(SYMBOLS), len(state))
        return self.look_up(*pairs)[1].reshape(len(state), SYMBOLS)

    def _edge_of(self, count: np.ndarray) -> np.ndarray:
        """Return the edge each count number belongs to: a bisection within one guide entry."""
        entry = count >> GUIDE
        low, high = self.guide.take(entry), self.guide.take(entry + 1)
        left = np.flatnonzero(low < high)
        while left.size:
            middle = (low[left] + high[left] + 1) >> 1
            beyond = self.before.take(middle) <= count[left]
            low[left] = np.where(beyond, middle, low[left])
            high[left] = np.where(beyond, high[left], middle - 1)
            left = left[low[left] < high[left]]
        return low

    def _draw_shorter(self, state: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Draw a byte for chains whose number `u` is beyond the counts of their context."""
        byte = np.empty(len(state), np.int64)
        left = np.arange(len(state))
        while left.size:
            u = (u - self.total[state]) / (self.mass[state] - self.total[state])
            empty = state == 0
            byte[left[empty]] = (u[empty] * SYMBOLS).astype(np.int64)
            left, state, u = left[~empty], self.suffix[state[~empty]], u[~empty]
            u = u * self.mass[state]
            hit = u < self.total[state]
            edge = self._edge_of(self.row[state[hit]] + u[hit].astype(np.int64))
            byte[left[hit]] = self.key[edge] & 255
            left, state, u = left[~hit], state[~hit], u[~hit]
        return np.minimum(byte, SYMBOLS - 1)  # u can round up to 1

    def __repr__(self) -> str:
        """Return one line with the sizes."""
        return (
            f"NgramModel(order {self.order}, {len(self.mass):,} contexts, {len(self.key):,} pairs)"
        )


@dataclass(frozen=True)
class _Level:
    """Contexts of one length k: sorted words of k bytes, and their pairs, words of k + 1 bytes."""

    contexts: np.ndarray
    pairs: np.ndarray
    counts: np.ndarray
    owner: np.ndarray  # [pairs]: place of the pair's context in `contexts`


def build_ngram(text: bytes, *, order: int) -> NgramModel:
    """Count a text and return its model.

    The text is read as a ring: every context then has a continuation, and a context's counts sum
    up to those of its shorter contexts exactly.

    Args:
        text: not empty.
        order: bytes of context, 1 to 7 (a context and its byte share a 64-bit word).
    """
    levels = _count_levels(np.frombuffer(text, np.uint8), order)
    first = np.cumsum([0, *(len(level.contexts) for level in levels)])  # first state of each length
    columns: dict[str, list[np.ndarray]] = {f.name: [] for f in fields(NgramModel)}
    prob = np.array([])
    for k, level in enumerate(levels):
        lower = levels[k - 1] if k else level
        seen = np.bincount(level.owner, weights=level.counts)
        kinds = np.bincount(level.owner).astype(float)
        shorter = np.searchsorted(
            lower.pairs, _newest(level.pairs, k)
        )  # pair of h' and the same byte
        backed = prob[shorter] if k else 1.0 / SYMBOLS
        prob = (level.counts + kinds[level.owner] * backed) / (seen + kinds)[level.owner]
        longer = min(k + 1, order)
        columns["total"].append(seen)
        columns["mass"].append(seen + kinds)
        columns["suffix"].append(
            first[max(k - 1, 0)] + np.searchsorted(lower.contexts, _newest(level.contexts, k - 1))
        )
        columns["key"].append(
            (first[k] + level.owner) * SYMBOLS + (level.pairs & np.uint64(255)).astype(np.int64)
        )
        columns["prob"].append(prob)
        columns["after"].append(
            first[longer] + np.searchsorted(levels[longer].contexts, _newest(level.pairs, longer))
        )
    before = np.concatenate([[0], np.cumsum(np.concatenate([level.counts for level in levels]))])
    return _assemble(
        order, before, {name: np.concatenate(part) for name, part in columns.items() if part}
    )


def _assemble(order: int, before: np.ndarray, columns: dict[str, np.ndarray]) -> NgramModel:
    """Add what follows from the counts: rows and guide."""
    starts = np.searchsorted(columns["key"], np.arange(len(columns["mass"])) * SYMBOLS)
    numbers = np.arange((int(before[-1]) >> GUIDE) + 2) << GUIDE
    narrow = {name: columns.pop(name).astype(np.int32) for name in ("suffix", "after")}
    guide = (np.searchsorted(before[:-1], numbers, side="right") - 1).astype(np.int32)
    return NgramModel(
        order=order, before=before, row=before[starts], guide=guide, **columns, **narrow
    )


def _count_levels(text: np.ndarray, order: int) -> list[_Level]:
    """Return the counts for each context length from 0 to `order`."""
    ring = np.concatenate(
        [np.resize(text[::-1], order)[::-1], text]
    )  # a text may be shorter than a context
    words = np.zeros(len(text), np.uint64)
    for back in range(order, -1, -1):
        words = (words << np.uint64(8)) | ring[order - back : len(ring) - back]
    words.sort()
    counts = np.ones(len(words), np.int64)
    levels = []
    for k in range(order, -1, -1):
        if k < order:
            words = _newest(words, k + 1)
            by = np.argsort(words, kind="stable")
            words, counts = words[by], counts[by]
        starts = _group_starts(words)
        words, counts = words[starts], np.add.reduceat(counts, starts)
        owners = words >> np.uint64(8)
        contexts = owners[_group_starts(owners)]
        levels.append(_Level(contexts, words, counts, np.searchsorted(contexts, owners)))
    return levels[::-1]


def _newest(words: np.ndarray, length: int) -> np.ndarray:
    """Cut words down to their newest `length` bytes."""
    return words & np.uint64((1 << 8 * max(length, 0)) - 1)


def _group_starts(words: np.ndarray) -> np.ndarray:
    """Return where runs of equal words begin."""
    return np.flatnonzero(np.concatenate([[True], words[1:] != words[:-1]]))
