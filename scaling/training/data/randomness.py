"""Reproducible random numbers and the distributions that generated sources draw from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

CHUNK = 1 << 22  # numbers at a time; bounds memory


def zipf(count: int, exponent: float = 1.0) -> np.ndarray:
    """Return probabilities p(i) ∝ (i + 1)^-exponent for i below `count`."""
    weights = np.arange(1, count + 1, dtype=float) ** -exponent
    return weights / weights.sum()


def entropy_of(p: np.ndarray) -> float:
    """Return the entropy of a distribution [nats]."""
    return float(-np.sum(p * np.log(p)))


def draw(p: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Return draws from a distribution, one per uniform number."""
    return np.minimum(np.searchsorted(np.cumsum(p), uniform, side="right"), len(p) - 1)


def uniforms(seed: int, stream: int, length: int, *, size: int = CHUNK) -> Iterator[np.ndarray]:
    """Yield the first `length` uniform numbers of one stream of one seed, `size` at a time.

    Number i is the same whatever the length and the size are.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, stream])))
    for first in range(0, length, size):
        yield rng.random(min(size, length - first))


def hash_table(*tables: np.ndarray) -> str:
    """Return a hash of tables; probabilities are rounded, for machines differ in the last bit."""
    digest = hashlib.sha256()
    for table in tables:
        whole = np.round(table * 2.0**40) if table.dtype.kind == "f" else table
        digest.update(np.ascontiguousarray(whole, "<i8").tobytes())
    return digest.hexdigest()[:16]
