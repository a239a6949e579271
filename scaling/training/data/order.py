"""Which tokens a step sees: a function of (seed, step) alone.

The training tokens are cut into windows of `context` tokens (each reads one token further for its
last target). An epoch visits every window once in pseudo-random order. The order is computed, not
stored: a Feistel network on the pair (i // b, i % b) is a bijection whatever its round function is,
and an index that falls outside is sent through again until it falls inside (cycle walking).
"""

from __future__ import annotations

from functools import lru_cache
from math import isqrt

import numpy as np

ROUNDS = 6  # four already pass as random (Luby and Rackoff 1988); tiny domains like a few more
BLOCK = 4096  # sequences ordered at a time, so that the cost per step is a slice
_MASK = (1 << 64) - 1


def count_windows(tokens: int, context: int) -> int:
    """Return how many windows of `context` inputs, each with its target, fit into the tokens."""
    return max(0, (tokens - 1) // context)


def window_starts(first: int, last: int, *, windows: int, context: int, seed: int) -> np.ndarray:
    """Return where sequences `first` to `last - 1` of a run begin in the token store.

    Sequence k belongs to epoch k // windows, so that the order does not depend on the batch size.

    Args:
        first, last: range of sequence numbers counted from the beginning of the run.
        windows: windows in an epoch, see `count_windows`.
        context: tokens per window.
        seed: seed of the order.

    Returns:
        int64 array [last - first] of token positions.
    """
    blocks = [_ordered_block(b, windows, seed) for b in range(first // BLOCK, -(-last // BLOCK))]
    index = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    offset = first - first // BLOCK * BLOCK
    return index[offset : offset + last - first] * context


@lru_cache(maxsize=16)
def _ordered_block(block: int, windows: int, seed: int) -> np.ndarray:
    """Return the windows of sequences block * BLOCK ... + BLOCK - 1, across epochs if need be."""
    k = np.arange(block * BLOCK, (block + 1) * BLOCK)
    epochs = k // windows
    out = np.empty(BLOCK, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        out[here] = permute(k[here] - epoch * windows, windows, seed=seed, epoch=int(epoch))
    out.flags.writeable = False
    return out


def permute(index: np.ndarray, size: int, *, seed: int, epoch: int = 0) -> np.ndarray:
    """Map indices below `size` by a pseudo-random permutation chosen by (seed, epoch).

    Memory and time are proportional to the indices asked for, not to `size`.

    Source: Black and Rogaway 2002, generalised Feistel cipher and cycle walking.
    """
    a = isqrt(size - 1) + 1
    b = -(-size // a)  # a * b >= size by less than a, so that hardly any index needs a second walk
    keys = _round_keys(seed, epoch)
    out: np.ndarray = _feistel(np.asarray(index, np.uint64), a, b, keys)
    while (outside := np.flatnonzero(out >= size)).size:
        out[outside] = _feistel(out[outside], a, b, keys)
    return out.astype(np.int64)


def sequence_keys(numbers: np.ndarray, *, seed: int) -> np.ndarray:
    """Return uint64 keys of sequences: what is drawn for one depends on (seed, its number) alone."""
    return _mix(np.asarray(numbers, np.uint64), _round_keys(seed, 0)[0])


def draws(keys: np.ndarray, count: int, *, salt: int) -> np.ndarray:
    """Return uint64 [len(keys), count]: independent uniform numbers, the same for the same key and salt."""
    lots = _mix(keys, salt * 0x9E3779B97F4A7C15 & _MASK)
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95)
    return _mix(_mix(lots[:, None] ^ steps, salt), 0)


def _feistel(index: np.ndarray, a: int, b: int, keys: tuple[int, ...]) -> np.ndarray:
    width = np.uint64(b)
    left: np.ndarray = index // width  # below a
    right: np.ndarray = index % width  # below b
    for number, key in enumerate(keys):
        if number % 2 == 0:
            left = (left + _mix(right, key) % np.uint64(a)) % np.uint64(a)
        else:
            right = (right + _mix(left, key) % width) % width
    return left * width + right


def _mix(x: np.ndarray, key: int) -> np.ndarray:
    """Hash 64-bit words by SplitMix64's finaliser (Steele et al. 2014); wraps around by design."""
    x = (x + np.uint64(key)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=256)
def _round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    words = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64)
    return tuple(int(word) & _MASK for word in words)
