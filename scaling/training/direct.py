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

from scaling.study.shape import ModelShape
from scaling.training import native
from scaling.training.kernels import RmsNorm

if TYPE_CHECKING:
    from scaling.training.model import Block, Transformer

_KINDS = {"gelu": 0, "swiglu": 1}  # of native.cpp's activations


def suits_direct(model: Transformer) -> bool:
    """Return whether a model has only parts that are written out here."""
    shape = model.shape
    return (
        model.native
        and shape.qk_norm == "none"
        and shape.activation in _KINDS
        and next(model.parameters()).dtype == torch.float32
        and next(model.parameters()).is_cpu
    )


class Direct:
    """Loss and gradients of one model.

    Args:
        model: a Transformer that `suits_direct`; its parameters must stay where they are.
        dtype: of the products: float32, or bfloat16 as under autocast.
    """

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        self.shape, self.dtype = model.shape, dtype
        self.table, self.position = model.embedding.weight, model.position
        self.wave_TD, self.turn_TQ2 = model.wave_TD, model.turn_TQ2
        blocks: list[Block] = list(model.blocks)  # type: ignore[arg-type]
        self.blocks = [_Block(block, model.shape, dtype) for block in blocks]
        self.norm, self.head = _Norm(model.norm, dtype), _Linear(model.head, dtype)
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
            tokens_BT, targets_BT: int64.
            share: of the step's sequences that these are.
        """
        # 1. forward
        targets_BT = targets_BT.contiguous()
        x_ND = self._embed(tokens_BT)
        delta_ND, saved = None, []
        for block in self.blocks:
            x_ND, delta_ND, kept = block.forward(x_ND, delta_ND, tokens_BT.shape, self.turn_TQ2)
            saved.append(kept)
        _, h_ND, kept_norm = self.norm.forward(x_ND, delta_ND)
        logits_NV = self.head.forward(h_ND)
        loss_N, lse_N = _loss(logits_NV, targets_BT)
        # 2. backward; logits give their place to their gradients
        grad_N = torch.full_like(loss_N, share).div_(loss_N.numel())
        native.call(
            "loss_backward", self.dtype, logits_NV, targets_BT, lse_N, grad_N, logits_NV, logits_NV.shape[1],
            count=len(loss_N),
        )  # fmt: skip
        dhead_VD = None
        if self.head.weight is self.table:  # its share is added to the table's
            dhead_VD = torch.mm(logits_NV.t(), h_ND).float()
        else:
            self.head.book(logits_NV, h_ND, fresh=self.fresh)
        dh_ND = torch.mm(logits_NV, self.head.w_OI)
        dx_ND, ddelta_ND = self.norm.backward(dh_ND, None, kept_norm, fresh=self.fresh)
        for block in reversed(self.blocks):
            dx_ND, ddelta_ND = block.backward(
                dx_ND, ddelta_ND, saved.pop(), self.turn_TQ2, fresh=self.fresh
            )
        self._book_tables(dx_ND, tokens_BT, dhead_VD)
        self.fresh = False
        return loss_N.mean() * share

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

    def _embed(self, tokens_BT: Tensor) -> Tensor:
        T = tokens_BT.shape[1]
        x_BTD = torch.nn.functional.embedding(tokens_BT, self.table)
        if self.position is not None:
            x_BTD = x_BTD + self.position[:T]
        elif self.wave_TD is not None:
            x_BTD = x_BTD + self.wave_TD[:T]
        return x_BTD.view(-1, x_BTD.shape[-1])

    def _book_tables(self, dx_ND: Tensor, tokens_BT: Tensor, dhead_VD: Tensor | None) -> None:
        T, (V, D) = tokens_BT.shape[1], self.table.shape
        if self.position is not None:
            dposition_TD = dx_ND.view(-1, T, D).sum(0)
            if len(self.position) > T:
                dposition_TD = nn.functional.pad(dposition_TD, (0, 0, 0, len(self.position) - T))
            _book(self.position, dposition_TD, fresh=self.fresh)
        dtable_VD = torch.ops.aten.embedding_dense_backward(
            dx_ND, tokens_BT.reshape(-1), V, -1, False
        )
        if dhead_VD is not None:
            dtable_VD.add_(dhead_VD)
        _book(self.table, dtable_VD, fresh=self.fresh)


class _Linear:
    """A matrix and its bias, in the precision of products."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        self.weight, self.bias = linear.weight, linear.bias
        self.w_OI = self.weight.detach().to(dtype)  # the parameter itself where dtype is its own
        self.w_IO = self.w_OI.t()
        self.b_O = None if self.bias is None else self.bias.detach().to(dtype)

    def casts(self) -> list[tuple[Tensor, Tensor]]:
        """Return the copies to renew and what they are copies of."""
        pairs = [(self.w_OI, self.weight), (self.b_O, self.bias)]
        return [(a, b) for a, b in pairs if a is not None and a.dtype != b.dtype]

    def forward(self, x_NI: Tensor) -> Tensor:
        if self.b_O is None:
            return torch.mm(x_NI, self.w_IO)
        return torch.addmm(self.b_O, x_NI, self.w_IO)

    def backward(self, g_NO: Tensor, x_NI: Tensor, *, fresh: bool) -> Tensor:
        """Book the gradients and return that of the inputs."""
        self.book(g_NO, x_NI, fresh=fresh)
        return torch.mm(g_NO, self.w_OI)

    def book(self, g_NO: Tensor, x_NI: Tensor, *, fresh: bool) -> None:
        """Book the gradients of weight and bias."""
        if self.bias is not None:
            _book(self.bias, g_NO.sum(0), fresh=fresh)
        if fresh and self.weight.grad is not None and g_NO.dtype == self.weight.dtype:
            torch.mm(g_NO.t(), x_NI, out=self.weight.grad)
        else:
            _book(self.weight, torch.mm(g_NO.t(), x_NI), fresh=fresh)


