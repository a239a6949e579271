"""A random hierarchy: sentences grown from a symbol by rules, with an exact entropy in closed form.

A symbol of one level becomes two symbols of the next by one of `rules` productions, drawn by
Zipf's law. No pair has two parents, so that a sentence has one tree only and

    entropy = (ln V + sum over levels l of 2^l H(rules)) / 2^depth    nats per token.

Source: the random hierarchy model (Cagnetta et al. 2024) with rules of unequal frequency.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scaling.study.errors import ConfigError
from scaling.training.data.randomness import draw, entropy_of, hash_table, uniforms, zipf

EXPONENT = 1.5  # of the rules' frequencies: losses are then smooth in N and D, not a staircase
SENTENCES = 4096  # scored at a time; bounds memory


@dataclass(frozen=True)
class _Level:
    """Productions of one level, V symbols and R rules each."""

    left: np.ndarray  # [V, R]
    right: np.ndarray  # [V, R]
    parent: np.ndarray  # [V, V]: symbol that a pair comes from; -1: no such pair
    rule: np.ndarray  # [V, V]: its rule
    first: np.ndarray  # [V, V]: p(left child | symbol)


class GrammarSource:
    """Sentences of 2^depth tokens, one after another, with uniformly drawn roots."""

    def __init__(
        self, vocab: int, *, rules: int, depth: int, seed: int, exponent: float = EXPONENT
    ):
        """Draw a grammar.

        Args:
            vocab: symbols of every level.
            rules: productions per symbol, at most `vocab` so that pairs suffice.
            depth: levels.
            seed: seed of the grammar and of its text.
            exponent: of the rules' frequencies (i + 1)^-exponent; 0: all alike.
        """
        if rules > vocab:
            raise ConfigError(
                f"data.rules={rules}: above data.vocab={vocab} there are more productions than "
                f"pairs. Set data.rules={vocab} or less."
            )
        self.vocab, self.depth, self.seed = vocab, depth, seed
        self.p = zipf(rules, exponent)
        rng = np.random.default_rng([seed, 2])
        self.levels = [_draw_level(rng, vocab, self.p) for _ in range(depth)]
        nodes = 2**depth - 1
        self.entropy_rate: float | None = (np.log(vocab) + nodes * entropy_of(self.p)) / 2**depth
        self.source_hash = hash_table(
            self.p, *(side for level in self.levels for side in (level.left, level.right))
        )

    def text(self, stream: int, length: int) -> Iterator[tuple[np.ndarray, None]]:
        """Yield a text of one stream; a sentence uses one uniform number per token."""
        sentence = 2**self.depth
        left = length
        for uniform in uniforms(self.seed, stream, -(-length // sentence) * sentence):
            tokens = self.grow(uniform.reshape(-1, sentence)).reshape(-1)[:left]
            left -= len(tokens)
            yield tokens, None

    def logprob(self, tokens: np.ndarray) -> np.ndarray:
        """Return log p of each token given all before it [nats].

        A sentence cut short at the end of the text is scored up to where it goes.
        """
        sentence = 2**self.depth
        rows = np.resize(tokens, -(-len(tokens) // sentence) * sentence).reshape(-1, sentence)
        out = np.empty(rows.shape)
        for first in range(0, len(rows), SENTENCES):
            part = slice(first, first + SENTENCES)
            root = np.full((len(rows[part]), self.vocab), 1.0 / self.vocab)
            self._score(0, root, rows[part], out[part])
        return out.reshape(-1)[: len(tokens)]

    def grow(self, uniform: np.ndarray) -> np.ndarray:
        """Return sentences [n, 2^depth]: the first number draws the root, each other one a rule."""
        symbols = np.minimum((uniform[:, :1] * self.vocab).astype(np.int64), self.vocab - 1)
        for depth, level in enumerate(self.levels):
            rule = draw(self.p, uniform[:, 2**depth : 2 ** (depth + 1)])
            pairs = np.stack([level.left[symbols, rule], level.right[symbols, rule]], axis=-1)
            symbols = pairs.reshape(len(uniform), -1)
        return symbols

    def _score(
        self, depth: int, belief: np.ndarray, tokens: np.ndarray, out: np.ndarray
    ) -> np.ndarray:
        """Score the tokens below one node and return the node's symbol.

        Args:
            depth: level of the node.
            belief: [n, V] p(node's symbol | all tokens before it).
            tokens: [n, width] below the node.
            out: [n, width] takes log p.
        """
        rows = np.arange(len(tokens))
        if depth == self.depth:
            with np.errstate(divide="ignore"):  # a sentence cut short may go on as it cannot
                out[:, 0] = np.log(belief[rows, tokens[:, 0]])
            return tokens[:, 0]
        level, half = self.levels[depth], tokens.shape[1] // 2
        left = self._score(depth + 1, belief @ level.first, tokens[:, :half], out[:, :half])
        right_belief = self._right_belief(level, belief, left)
        right = self._score(depth + 1, right_belief, tokens[:, half:], out[:, half:])
        return level.parent[left, right]

    def _right_belief(self, level: _Level, belief: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Return [n, V] p(right child | left child): each pair's parent and rule are known."""
        parent, rule = level.parent[left], level.rule[left]  # [n, V] over right children
        joint = np.where(
            parent >= 0, np.take_along_axis(belief, parent, axis=1) * self.p[rule], 0.0
        )
        with np.errstate(invalid="ignore"):
            return joint / joint.sum(axis=1, keepdims=True)


def _draw_level(rng: np.random.Generator, vocab: int, p: np.ndarray) -> _Level:
    """Give every symbol as many pairs as there are rules, none shared with another symbol."""
    rules = len(p)
    pairs = rng.permutation(vocab * vocab)[: vocab * rules].reshape(vocab, rules)
    parent, rule = np.full(vocab * vocab, -1), np.zeros(vocab * vocab, np.int64)
    parent[pairs], rule[pairs] = np.arange(vocab)[:, None], np.arange(rules)[None, :]
    first = np.zeros((vocab, vocab))
    np.add.at(first, (np.arange(vocab)[:, None], pairs // vocab), p[None, :])
    square = (vocab, vocab)
    return _Level(
        pairs // vocab, pairs % vocab, parent.reshape(square), rule.reshape(square), first
    )
