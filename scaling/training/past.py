"""What a stack has read already: keys and values of every layer, so that a token is read once.

Rows of a batch end together: a shorter one has empty slots on its left, which nothing looks at, and
its positions count from its own first token.

Shapes in names: B rows, T new tokens, S slots in use, W slots there are, H query heads, G key-value
heads, R query heads per key-value head, Q head size, V vocabulary.
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
        k_GBSQ, v_GBSQ = self.keys_GBWQ[:, :, :last], self.values_GBWQ[:, :, :last]
        mask = self.past.mask_BTS
        if G < H:  # heads that share keys become rows of one product
            q_HBTQ = q_HBTQ.view(G, H // G, B, T, Q).transpose(1, 2).reshape(G, B, -1, Q)
            mask = None if mask is None else mask.repeat(1, H // G, 1)
        scores = torch.matmul(q_HBTQ * (Q**-0.5 if scale is None else scale), k_GBSQ.transpose(2, 3))  # fmt: skip
        if bias_HTS is not None:
            scores += bias_HTS.reshape(G, 1, -1, last).to(scores.dtype)
        if mask is not None:
            scores += mask
        y = torch.matmul(scores.softmax(-1), v_GBSQ)
        if G < H:
            y = y.view(G, B, H // G, T, Q).transpose(1, 2).reshape(H, B, T, Q)
        return y.permute(1, 2, 0, 3).reshape(B, T, H * Q)


class Past:
    """What a decoder has read of a batch.

    Args:
        model: a decoder, or an encoder-decoder.
        rows: of the batch. room: most tokens it will hold.
        memory_BSD: what the encoder made of the source; null for a decoder.
    """

    def __init__(
        self, model: Transformer, rows: int, *, room: int, memory_BSD: Tensor | None = None
    ) -> None:
        s, weight = model.shape, model.embedding.weight
        self.used, self.memory_BSD = 0, memory_BSD
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
        given = () if self.memory_BSD is None else (self.memory_BSD,)
        for block, layer in zip(model.blocks, self.layers, strict=True):
            x_BTD = block(x_BTD, turn, *given, bias_HTT=bias_HTS, past=layer)
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
