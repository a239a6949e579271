"""Batches of pairs: a text that is read, and its label or the text that is to be written.

A decoder reads the text and [sep] and writes on; an encoder reads [cls] and the text and tells a label;
an encoder-decoder reads the text and writes behind [start]. A text ends with [end], a label is one token.
All is filled up to fixed lengths by [pad].

Shapes in names: B pairs, S positions for the text, U for what is written, T all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.study.errors import DataError
from scaling.study.objective import IGNORE, Layout
from scaling.training.data.pairs import PairStore
from scaling.training.data.store import TokenStore


@dataclass(frozen=True)
class Answers:
    """Lays out pairs for a kind of model.

    Args:
        layout: special tokens and lengths.
        kind: of the model.
        context: tokens of a place, text and what is written together.
        vocab: tokens of the tokenizer.
    """

    layout: Layout
    kind: str
    context: int
    vocab: int
    hides = False  # no part of the text is hidden
    pairs = False  # nor judged to follow another

    @property
    def writes(self) -> bool:
        """Whether a text is written, not a label told."""
        return self.layout.objective == "seq2seq"

    def special(self, name: str) -> int:
        """Return the number of a special token."""
        return self.layout.special(name, self.vocab)

    def make(
        self, store: TokenStore, starts: np.ndarray, keys: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets [B, T] of the pairs whose places begin at `starts`; nothing is drawn."""
        read_BS, length_B = self.sources(store, starts)
        target_BU = self.targets(store, starts)
        if self.kind == "encoder":
            targets_BT = np.full_like(read_BS, IGNORE)
            targets_BT[:, 0] = target_BU[:, 0]
            return read_BS, targets_BT
        pad, room = self.special("pad"), len(target_BU[0])
        shown_BU = np.where(target_BU == IGNORE, pad, target_BU)
        if self.kind == "encoder_decoder":
            first_B1 = np.full((len(starts), 1), self.special("start"))
            inputs_BT = np.concatenate([read_BS, first_B1, shown_BU[:, :-1]], axis=1)
            return inputs_BT, np.concatenate([np.full_like(read_BS, IGNORE), target_BU], axis=1)
        # a decoder: what is written begins behind the text, wherever that ends
        inputs_BT = np.full((len(starts), self.context + 1), pad)
        inputs_BT[:, : read_BS.shape[1]] = read_BS
        targets_BT = np.full_like(inputs_BT, IGNORE)
        at_BU = length_B[:, None] + np.arange(room)
        np.put_along_axis(inputs_BT, at_BU, shown_BU, axis=1)
        np.put_along_axis(targets_BT, at_BU, target_BU, axis=1)
        return inputs_BT[:, :-1], targets_BT[:, 1:]

    def sources(self, store: TokenStore, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what is read of pairs [B, S], special tokens and padding included, and its lengths [B]."""
        most = self.context - self.layout.outputs
        words_BS, length_B = self._pairs(store).read(starts, part=0, most=most)
        pad = self.special("pad")
        words_BS = np.where(np.arange(most) < length_B[:, None], words_BS, pad)
        if self.kind == "encoder_decoder":
            return words_BS, length_B
        column_B1 = np.full((len(words_BS), 1), pad)
        if self.kind == "encoder":
            column_B1[:] = self.special("cls")
            return np.concatenate([column_B1, words_BS], axis=1), length_B + 1
        read_BS = np.concatenate([words_BS, column_B1], axis=1)
        np.put_along_axis(read_BS, length_B[:, None], self.special("sep"), axis=1)
        return read_BS, length_B + 1

    def targets(self, store: TokenStore, starts: np.ndarray) -> np.ndarray:
        """Return what is to be written or told [B, U], IGNORE behind it."""
        if not self.writes:
            labels_B1, _ = self._pairs(store).read(starts, part=1, most=1)
            return labels_B1 + (0 if self.layout.classes else self.special("class_0"))
        most = self.layout.outputs - 1
        words_BU, length_B = self._pairs(store).read(starts, part=1, most=most)
        words_BU = np.concatenate([words_BU, np.full((len(words_BU), 1), IGNORE)], axis=1)
        words_BU[np.arange(most + 1) >= length_B[:, None]] = IGNORE
        np.put_along_axis(words_BU, length_B[:, None], self.special("end"), axis=1)
        return words_BU

    def _pairs(self, store: TokenStore) -> PairStore:
        if isinstance(store, PairStore):
            return store
        raise DataError(
            f"objective: {self.layout.objective} needs pairs, and this text is none. Choose data.source=pairs, or "
            "leave the text out."
        )
