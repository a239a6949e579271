"""Tasks with a known answer, made from sentences of a random hierarchy (see `grammar.py`).

No pair of symbols has two parents, so that every sentence has one tree and every task one answer:

- classify: tell the symbol at the root, `depth` levels above the words, modulo the labels;
- translate: write each word as another by a fixed code, the two halves below a symbol exchanged or not
  as its rule says, for symbols up to `levels` levels above the words; with 0 word by word;
- summarize: write the symbols `levels` levels above the words, one for 2^levels words.

Accuracy 1, BLEU 100 and ROUGE 1 can be reached; of labels that are drawn at random with share e, of C,
1 - e + e / C. Texts to be written from have one to MOST sentences.

With `second_share` the texts to classify are written in one of two alphabets, each a group of its own: the
same held-out sentences in either, so that what parts their accuracies is what was seen of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from scaling.study.config import DataConfig
from scaling.training.data.corpus import Progress
from scaling.training.data.grammar import GrammarSource
from scaling.training.data.pairs import Pair, summarise_pairs, write_pairs
from scaling.training.data.randomness import hash_table, uniforms
from scaling.training.data.slices import write_pair_slice

MOST = 3  # sentences of a text to translate or to summarise
VAL, TRAIN = 0, 1  # streams
PIECE = 4096  # sentences at a time
ALPHABETS = ("first", "second")


def build_task(config: DataConfig, folder: Path, *, on_progress: Progress) -> dict[str, Any]:
    """Write the pairs `train` and `val` of a generated task and return what the manifest says of it."""
    on_progress(f"making {config.source}", 0.0)
    task = Task(config)
    vocab = max(config.vocab, config.classes or 0)
    val = write_pairs(folder, "val", task.pairs(VAL, int(config.val_tokens)), vocab=vocab)
    train = write_pairs(folder, "train", task.pairs(TRAIN, int(config.size)), vocab=vocab)
    shares = {} if config.second_share is None else dict(zip(ALPHABETS, (1 - config.second_share, config.second_share), strict=True))  # fmt: skip
    slices = [
        write_pair_slice(
            folder, number, task.pairs(VAL, int(config.val_tokens), alphabet=number),
            group=group, vocab=vocab, share=share,
        )
        for number, (group, share) in enumerate(shares.items())
    ]  # fmt: skip
    return {
        "slices": slices,
        "tokenizer": "none",
        "bytes_per_token": 1.0,
        "source_hash": hash_table(np.frombuffer(task.source_hash.encode(), np.uint8), task.code),
        "best": best_scores(config),
        **summarise_pairs(train, val),
    }


def best_scores(config: DataConfig) -> dict[str, float]:
    """Return what the best possible answers of a generated task score: accuracy and loss, BLEU, ROUGE.

    Units: accuracy as a share, loss in nats per label or token, BLEU of 100.
    """
    if config.source != "classify":
        return {"loss": 0.0, "bleu": 100.0, "rouge_l": 1.0}
    classes = config.classes or 1
    right = 1 - config.noise * (1 - 1 / classes)
    wrong = config.noise / classes
    entropy = -right * math.log(right)
    return {
        "accuracy": right,
        "loss": entropy - ((classes - 1) * wrong * math.log(wrong) if wrong else 0.0),
    }


class Task:
    """Sentences of one grammar, and what belongs to them."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.symbols = config.vocab if config.second_share is None else config.vocab // 2
        self.grammar = GrammarSource(
            self.symbols, rules=config.rules, depth=config.depth, seed=config.source_seed
        )
        self.source_hash = self.grammar.source_hash
        # a code without fixed points by the letter: word i becomes code[i]
        self.code = np.random.default_rng([config.source_seed, 3]).permutation(config.vocab)

    def pairs(self, stream: int, tokens: int, *, alphabet: int | None = None) -> Iterator[Pair]:
        """Yield pairs of one stream until they have so many tokens; more begin as fewer do.

        Args:
            alphabet: all texts in this one, 0 or 1; null: as `second_share` says.
        """
        written = 0
        for text, belonging in self._all_pairs(stream, alphabet):
            if written >= tokens:
                return
            written += len(text) + len(belonging)
            yield text, belonging

    def _all_pairs(self, stream: int, alphabet: int | None) -> Iterator[Pair]:
        rng = np.random.default_rng([self.config.source_seed, 4, stream])
        hands = np.random.default_rng([self.config.source_seed, 5, stream])
        width = 2**self.config.depth
        for uniform in uniforms(self.config.source_seed, stream, 1 << 40, size=PIECE * width):
            rows = self.grammar.grow(uniform.reshape(-1, width))
            if self.config.source == "classify":
                labels = self._labels(rows, rng)[:, None]
                yield from zip(self._written(rows, hands, alphabet), labels, strict=True)
                continue
            answers = self.answer(rows)
            edges = np.cumsum(rng.integers(1, MOST + 1, size=PIECE))
            for a, b in pairwise([0, *edges[edges <= PIECE]]):
                yield rows[a:b].reshape(-1), answers[a:b].reshape(-1)

    def answer(self, sentences: np.ndarray) -> np.ndarray:
        """Return what is to be written for sentences [n, 2^depth]: [n, their length or a part]."""
        levels = self.config.levels
        if self.config.source == "summarize":
            return self._symbols(sentences, levels)
        out = self.code[sentences]
        symbols = sentences
        for height in range(1, levels + 1):
            level = self.grammar.levels[self.config.depth - height]
            left, right = symbols[:, 0::2], symbols[:, 1::2]
            swapped = level.rule[left, right] % 2 == 1  # [n, symbols of this height]
            halves = out.reshape(len(out), -1, 2, 2 ** (height - 1))
            out = np.where(swapped[:, :, None, None], halves[:, :, ::-1], halves)
            out = out.reshape(len(sentences), -1)
            symbols = level.parent[left, right]
        return out

    def _written(
        self, sentences: np.ndarray, rng: np.random.Generator, alphabet: int | None
    ) -> np.ndarray:
        """Return sentences, each in its alphabet."""
        share = self.config.second_share
        if share is None:
            return sentences
        second = rng.random(len(sentences)) < (share if alphabet is None else alphabet)
        return sentences + self.symbols * second[:, None]

    def _labels(self, sentences: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        classes = self.config.classes or 1
        lucky = rng.random(len(sentences)) < self.config.noise
        drawn = rng.integers(classes, size=len(sentences))
        true = self._symbols(sentences, self.config.depth)[:, 0] % classes
        return np.where(lucky, drawn, true)

    def _symbols(self, sentences: np.ndarray, levels: int) -> np.ndarray:
        """Return the symbols so many levels above the words."""
        for height in range(1, levels + 1):
            level = self.grammar.levels[self.config.depth - height]
            sentences = level.parent[sentences[:, 0::2], sentences[:, 1::2]]
        return sentences
