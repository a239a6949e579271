"""The parts of a Transformer with a leading axis of K models: what a stack is made of.

Each part takes the place of the plain one in `model.py`, whose code runs as it is: sequences of all
models lie one after another ([K B, T, D]), and only what has weights tells the models apart. The
products and sums are those of the plain part, in its order, so that every model gets its numbers to
the bit. Gradients go straight to where the optimiser reads them; autograd does not collect them.

Shapes in names: K models, N rows of one model (sequences x positions), I inputs, O outputs, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaling.training import fused
from scaling.training.kernels import RmsNorm
from scaling.training.model import Transformer
from scaling.training.parts import add_norm, suits_native


class Weights:
    """One parameter of all K models, [K, ...], and its gradient.

    fresh: the next gradient is the first of its step and overwrites what is there.
    """

    def __init__(self, value: Tensor, grad: Tensor) -> None:
        self.value, self.grad, self.fresh = value, grad, True
        self.leaf = value.detach().requires_grad_()  # for parts whose gradient autograd collects

    def part(self, models: slice) -> Weights:
        """Return those of some of the models, in the same memory."""
        return Weights(self.value[models], self.grad[models])

    def give(self, gradient: Tensor) -> None:
        """Book a gradient [K, ...] of a micro-batch."""
        if self.fresh:
            self.grad.copy_(gradient)
        else:
            self.grad.add_(gradient)
        self.fresh = False

    def collect(self) -> None:
        """Book what autograd has brought to the leaf."""
        if self.leaf.grad is not None:
            self.give(self.leaf.grad)
            self.leaf.grad = None

    def give_product(self, a: Tensor, b: Tensor) -> None:
        """Book the gradient a b of a matrix, without a copy where none is needed."""
        if self.fresh and a.dtype == self.grad.dtype:
            torch.bmm(a, b, out=self.grad)
            self.fresh = False
        else:
            self.give(torch.bmm(a, b))


class StackedLinear(nn.Module):
    """K linear layers."""

    def __init__(self, weight: Weights, bias: Weights | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        out_KNO: Tensor = _Linear.apply(x, self.weight, self.bias)
        return out_KNO.view(*x.shape[:-1], out_KNO.shape[-1])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Weights, bias: Weights | None) -> Tensor:
        dtype = _product_dtype(x)
        K, _, I = weight.value.shape  # noqa: E741
        x_KNI, w_KOI = x.reshape(K, -1, I).to(dtype), weight.value.to(dtype)
        ctx.save_for_backward(x_KNI, w_KOI)
        ctx.weight, ctx.bias, ctx.shape, ctx.dtype = weight, bias, x.shape, x.dtype
        if bias is None:
            return torch.bmm(x_KNI, w_KOI.transpose(1, 2))
        return torch.baddbmm(bias.value.to(dtype).unsqueeze(1), x_KNI, w_KOI.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (g_KNO,) = grads
        x_KNI, w_KOI = ctx.saved_tensors
        ctx.weight.give_product(g_KNO.transpose(1, 2), x_KNI)
        if ctx.bias is not None:
            ctx.bias.give(g_KNO.sum(1))
        return torch.bmm(g_KNO, w_KOI).view(ctx.shape).to(ctx.dtype), None, None


class StackedRmsNorm(nn.Module):
    """K norms. Models lead all axes of x; with `heads_first` they come second, after the heads."""

    def __init__(self, weight: Weights, *, eps: float, heads_first: bool = False) -> None:
        super().__init__()
        self.weight, self.eps, self.heads_first = weight, eps, heads_first

    def forward(self, x: Tensor) -> Tensor:
        K, D = self.weight.value.shape
        if not self.heads_first:
            out: Tensor = _RmsNorm.apply(x, self.weight, self.eps, _product_dtype(x))
            return out
        H, T = x.shape[0], x.shape[2]
        x_KHBTD = x.view(H, K, -1, T, D).transpose(0, 1).contiguous()
        out = _RmsNorm.apply(x_KHBTD, self.weight, self.eps, _product_dtype(x))
        return out.transpose(0, 1).reshape(x.shape)

    def add_norm(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return x + delta and its norm by the compiled kernel."""
        return fused.add_norm(x, delta, self.weight.leaf, None, eps=self.eps, centred=False)


