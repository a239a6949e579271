"""Text that says everything twice: nothing to learn but to look back, with an exact entropy.

A stretch of unpredictable tokens, a mark, and the stretch again; then the next one. Lengths vary, so
that no fixed distance finds the copy: a model must find where the present token stood before, and
what followed it there.

    entropy = (mean length · ln(V - 1) + ln(number of lengths)) / (2 · mean length + 1)   nats per token
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scaling.study.errors import ConfigError
from scaling.training.data.randomness import CHUNK, hash_table, uniforms

SHORTEST, LONGEST = (
    4,
    12,
)  # tokens of a stretch, all lengths alike; a context of 32 holds the longest twice
MARK = 0  # stands between a stretch and its copy, so that every probability is known


class RepeatSource:
    """Stretches of tokens 1 ... V - 1, drawn evenly, each followed by a mark and by itself."""

    def __init__(self, vocab: int, *, seed: int) -> None:
        """Make the source of one vocabulary size and seed.

        Raises:
            ConfigError: the vocabulary leaves nothing to draw.
        """
        if vocab < 3:
            raise ConfigError(
                f"data.vocab={vocab}: source=repeats needs a mark and two tokens to draw from. Set data.vocab to 3 or more."
            )
        self.vocab, self.seed = vocab, seed
        lengths = np.arange(SHORTEST, LONGEST + 1)
        drawn = lengths.mean() * np.log(vocab - 1) + np.log(len(lengths))
        self.entropy_rate: float | None = float(drawn / (2 * lengths.mean() + 1))
        self.source_hash = hash_table(np.array([vocab, SHORTEST, LONGEST]))

    def text(self, stream: int, length: int) -> Iterator[tuple[np.ndarray, None]]:
        """Yield a text of one stream; a stretch uses LONGEST + 1 uniform numbers, however long it is."""
        numbers = LONGEST + 1
        most = -(-length // (2 * SHORTEST + 1)) * numbers  # enough if all stretches were short
        for uniform in uniforms(self.seed, stream, most, size=CHUNK // numbers * numbers):
            tokens = self._grow(uniform.reshape(-1, numbers))[:length]
            length -= len(tokens)
            yield tokens, None
            if not length:
                return

    def _grow(self, uniform: np.ndarray) -> np.ndarray:
        """Return the stretches of rows of uniform numbers, each with mark and copy."""
        count = LONGEST - SHORTEST + 1
        length_R1 = SHORTEST + np.minimum((uniform[:, :1] * count).astype(np.int64), count - 1)
        drawn_RL = np.minimum((uniform[:, 1:] * (self.vocab - 1)).astype(np.int64), self.vocab - 2)
        keep_RL = np.arange(LONGEST) < length_R1
        always_R1 = np.ones_like(length_R1, bool)
        rows = np.hstack([1 + drawn_RL, np.full_like(length_R1, MARK), 1 + drawn_RL])
        return rows[np.hstack([keep_RL, always_R1, keep_RL])]

    def logprob(self, tokens: np.ndarray) -> np.ndarray:
        """Return log p [nats] of each token of a text given all tokens before it."""
        so_far = np.arange(LONGEST + 1)
        # after l tokens, 1 of the lengths that are left ends here
        ends = np.where(so_far < SHORTEST, 0.0, 1.0 / (LONGEST + 1 - np.maximum(so_far, SHORTEST)))
        with np.errstate(divide="ignore"):
            end, go_on = np.log(ends), np.log1p(-ends) - np.log(self.vocab - 1)
        out, start = np.zeros(len(tokens)), 0
        for mark in np.flatnonzero(np.asarray(tokens) == MARK):
            drawn = mark - start
            out[start:mark], out[mark] = go_on[:drawn], end[drawn]
            start = int(mark) + 1 + int(drawn)  # what lies between is a copy and certain
        rest = max(0, len(tokens) - start)
        out[len(tokens) - rest :] = go_on[:rest]
        return out
