"""Encoders and encoder-decoders, from the parts of the decoder.

A batch is two arrays of whole numbers of one shape for every kind of model, inputs and targets;
`objectives.py` lays them out. A target of IGNORE is not predicted.

Shapes in names: B sequences, T positions, S positions of the encoder, U of the decoder, K predicted
positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaling.study.objective import IGNORE
from scaling.study.shape import ModelShape
from scaling.training.model import Transformer
from scaling.training.parts import (
    Block,
    CrossBlock,
    build_norm,
    distance_bias,
    distance_table,
)


class Encoder(Transformer):
    """Tokens in, every position seeing all others that are no padding; losses of the chosen positions out.

    With `shape.pairs` the halves of a sequence, told apart by a table, are also judged to follow each
    other or not, from the first position (Devlin et al. 2019, arXiv:1810.04805).
    """

    causal = False

    def __init__(
        self, shape: ModelShape, *, attention: str = "sdpa", recompute: bool = False
    ) -> None:
        super().__init__(shape, attention=attention, recompute=recompute)
        if shape.pairs:
            self.pool = nn.Linear(shape.width, shape.width)
            self.pair = nn.Linear(shape.width, 2)

    def forward(
        self, tokens_BT: Tensor, targets_BT: Tensor | None = None, *, reduction: str = "mean"
    ) -> Tensor:
        """Return logits [B, T, V]; with targets, the cross-entropy of those that are not IGNORE.

        Args:
            tokens_BT: token indices, some of them hidden.
            targets_BT: the hidden tokens, at most `shape.outputs` a sequence, IGNORE elsewhere; with
                pairs, position 0 says whether the second half follows (1) or not (0).
            reduction: `mean` gives one number, with pairs the sum of both losses; `none` one per token
                [B, T], 0 where nothing is predicted, without the judgement of pairs.
        """
        h_BTD = self.read(tokens_BT)
        if targets_BT is None:
            return self.predict(h_BTD)
        words_BT = targets_BT
        if self.shape.pairs:
            words_BT = torch.cat([torch.full_like(targets_BT[:, :1], IGNORE), targets_BT[:, 1:]], 1)
        loss = score_chosen(
            self.predict, h_BTD, words_BT, most=self.shape.predicted, reduction=reduction
        )
        if reduction == "none":
            return loss
        if self.shape.pairs:
            loss = loss + F.cross_entropy(self.judge(h_BTD).float(), targets_BT[:, 0])
        return loss

    def read(self, tokens_BT: Tensor) -> Tensor:
        """Return what is known of each position after the last norm [B, T, D]."""
        x_BTD, turn_TQ2 = self.embed(tokens_BT)
        given = {
            "bias_HTT": self.bias(tokens_BT.shape[1]),
            "seen_BT": find_text(tokens_BT, self.shape),
        }
        for block in self.blocks:
            x_BTD = block(x_BTD, turn_TQ2, **given)
        h_BTD: Tensor = self.norm(x_BTD)
        return h_BTD

    def judge(self, h_BTD: Tensor) -> Tensor:
        """Return logits [B, 2]: the second half does not follow the first, it does."""
        judged: Tensor = self.pair(torch.tanh(self.pool(h_BTD[:, 0])))
        return judged


class EncoderDecoder(Transformer):
    """What an encoder reads, a decoder writes; losses of what it should write.

    Inputs are the encoder's S positions and behind them the decoder's.

    Source: Raffel et al. 2020, arXiv:1910.10683; the parts are those of the other kinds.
    """

    def __init__(
        self, shape: ModelShape, *, attention: str = "sdpa", recompute: bool = False
    ) -> None:
        super().__init__(shape, attention=attention, recompute=recompute)
        self.encoder = nn.ModuleList(
            Block(shape, attention, recompute, causal=False) for _ in range(shape.encoder_layers)
        )
        self.encoder_norm = build_norm(shape) if shape.norm_at == "pre" else nn.Identity()
        self.encoder_relative = distance_table(shape)

    def build_blocks(self, attention: str, recompute: bool) -> nn.ModuleList:
        """Return the decoder's layers."""
        return nn.ModuleList(
            CrossBlock(self.shape, attention, recompute) for _ in range(self.shape.layers)
        )

    def forward(
        self, tokens_BT: Tensor, targets_BT: Tensor | None = None, *, reduction: str = "mean"
    ) -> Tensor:
        """Return logits [B, U, V]; with targets, the cross-entropy of those that are not IGNORE.

        Args:
            tokens_BT: `shape.source` tokens to read, then U tokens that were written so far.
            targets_BT: IGNORE for each token to read, then the token that follows each written one.
            reduction: `mean` gives one number, `none` one per token [B, T], 0 for those to read.
        """
        read_BS, written_BU = tokens_BT.split(
            [self.shape.source, tokens_BT.shape[1] - self.shape.source], dim=1
        )
        logits_BUV = self.write(written_BU, self.read(read_BS), find_text(read_BS, self.shape))
        if targets_BT is None:
            return logits_BUV
        targets_BU = targets_BT[:, self.shape.source :]
        loss_BU = cross_entropy(logits_BUV, targets_BU)
        if reduction == "none":
            return F.pad(loss_BU, (self.shape.source, 0))
        return loss_BU.sum() / (targets_BU != IGNORE).sum()

    def read(self, tokens_BS: Tensor) -> Tensor:
        """Return what the encoder makes of a source [B, S, D]."""
        x_BSD, turn_TQ2 = self.embed(tokens_BS)
        table, bias_HSS = self.encoder_relative, None
        if table is not None:
            bias_HSS = distance_bias(table, tokens_BS.shape[1], causal=False)
        given = {"bias_HTT": bias_HSS, "seen_BT": find_text(tokens_BS, self.shape)}
        for block in self.encoder:
            x_BSD = block(x_BSD, turn_TQ2, **given)
        memory_BSD: Tensor = self.encoder_norm(x_BSD)
        return memory_BSD

    def write(self, tokens_BU: Tensor, memory_BSD: Tensor, seen_BS: Tensor | None = None) -> Tensor:
        """Return logits [B, U, V] of the token after each written one; `seen_BS` as of `find_text`."""
        x_BUD, turn_TQ2 = self.embed(tokens_BU)
        given = {"bias_HTT": self.bias(tokens_BU.shape[1]), "seen_BS": seen_BS}
        for block in self.blocks:
            x_BUD = block(x_BUD, turn_TQ2, memory_BSD, **given)
        return self.predict(self.norm(x_BUD))