@dataclass(frozen=True)
class _KeptNorm:
    """What a norm's backward pass needs."""

    total_ND: Tensor
    mean_N: Tensor
    inverse_N: Tensor
    added: bool


class _Norm:
    """A norm that takes in the residual addition before it."""

    def __init__(self, norm: nn.Module, dtype: torch.dtype) -> None:
        assert isinstance(norm, RmsNorm | nn.LayerNorm)
        self.weight, self.eps, self.dtype = norm.weight, norm.eps, dtype
        self.bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
        self.centred = int(isinstance(norm, nn.LayerNorm))

    def forward(self, x_ND: Tensor, delta_ND: Tensor | None) -> tuple[Tensor, Tensor, _KeptNorm]:
        """Return x + delta, its norm, and what `backward` needs."""
        N, D = x_ND.shape
        total_ND = x_ND if delta_ND is None else torch.empty_like(x_ND)
        y_ND = torch.empty(N, D, dtype=self.dtype)
        mean_N, inverse_N = torch.empty(2, N).unbind()
        native.call(
            "norm_forward", self.dtype, x_ND, delta_ND, 1.0, self.weight, self.bias, self.eps, self.centred,
            total_ND, y_ND, mean_N, inverse_N, D, count=N,
        )  # fmt: skip
        return total_ND, y_ND, _KeptNorm(total_ND, mean_N, inverse_N, delta_ND is not None)

    def backward(
        self, dy_ND: Tensor, dtotal_ND: Tensor | None, kept: _KeptNorm, *, fresh: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Book the gains' gradients; return those of x, and of delta if there was one."""
        N, D = dy_ND.shape
        dx_ND = torch.empty_like(kept.total_ND)
        ddelta_ND = torch.empty(N, D, dtype=self.dtype) if kept.added else None
        dgains_P2D = torch.zeros(native.parts(N), 2, D)
        native.call(
            "norm_backward", self.dtype, dy_ND, dtotal_ND, kept.total_ND, self.weight, kept.mean_N, kept.inverse_N,
            1.0, self.centred, int(self.bias is not None), dx_ND, ddelta_ND, native.Each(dgains_P2D), D, count=N,
        )  # fmt: skip
        dweight_D, dbias_D = dgains_P2D.sum(0).unbind()
        _book(self.weight, dweight_D, fresh=fresh)
        if self.bias is not None:
            _book(self.bias, dbias_D, fresh=fresh)
        return dx_ND, ddelta_ND


@dataclass(frozen=True)
class _KeptBlock:
    """What a block's backward pass needs, in the order in which it was made."""

    norm1: _KeptNorm
    h1_ND: Tensor
    qkv_BTE: Tensor
    heads_ND: Tensor
    lse_BHT: Tensor
    norm2: _KeptNorm
    h2_ND: Tensor
    gate_NF: Tensor
    up_NF: Tensor | None
    act_NF: Tensor


class _Block:
    """One layer. The addition after its feed-forward is left to the norm that follows."""

    def __init__(self, block: Block, shape: ModelShape, dtype: torch.dtype) -> None:
        self.s, self.dtype, self.kind = shape, dtype, _KINDS[shape.activation]
        self.norm1, self.norm2 = _Norm(block.attention_norm, dtype), _Norm(block.ffn_norm, dtype)
        attention, ffn = block.attention, block.ffn
        self.qkv, self.out = _Linear(attention.qkv, dtype), _Linear(attention.out, dtype)
        self.up, self.down = _Linear(ffn.up, dtype), _Linear(ffn.down, dtype)
        self.gate = None if ffn.gate is None else _Linear(ffn.gate, dtype)
        self.scale = shape.attention_scale or 1 / math.sqrt(shape.head_size)
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


def _book(parameter: Tensor, gradient: Tensor, *, fresh: bool) -> None:
    """Overwrite a parameter's gradient, or add to it."""
    if parameter.grad is None:
        parameter.grad = gradient.to(parameter.dtype, copy=True)
    elif fresh:
        parameter.grad.copy_(gradient)
    else:
        parameter.grad.add_(gradient)
