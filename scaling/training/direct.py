"""Forward and backward pass of a Transformer written out: autograd's numbers without its cost.

On one CPU core a small model spends more time between operations than in them: recording a graph,
casting weights anew in every pass, collecting gradients. Here every operation of `model.py`'s
compiled path is called once, in its order, and writes gradients to where the optimiser reads them.
What autograd would give, this gives to the bit (`tests/test_direct.py`).

Shapes in names: B sequences, T positions, N = B T tokens, D width, I inputs, O outputs, E channels
of the joint projection, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scaling.study.shape import ModelShape, has_common_parts
from scaling.training import native
from scaling.training.direct_parts import KeptNorm, Norm, book_gradient, build_linear

if TYPE_CHECKING:
    from scaling.training.model import Transformer
    from scaling.training.parts import Block

_KINDS = {"gelu": 0, "swiglu": 1}  # of native.cpp's activations


def suits_direct(model: Transformer) -> bool:
    """Return whether a model has only parts that are written out here."""
    shape = model.shape
    return (
        model.native
        and not model.adapted
        and shape.kind == "decoder"
        and shape.qk_norm == "none"
        and shape.activation in _KINDS
        and has_common_parts(shape)
        and next(model.parameters()).dtype == torch.float32
        and next(model.parameters()).is_cpu
    )


class Direct:
    """Loss and gradients of one model, or of K models at once.

    Args:
        model: a Transformer that `suits_direct`; its parameters must stay where they are. Those of K
            models have a leading axis [K, ...].
        dtype: of the products: float32, or bfloat16 as under autocast.
    """

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        self.shape, self.dtype = model.shape, dtype
        self.table, self.position = model.embedding.weight, model.position
        self.wave_TD, self.turn_TQ2 = model.wave_TD, model.turn_TQ2
        blocks: list[Block] = list(model.blocks)  # type: ignore[arg-type]
        self.blocks = [_Block(block, model.shape, dtype) for block in blocks]
        self.models = len(self.table) if self.table.dim() == 3 else 0  # 0: one, without the axis
        self.norm, self.head = Norm(model.norm, dtype), build_linear(model.head, dtype)
        linears = [self.head, *(m for b in self.blocks for m in b.linears)]
        self.casts = [pair for linear in linears for pair in linear.casts()]
        self.fresh = True  # the next gradients are the first of a step

    @torch.no_grad()
    def begin(self) -> None:
        """Take over the weights as they are now; the next gradients overwrite the last."""
        if self.casts:
            narrow, wide = zip(*self.casts, strict=True)
            torch._foreach_copy_(list(narrow), list(wide))
        self.fresh = True

    @torch.no_grad()
    def learn(self, tokens_BT: Tensor, targets_BT: Tensor, share: float) -> Tensor:
        """Add the gradients of a micro-batch to those of the step, and return share x its loss.

        Args:
            tokens_BT, targets_BT: int64; of K models [K, B, T], and the losses are [K].
            share: of the step's sequences that these are.
        """
        # 1. forward
        targets_BT, tokens_BT = targets_BT.contiguous(), self._rows(tokens_BT)
        x_ND = self._embed(tokens_BT)
        delta_ND, saved = None, []
        for block in self.blocks:
            x_ND, delta_ND, kept = block.forward(x_ND, delta_ND, tokens_BT.shape, self.turn_TQ2)
            saved.append(kept)
        _, h_ND, kept_norm = self.norm.forward(x_ND, delta_ND)
        logits_NV = self.head.forward(h_ND)
        loss_N, lse_N = _loss(logits_NV, targets_BT)
        # 2. backward; logits give their place to their gradients
        grad_N = torch.full_like(loss_N, share).div_(loss_N.numel() // max(1, self.models))
        native.call(
            "loss_backward", self.dtype, logits_NV, targets_BT, lse_N, grad_N, logits_NV, logits_NV.shape[1],
            count=len(loss_N),
        )  # fmt: skip
        dhead_VD = None
        if self.head.weight is self.table:  # its share is added to the table's
            dhead_VD = self.head.product(logits_NV, h_ND).float()
        else:
            self.head.book(logits_NV, h_ND, fresh=self.fresh)
        dh_ND = self.head.pull(logits_NV)
        dx_ND, ddelta_ND = self.norm.backward(dh_ND, None, kept_norm, fresh=self.fresh)
        for block in reversed(self.blocks):
            dx_ND, ddelta_ND = block.backward(
                dx_ND, ddelta_ND, saved.pop(), self.turn_TQ2, fresh=self.fresh
            )
        self._book_tables(dx_ND, tokens_BT, dhead_VD)
        self.fresh = False
        mean = loss_N.view(self.models, -1).mean(1) if self.models else loss_N.mean()
        return mean * share

    @torch.no_grad()
    def score(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the loss of each token [B, T] in nats, float32."""
        targets_BT = targets_BT.contiguous()
        x_ND = self._embed(tokens_BT)
        delta_ND = None
        for block in self.blocks:
            x_ND, delta_ND, _ = block.forward(x_ND, delta_ND, tokens_BT.shape, self.turn_TQ2)
        _, h_ND, _ = self.norm.forward(x_ND, delta_ND)
        return _loss(self.head.forward(h_ND), targets_BT)[0].view_as(targets_BT)

    def _rows(self, tokens_BT: Tensor) -> Tensor:
        """Return sequences as rows of the table; K models' [K, B, T] as [K B, T] of all tables."""
        if not self.models:
            return tokens_BT
        first_K11 = torch.arange(0, self.models * self.shape.vocab, self.shape.vocab).view(-1, 1, 1)
        return (tokens_BT + first_K11).flatten(0, 1)

    def _embed(self, tokens_BT: Tensor) -> Tensor:
        T = tokens_BT.shape[1]
        # no copy, unless the tables of K models have a gap between them
        x_BTD = nn.functional.embedding(tokens_BT, self.table.reshape(-1, self.table.shape[-1]))
        if self.position is not None and self.models:
            x_KBTD = x_BTD.view(self.models, -1, *x_BTD.shape[1:]) + self.position[:, None, :T]
            x_BTD = x_KBTD.flatten(0, 1)
        elif self.position is not None:
            x_BTD = x_BTD + self.position[:T]
        elif self.wave_TD is not None:
            x_BTD = x_BTD + self.wave_TD[:T]
        return x_BTD.view(-1, x_BTD.shape[-1])

    def _book_tables(self, dx_ND: Tensor, tokens_BT: Tensor, dhead_VD: Tensor | None) -> None:
        T, (V, D), K = tokens_BT.shape[1], self.table.shape[-2:], max(1, self.models)
        if self.position is not None:
            dposition_KTD = dx_ND.view(K, -1, T, D).sum(1)
            if (longest := self.position.shape[-2]) > T:
                dposition_KTD = nn.functional.pad(dposition_KTD, (0, 0, 0, longest - T))
            book_gradient(self.position, dposition_KTD.view_as(self.position), fresh=self.fresh)
        dtable_VD = torch.ops.aten.embedding_dense_backward(
            dx_ND, tokens_BT.reshape(-1), K * V, -1, False
        ).view_as(self.table)
        if dhead_VD is not None:
            dtable_VD.add_(dhead_VD)
        book_gradient(self.table, dtable_VD, fresh=self.fresh)