class _RmsNorm(torch.autograd.Function):
    """As `kernels.RmsNorm`, step by step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Weights, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        inverse = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = wide * inverse
        ctx.save_for_backward(unit, inverse)
        ctx.weight, ctx.dtype = weight, x.dtype
        out = torch.empty_like(unit, dtype=dtype)
        K, D = weight.value.shape
        torch.mul(unit.view(K, -1, D), weight.value.unsqueeze(1), out=out.view(K, -1, D))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (g,) = grads
        unit, inverse = ctx.saved_tensors
        K, D = ctx.weight.value.shape
        g = g.contiguous()
        by_weight = (g * unit).view(K, -1, D)
        along = torch.empty_like(inverse)
        # one product of a matrix and a vector per model: the batched one adds in another order
        for part, rows, weight in zip(along.view(K, -1), by_weight, ctx.weight.value, strict=True):
            torch.mv(rows, weight, out=part)
        along.div_(D)
        scaled = (g.view(K, -1, D) * ctx.weight.value.unsqueeze(1)).view(g.shape)
        dx = torch.addcmul(scaled, unit, along, value=-1).mul_(inverse)
        ctx.weight.give(by_weight.sum(1))
        return dx.to(ctx.dtype), None, None, None


class StackedLayerNorm(nn.Module):
    """K norms, torch's own on each model's rows."""

    def __init__(self, weight: Weights, bias: Weights | None, *, eps: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = weight, bias, eps

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _LayerNorm.apply(x, self.weight, self.bias, self.eps)
        return out

    def add_norm(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return x + delta and its norm by the compiled kernel."""
        bias = None if self.bias is None else self.bias.leaf
        return fused.add_norm(x, delta, self.weight.leaf, bias, eps=self.eps, centred=True)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Weights, bias: Weights | None, eps: float) -> Tensor:
        K, D = weight.value.shape
        biases = [None] * K if bias is None else bias.value
        parts = [
            torch.native_layer_norm(rows, (D,), w, b, eps)
            for rows, w, b in zip(x.view(K, -1, D), weight.value, biases, strict=True)
        ]
        ctx.save_for_backward(x, *(t for _, mean, rstd in parts for t in (mean, rstd)))
        ctx.weight, ctx.bias = weight, bias
        return torch.stack([out for out, _, _ in parts]).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        x, *saved = ctx.saved_tensors
        K, D = ctx.weight.value.shape
        mask = [True, True, ctx.bias is not None]
        parts = []
        for k, (g, rows) in enumerate(zip(grads[0].view(K, -1, D), x.view(K, -1, D), strict=True)):
            bias = None if ctx.bias is None else ctx.bias.value[k]
            parts.append(
                torch.ops.aten.native_layer_norm_backward(
                    g, rows, (D,), saved[2 * k], saved[2 * k + 1], ctx.weight.value[k], bias, mask
                )
            )
        ctx.weight.give(torch.stack([p[1] for p in parts]))
        if ctx.bias is not None:
            ctx.bias.give(torch.stack([p[2] for p in parts]))
        return torch.stack([p[0] for p in parts]).view(x.shape), None, None, None