class Classifier(Encoder):
    """Tokens in, the label of the text out, told from the first position.

    Source: Devlin et al. 2019, arXiv:1810.04805, section 4.1, with the dense layer and tanh of its
    next-sentence judgement.
    """

    def __init__(
        self, shape: ModelShape, *, attention: str = "sdpa", recompute: bool = False
    ) -> None:
        super().__init__(shape, attention=attention, recompute=recompute)
        del self.head, self.transform  # no token is predicted
        self.pool = nn.Linear(shape.width, shape.width)
        self.label = nn.Linear(shape.width, shape.classes)

    def forward(
        self, tokens_BT: Tensor, targets_BT: Tensor | None = None, *, reduction: str = "mean"
    ) -> Tensor:
        """Return logits [B, classes]; with targets, the cross-entropy of labels in nats.

        Args:
            tokens_BT: token indices, filled up by the last one of the vocabulary.
            targets_BT: the label at position 0, IGNORE elsewhere.
            reduction: `mean` gives one number, `none` one per position [B, T], 0 but for the first.
        """
        pooled_BD = torch.tanh(self.pool(self.read(tokens_BT)[:, 0]))
        logits_BC: Tensor = self.label(pooled_BD)
        if targets_BT is None:
            return logits_BC
        loss = F.cross_entropy(logits_BC.float(), targets_BT[:, 0], reduction=reduction)
        return loss if reduction == "mean" else F.pad(loss[:, None], (0, tokens_BT.shape[1] - 1))


class Answerer(Transformer):
    """A decoder that reads a text and writes what belongs to it; losses of what it should write."""

    def forward(
        self, tokens_BT: Tensor, targets_BT: Tensor | None = None, *, reduction: str = "mean"
    ) -> Tensor:
        """Return logits [B, T, V]; with targets, the cross-entropy of those that are not IGNORE.

        Args:
            tokens_BT: token indices: the text, then what was written so far.
            targets_BT: the token that follows each, at most `shape.outputs` a sequence, else IGNORE.
            reduction: `mean` gives one number, `none` one per token [B, T], 0 where nothing is predicted.
        """
        if targets_BT is None:
            return super().forward(tokens_BT)
        h_BTD = self.trace(tokens_BT)
        return score_chosen(
            self.predict, h_BTD, targets_BT, most=self.shape.predicted, reduction=reduction
        )


def find_text(tokens_BT: Tensor, shape: ModelShape) -> Tensor | None:
    """Return which positions are no padding; null where a shape has none."""
    return tokens_BT != shape.vocab - 1 if shape.padded else None


def score_chosen(
    head: Callable[[Tensor], Tensor],
    h_BTD: Tensor,
    targets_BT: Tensor,
    *,
    most: int,
    reduction: str,
) -> Tensor:
    """Return the losses of positions with a target, which are all that the head sees.

    Args:
        head: logits from what is known of a position.
        h_BTD: what is known of each position.
        targets_BT: tokens, IGNORE where nothing is predicted.
        most: positions with a target that a sequence may have; the head sees so many.
        reduction: `mean` gives one number, `none` one per token [B, T], 0 where nothing is predicted.
    """
    chosen_BT = (targets_BT != IGNORE).to(torch.uint8)
    at_BK = chosen_BT.argsort(dim=1, descending=True, stable=True)[:, :most]
    h_BKD = h_BTD.gather(1, at_BK.unsqueeze(-1).expand(-1, -1, h_BTD.shape[-1]))
    picked_BK = targets_BT.gather(1, at_BK)
    loss_BK = cross_entropy(head(h_BKD), picked_BK)
    if reduction == "none":
        return torch.zeros_like(loss_BK[:, :1]).repeat(1, targets_BT.shape[1]).scatter(1, at_BK, loss_BK)  # fmt: skip
    return loss_BK.sum() / (picked_BK != IGNORE).sum()


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Return losses [B, T] in nats, float32; 0 where the target is IGNORE."""
    loss_N = F.cross_entropy(
        logits_BTV.flatten(0, 1).float(),
        targets_BT.flatten(),
        ignore_index=IGNORE,
        reduction="none",
    )
    return loss_N.view_as(targets_BT)