@dataclass(frozen=True)
class _KeptBlock:
    """What a block's backward pass needs, in the order in which it was made."""

    norm1: KeptNorm
    h1_ND: Tensor
    qkv_BTE: Tensor
    heads_ND: Tensor
    lse_BHT: Tensor
    norm2: KeptNorm
    h2_ND: Tensor
    gate_NF: Tensor
    up_NF: Tensor | None
    act_NF: Tensor


class _Block:
    """One layer. The addition after its feed-forward is left to the norm that follows."""

    def __init__(self, block: Block, shape: ModelShape, dtype: torch.dtype) -> None:
        self.s, self.dtype, self.kind = shape, dtype, _KINDS[shape.activation]
        self.norm1, self.norm2 = Norm(block.attention_norm, dtype), Norm(block.ffn_norm, dtype)
        attention, ffn = block.attention, block.ffn
        self.qkv, self.out = build_linear(attention.qkv, dtype), build_linear(attention.out, dtype)
        self.up, self.down = build_linear(ffn.up, dtype), build_linear(ffn.down, dtype)
        self.gate = None if ffn.gate is None else build_linear(ffn.gate, dtype)
        self.scale = shape.score_scale or 1 / math.sqrt(shape.head_size)
        parts = (self.qkv, self.out, self.up, self.down, self.gate)
        self.linears = [part for part in parts if part is not None]

    def forward(
        self, x_ND: Tensor, delta_ND: Tensor | None, sizes: torch.Size, turn_TQ2: Tensor | None
    ) -> tuple[Tensor, Tensor, _KeptBlock]:
        """Return the stream after attention, what feed-forward adds to it, and what is kept."""
        (B, T), s, new = sizes, self.s, x_ND.new_empty
        x_ND, h1_ND, norm1 = self.norm1.forward(x_ND, delta_ND)
        qkv_NE = self.qkv.forward(h1_ND)
        heads_ND = new(B * T, s.heads * s.head_size, dtype=self.dtype)
        lse_BHT = new(B, s.heads, T)
        native.call(
            "attention_forward", self.dtype, qkv_NE, heads_ND, lse_BHT, turn_TQ2, self.scale, T, s.heads,
            s.kv_heads, s.head_size, count=B * s.kv_heads,
        )  # fmt: skip
        x_ND, h2_ND, norm2 = self.norm2.forward(x_ND, self.out.forward(heads_ND))
        gate_NF: Tensor = self.up.forward(h2_ND)
        up_NF: Tensor | None = None
        if self.gate is not None:
            gate_NF, up_NF = self.gate.forward(h2_ND), gate_NF
        act_NF = torch.empty_like(gate_NF)
        native.call(
            "act_forward", self.dtype, gate_NF, up_NF, act_NF, self.kind, count=act_NF.numel()
        )
        qkv_BTE = qkv_NE.view(B, T, -1)
        kept = _KeptBlock(
            norm1, h1_ND, qkv_BTE, heads_ND, lse_BHT, norm2, h2_ND, gate_NF, up_NF, act_NF
        )
        return x_ND, self.down.forward(act_NF), kept

    def backward(
        self, dx_ND: Tensor, ddown_ND: Tensor | None, kept: _KeptBlock, turn_TQ2: Tensor | None, *, fresh: bool
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Book all gradients; return those of the block's two inputs."""
        assert ddown_ND is not None  # a norm follows, and it was given what feed-forward adds
        s, (B, T, _) = self.s, kept.qkv_BTE.shape
        # 1. feed-forward; gradients take the place of what they belong to
        dact_NF = self.down.backward(ddown_ND, kept.act_NF, fresh=fresh)
        gate_NF, up_NF = kept.gate_NF, kept.up_NF
        native.call(
            "act_backward", self.dtype, gate_NF, up_NF, dact_NF, gate_NF, up_NF, self.kind, count=dact_NF.numel()
        )  # fmt: skip
        if self.gate is None or up_NF is None:
            dh_ND = self.up.backward(gate_NF, kept.h2_ND, fresh=fresh)
        else:
            dh_ND = self.gate.backward(gate_NF, kept.h2_ND, fresh=fresh)
            dh_ND.add_(self.up.backward(up_NF, kept.h2_ND, fresh=fresh))
        dx_ND, dout_ND = self.norm2.backward(dh_ND, dx_ND, kept.norm2, fresh=fresh)
        # 2. attention
        assert dout_ND is not None
        dheads_ND = self.out.backward(dout_ND, kept.heads_ND, fresh=fresh)
        dqkv_BTE = torch.empty_like(kept.qkv_BTE)
        native.call(
            "attention_backward", self.dtype, kept.qkv_BTE, kept.heads_ND, kept.lse_BHT, dheads_ND, dqkv_BTE,
            turn_TQ2, self.scale, T, s.heads, s.kv_heads, s.head_size, count=B * s.kv_heads,
        )  # fmt: skip
        dh_ND = self.qkv.backward(dqkv_BTE.view(B * T, -1), kept.h1_ND, fresh=fresh)
        return self.norm1.backward(dh_ND, dx_ND, kept.norm1, fresh=fresh)


def _loss(logits_NV: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    N, V = logits_NV.shape
    loss_N, lse_N = torch.empty(2, N).unbind()
    native.call("loss_forward", logits_NV.dtype, logits_NV, targets_BT, loss_N, lse_N, V, count=N)
    return loss_N, lse_N