class StackedTransformer(nn.Module):
    """K Transformers of one shape: token indices of all of them in, mean loss of each out.

    Args:
        plain: a model of the shape, which becomes the stack's frame; its own weights are dropped.
        weights: every parameter of all models, by its name in the plain model.
    """

    def __init__(self, plain: Transformer, weights: dict[str, Weights]) -> None:
        super().__init__()
        self.plain = plain
        self.table, self.position = weights["embedding.weight"], weights.get("position")
        self.K, self.weights = len(self.table.value), list(weights.values())
        self.tied_head: Weights | None = None
        if plain.shape.tied:  # its share is added to the table's before that is booked
            self.tied_head = Weights(self.table.value, torch.empty_like(self.table.value))
            weights = weights | {"head.weight": self.tied_head}
        for name, module in list(plain.named_modules()):
            part = _stack_part(name, module, weights, per_head=plain.shape.qk_norm == "head")
            if part is not None:
                owner, _, last = name.rpartition(".")
                setattr(plain.get_submodule(owner), last, part)

    def forward(self, tokens_KBT: Tensor, targets_KBT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean losses [K] in nats/token, then what `backward` starts and ends with."""
        plain, (K, B, T) = self.plain, tokens_KBT.shape
        V, D = self.table.value.shape[1:]
        model_K11 = torch.arange(K, device=tokens_KBT.device).view(K, 1, 1)
        rows_BT = (tokens_KBT + model_K11 * V).view(K * B, T)
        x_BTD = self.table.value[model_K11, tokens_KBT].view(K * B, T, D)
        if self.position is not None:
            x_BTD = (x_BTD.view(K, B, T, D) + self.position.value[:, None, :T]).view(K * B, T, D)
        elif plain.wave_TD is not None:
            x_BTD = x_BTD + plain.wave_TD[:T]
        start_BTD = x_BTD.requires_grad_()
        turn_TQ2 = None if plain.turn_TQ2 is None else plain.turn_TQ2[:T]
        for block in plain.blocks:
            x_BTD = block(x_BTD, turn_TQ2)
        native = plain.native and suits_native(x_BTD)
        h_BTD = add_norm(x_BTD, None, plain.norm)[1] if native else plain.norm(x_BTD)
        loss_K = self._loss(plain.head(h_BTD), targets_KBT, native=native)
        return loss_K, start_BTD, rows_BT

    def _loss(self, logits_BTV: Tensor, targets_KBT: Tensor, *, native: bool) -> Tensor:
        """Return the mean loss of each model."""
        V = logits_BTV.shape[-1]
        if native:
            loss_N = fused.cross_entropy(logits_BTV.view(-1, V), targets_KBT.reshape(-1))
            return loss_N.view(self.K, -1).mean(1)
        logits_KNV = logits_BTV.view(self.K, -1, V).float()
        pairs = zip(logits_KNV, targets_KBT.reshape(self.K, -1), strict=True)
        return torch.stack([F.cross_entropy(z, y) for z, y in pairs])

    def begin(self) -> None:
        """Let the next gradients overwrite those of the last step."""
        for weights in self.weights:
            weights.fresh = True

    def backward(self, loss: Tensor, start_BTD: Tensor, rows_BT: Tensor) -> None:
        """Book every gradient of a loss that is a sum over models."""
        loss.backward()
        for weights in self.weights:
            weights.collect()
        (K, V, D), T = self.table.value.shape, rows_BT.shape[1]
        g_BTD = start_BTD.grad
        assert g_BTD is not None
        if self.position is not None:
            g_KTD = g_BTD.view(K, -1, T, D).sum(1)
            self.position.give(F.pad(g_KTD, (0, 0, 0, self.position.value.shape[1] - T)))
        g_KVD = torch.ops.aten.embedding_dense_backward(g_BTD, rows_BT, K * V, -1, False)
        g_KVD = g_KVD.view(K, V, D)
        if self.tied_head is not None:
            g_KVD.add_(self.tied_head.grad)
            self.tied_head.fresh = True
        self.table.give(g_KVD)


def _stack_part(
    name: str, module: nn.Module, weights: dict[str, Weights], *, per_head: bool
) -> nn.Module | None:
    """Return what takes the place of a part that has weights; null for one that has none."""
    weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
    if weight is None or isinstance(module, nn.Embedding):
        return None
    if isinstance(module, nn.Linear):
        return StackedLinear(weight, bias)
    if isinstance(module, nn.LayerNorm):
        return StackedLayerNorm(weight, bias, eps=module.eps)
    assert isinstance(module, RmsNorm), f"{name}: no stacked form of {type(module).__name__}"
    heads_first = per_head and name.endswith(("q_norm", "k_norm"))
    return StackedRmsNorm(weight, eps=module.eps, heads_first=heads_first)


def _product_dtype(x: Tensor) -> torch.dtype:
    """The data type that products of x are taken in: autocast's, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
