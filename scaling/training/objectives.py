"""From windows of text to batches: what a model sees of a window, and what it is to predict.

Every objective gives two arrays of whole numbers and of one shape, inputs and targets; what is hidden depends on a key
of the window alone, so that a resumed run hides the same, and validation hides the same for all runs.

Shapes in names: B windows, T positions, W words of a window, K spans.
"""

from __future__ import annotations

import numpy as np

from scaling.study.config import ObjectiveConfig
from scaling.study.objective import IGNORE, Layout, count_spans, first_length
from scaling.study.plan import RunPlan
from scaling.training.answers import Answers
from scaling.training.data.dataset import Objective
from scaling.training.data.order import draws
from scaling.training.data.store import TokenStore

Batch = tuple[np.ndarray, np.ndarray]
# BERT: of the chosen tokens 80 % are hidden, 10 % become a random one, 10 % stay
# (Devlin et al. 2019, arXiv:1810.04805, section 3.1).
HIDDEN, RANDOM = 0.8, 0.1


def build_objective(plan: RunPlan) -> Objective | None:
    """Return what lays out the text of a run; null: each token is to be predicted from those before."""
    config, context, vocab = plan.config.objective, plan.shape.context, plan.config.data.vocab
    if plan.layout.objective == "masked":
        return Masked(config, plan.layout, context=context, vocab=vocab)
    if plan.layout.objective == "span_corruption":
        return SpanCorruption(config, plan.layout, context=context, vocab=vocab)
    if plan.layout.objective in ("seq2seq", "classify"):
        return Answers(plan.layout, plan.shape.kind, context, vocab)
    return None


