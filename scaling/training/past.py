"""What a stack has read already: keys and values of every layer, so that a token is read once.

Rows of a batch end together: a shorter one has empty slots on its left, which nothing looks at, and
its positions count from its own first token.

Shapes in names: B rows, T new tokens, S slots in use, W slots there are, H query heads, G key-value
heads, Q head size, V vocabulary; in products N = G B, and R rows: T of each head that shares keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scaling.training.model import Transformer

# Added to the scores of what may not be seen: its weight becomes exactly 0 in float32, and an empty
# slot, which may see nothing at all, still has finite numbers (minus infinity would make it NaN).
UNSEEN = -1e9


class KeyValues:
    """Those of one layer. source: keys and values of what a cross-attention reads."""

    def __init__(self, past: Past, keys_GBWQ: Tensor, values_GBWQ: Tensor) -> None:
        self.past, self.keys_GBWQ, self.values_GBWQ = past, keys_GBWQ, values_GBWQ
        self.source: tuple[Tensor, Tensor] | None = None

    def attend(
        self,
        q_HBTQ: Tensor,
        k_GBTQ: Tensor,
        v_GBTQ: Tensor,
        *,
        scale: float | None,
        bias_HTS: Tensor | None = None,
    ) -> Tensor:
        """Take in new keys and values; return what the new positions see of all [B, T, H Q].

        Args:
            scale: of the scores; null: 1 / sqrt(Q).
            bias_HTS: added to the scores, by distance.
        """
        (H, B, T, Q), G = q_HBTQ.shape, len(k_GBTQ)
        first, last = self.past.used, self.past.used + T
        self.keys_GBWQ[:, :, first:last] = k_GBTQ
        self.values_GBWQ[:, :, first:last] = v_GBTQ
        if G < H:  # heads that share keys are rows of one product
            q_HBTQ = q_HBTQ.view(G, H // G, B, T, Q).transpose(1, 2)
        q_NRQ = q_HBTQ.reshape(G * B, -1, Q)
        k_NSQ, v_NSQ = (t.flatten(0, 1)[:, :last] for t in (self.keys_GBWQ, self.values_GBWQ))
        scale = Q**-0.5 if scale is None else scale
        added = self._added(q_NRQ, G, bias_HTS)
        scores_NRS = torch.baddbmm(added, q_NRQ, k_NSQ.transpose(1, 2), alpha=scale)
        y_NRQ = torch.bmm(scores_NRS.softmax(-1), v_NSQ)
        return y_NRQ.view(G, B, H // G, T, Q).permute(1, 3, 0, 2, 4).reshape(B, T, H * Q)

    def _added(self, q_NRQ: Tensor, G: int, bias_HTS: Tensor | None) -> Tensor:
        """Return what is added to the scores: what may not be seen, and the bias by distance."""
        mask_BTS = self.past.mask_BTS
        if mask_BTS is None and bias_HTS is None:
            return q_NRQ.new_zeros(1)
        N, R, _ = q_NRQ.shape
        added = q_NRQ.new_zeros(1)
        if bias_HTS is not None:
            added = bias_HTS.reshape(G, 1, R, -1)
        if mask_BTS is not None:  # of each row, for all heads
            added = added + mask_BTS.repeat(1, R // mask_BTS.shape[1], 1)
        added = added.expand(G, N // G, R, added.shape[-1])
        return added.reshape(N, R, -1).to(q_NRQ.dtype)


class Past:
    """What a decoder has read of a batch.

    Args:
        model: a decoder, or an encoder-decoder.
        rows: of the batch. room: most tokens it will hold.
        memory_BSD: what the encoder made of the source; null for a decoder.
        seen_BS: which positions of the source are no padding; null: all.
    """

    def __init__(
        self,
        model: Transformer,
        rows: int,
        *,
        room: int,
        memory_BSD: Tensor | None = None,
        seen_BS: Tensor | None = None,
    ) -> None:
        s, weight = model.shape, model.embedding.weight
        self.used, self.memory_BSD, self.seen_BS = 0, memory_BSD, seen_BS
        self.empty_B: Tensor | None = None
        self.mask_BTS: Tensor | None = None
        self.layers = [
            KeyValues(self, *weight.new_empty(2, s.kv_heads, rows, room, s.head_size))
            for _ in model.blocks
        ]

    def read(self, model: Transformer, tokens_BT: Tensor, empty_B: Tensor | None = None) -> Tensor:
        """Read tokens behind those that were read; return logits [B, V] of the one that follows.

        Args:
            model: the one that this was made for.
            tokens_BT: int64.
            empty_B: of the first tokens, how many on the left of each row are none; null: none.
        """
        if self.used == 0 and empty_B is not None and bool(empty_B.any()):
            self.empty_B = empty_B
        x_BTD, turn = model.embed(tokens_BT, self._look(tokens_BT.shape[1]))
        T = tokens_BT.shape[1]
        bias_HTS = model.bias(self.used + T, last=T)
        source = () if self.memory_BSD is None else (self.memory_BSD,)
        given = {"bias_HTT": bias_HTS} | ({"seen_BS": self.seen_BS} if source else {})
        for block, layer in zip(model.blocks, self.layers, strict=True):
            x_BTD = block(x_BTD, turn, *source, **given, past=layer)
        self.used += T
        logits_BV: Tensor = model.head(model.finish(model.norm(x_BTD[:, -1])))
        return logits_BV

    def _look(self, T: int) -> slice | Tensor:
        """Say which slots T new tokens may see; return their positions."""
        first, last = self.used, self.used + T
        self.mask_BTS = None
        at = slice(first, last)
        if T == 1 and self.empty_B is None:
            return at
        device = self.layers[0].keys_GBWQ.device
        slots_S = torch.arange(last, device=device)
        unseen_BTS = (slots_S > slots_S[first:].unsqueeze(1)).unsqueeze(0)
        if self.empty_B is not None:
            unseen_BTS = unseen_BTS | (slots_S < self.empty_B.view(-1, 1, 1))
        self.mask_BTS = unseen_BTS * UNSEEN
        if self.empty_B is None:
            return at
        return (slots_S[first:] - self.empty_B.unsqueeze(1)).clamp(min=0)

    def pick(self, rows_B: Tensor) -> None:
        """Go on with these rows of the batch, some of them perhaps several times."""
        for layer in self.layers:
            layer.keys_GBWQ = layer.keys_GBWQ.index_select(1, rows_B)
            layer.values_GBWQ = layer.values_GBWQ.index_select(1, rows_B)
            if layer.source is not None:
                layer.source = tuple(t.index_select(0, rows_B) for t in layer.source)  # type: ignore[assignment]
        if self.empty_B is not None:
            self.empty_B = self.empty_B.index_select(0, rows_B)
        if self.memory_BSD is not None:
            self.memory_BSD = self.memory_BSD.index_select(0, rows_B)
        if self.seen_BS is not None:
            self.seen_BS = self.seen_BS.index_select(0, rows_B)