class Masked:
    """Some tokens from all others; with pairs also whether the second half follows the first."""

    hides = True

    def __init__(
        self, config: ObjectiveConfig, layout: Layout, *, context: int, vocab: int
    ) -> None:
        self.config, self.context, self.vocab, self.pairs = config, context, vocab, layout.pairs
        self.count = layout.outputs
        self.special = layout.numbers(vocab)

    def make(self, store: TokenStore, starts: np.ndarray, keys: np.ndarray) -> Batch:
        """Return [B, T]: the text with some tokens hidden; those tokens, IGNORE elsewhere."""
        if not self.pairs:
            words_BW, place_W = store.windows(starts, self.context), np.arange(self.context)
            inputs_BT = words_BW.astype(np.int64)
            targets_BT = np.full_like(inputs_BT, IGNORE)
        else:
            words_BW, follows_B = self._pairs(store, starts, keys)
            inputs_BT, place_W = self._frame(words_BW)
            targets_BT = np.full_like(inputs_BT, IGNORE)
            targets_BT[:, 0] = follows_B
        chosen_BK, shown_BK = self._hide(words_BW, keys)
        rows_B1, at_BK = np.arange(len(starts))[:, None], place_W[chosen_BK]
        targets_BT[rows_B1, at_BK] = words_BW[rows_B1, chosen_BK]
        inputs_BT[rows_B1, at_BK] = shown_BK
        return inputs_BT, targets_BT

    def _hide(self, words_BW: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Choose words of each window; returns where they are and what is shown instead."""
        lots_BW = draws(keys, words_BW.shape[1], salt=1)
        chosen_BK = np.sort(np.argpartition(lots_BW, self.count - 1)[:, : self.count])
        shown_BK = np.full(chosen_BK.shape, self.special["mask"])
        if self.config.masking == "bert":
            fate_BK = draws(keys, self.count, salt=2) / 2.0**64
            other_BK = draws(keys, self.count, salt=3) % np.uint64(self.vocab)
            kept_BK = np.take_along_axis(words_BW, chosen_BK, axis=1)
            shown_BK = np.where(fate_BK < HIDDEN, shown_BK, kept_BK)
            lucky_BK = (fate_BK >= HIDDEN) & (fate_BK < HIDDEN + RANDOM)
            shown_BK = np.where(lucky_BK, other_BK.astype(np.int64), shown_BK)
        return chosen_BK, shown_BK

    def _pairs(
        self, store: TokenStore, starts: np.ndarray, keys: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return words [B, W] whose second half follows (1) or is from elsewhere (0), half of each."""
        count = self.context - 3
        words_BW = store.windows(starts, count).astype(np.int64)
        lots_B2 = draws(keys, 2, salt=4)
        follows_B = (lots_B2[:, 0] >> np.uint64(63)).astype(np.int64)
        last = max(1, len(store) - count)
        elsewhere_BW = store.windows((lots_B2[:, 1] % np.uint64(last)).astype(np.int64), count)
        half = first_length(self.context) - 2
        words_BW[:, half:] = np.where(
            follows_B[:, None] == 1, words_BW[:, half:], elsewhere_BW[:, half:]
        )
        return words_BW, follows_B

    def _frame(self, words_BW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Put [cls] first and [sep] after each half; returns the tokens and where the words are."""
        first = first_length(self.context)
        place_W = np.concatenate([np.arange(1, first - 1), np.arange(first, self.context - 1)])
        inputs_BT = np.full((len(words_BW), self.context), self.special["sep"])
        inputs_BT[:, 0] = self.special["cls"]
        inputs_BT[:, place_W] = words_BW
        return inputs_BT, place_W


class SpanCorruption:
    """Spans that were cut out, from what is left; each has a mark in both.

    Source: Raffel et al. 2020, arXiv:1910.10683, section 3.1.4.
    """

    hides, pairs = True, False

    def __init__(
        self, config: ObjectiveConfig, layout: Layout, *, context: int, vocab: int
    ) -> None:
        self.layout, self.context = layout, context
        self.cut, self.spans = count_spans(config, context)
        numbers = layout.numbers(vocab)
        self.start, self.end = numbers["start"], numbers["end"]
        # a tokenizer may have them in any order; T5's count down
        self.marks = np.array([numbers[f"span_{i}"] for i in range(self.spans)])

    def make(self, store: TokenStore, starts: np.ndarray, keys: np.ndarray) -> Batch:
        """Return [B, S + U]: what is read, then what was written so far; IGNORE, then what is written."""
        words_BW = store.windows(starts, self.context).astype(np.int64)
        cut_BW = self._cut(keys)
        read_BS = self._marked(words_BW, cut_BW, self.layout.source)
        write_BU = self._marked(words_BW, ~cut_BW, self.layout.outputs)
        begin_B1 = np.full((len(starts), 1), self.start)
        inputs_BT = np.concatenate([read_BS, begin_B1, write_BU[:, :-1]], axis=1)
        return inputs_BT, np.concatenate([np.full_like(read_BS, IGNORE), write_BU], axis=1)

    def _cut(self, keys: np.ndarray) -> np.ndarray:
        """Return which words are cut out [B, W]: kept and cut stretches of random lengths in turn."""
        kept_BK = self._lengths(keys, self.context - self.cut, salt=1)
        cut_BK = self._lengths(keys, self.cut, salt=2)
        lengths = np.stack([kept_BK, cut_BK], axis=2).reshape(-1)
        turns = np.tile([False, True], len(keys) * self.spans)
        return np.repeat(turns, lengths).reshape(len(keys), self.context)

    def _lengths(self, keys: np.ndarray, total: int, *, salt: int) -> np.ndarray:
        """Divide `total` words into as many parts as there are spans, none empty, all ways alike."""
        if self.spans == 1:
            return np.full((len(keys), 1), total)
        lots = draws(keys, total - 1, salt=salt)
        edges = np.sort(np.argpartition(lots, self.spans - 2)[:, : self.spans - 1]) + 1
        ends = np.full((len(keys), 1), total)
        return np.diff(np.concatenate([edges, ends], axis=1), prepend=0, axis=1)

    def _marked(self, words_BW: np.ndarray, gone_BW: np.ndarray, length: int) -> np.ndarray:
        """Return the words that are not gone, a mark for each stretch that is, and the end."""
        begins_BW = gone_BW.copy()
        begins_BW[:, 1:] &= ~gone_BW[:, :-1]
        shown_BW = np.where(begins_BW, self.marks[np.cumsum(begins_BW, axis=1) - 1], words_BW)
        shown = shown_BW[~gone_BW | begins_BW].reshape(len(words_BW), length - 1)
        return np.concatenate([shown, np.full((len(words_BW), 1), self.end)], axis=1)
