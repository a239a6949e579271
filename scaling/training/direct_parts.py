"""The parts of a model that have weights, as `direct.py` calls them: of one model or of K at once.

Weights of K models have a leading axis [K, ...], and the rows of the models follow one another.

Shapes in names: N rows (tokens) of all models, K models, I inputs, O outputs, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scaling.training import native
from scaling.training.kernels import RmsNorm


def build_linear(linear: nn.Linear, dtype: torch.dtype) -> Linear:
    """Return the matrix of a layer, or those of K models."""
    return (Linear if linear.weight.dim() == 2 else StackedLinear)(linear, dtype)


class Linear:
    """A matrix and its bias, in the precision of products."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        self.weight, self.bias = linear.weight, linear.bias
        self.w_OI = self.weight.detach().to(dtype)  # the parameter itself where dtype is its own
        self.w_IO = self.w_OI.transpose(-2, -1)
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
        return self.pull(g_NO)

    def pull(self, g_NO: Tensor) -> Tensor:
        """Return the gradient of the inputs."""
        return torch.mm(g_NO, self.w_OI)

    def product(self, g_NO: Tensor, x_NI: Tensor) -> Tensor:
        """Return the gradient of the weight, booked by nobody yet."""
        return torch.mm(g_NO.t(), x_NI)

    def book(self, g_NO: Tensor, x_NI: Tensor, *, fresh: bool) -> None:
        """Book the gradients of weight and bias."""
        if self.bias is not None:
            book_gradient(self.bias, g_NO.sum(0), fresh=fresh)
        if fresh and self.weight.grad is not None and g_NO.dtype == self.weight.dtype:
            torch.mm(g_NO.t(), x_NI, out=self.weight.grad)
        else:
            book_gradient(self.weight, self.product(g_NO, x_NI), fresh=fresh)


class StackedLinear(Linear):
    """K matrices and their biases: a batched product takes each slice as a single one would."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(linear, dtype)
        self.b_K1O = None if self.b_O is None else self.b_O.unsqueeze(1)

    def forward(self, x_NI: Tensor) -> Tensor:
        x_KNI = self._by_model(x_NI)
        if self.b_K1O is None:
            return torch.bmm(x_KNI, self.w_IO).flatten(0, 1)
        return torch.baddbmm(self.b_K1O, x_KNI, self.w_IO).flatten(0, 1)

    def pull(self, g_NO: Tensor) -> Tensor:
        """Return the gradient of the inputs."""
        return torch.bmm(self._by_model(g_NO), self.w_OI).flatten(0, 1)

    def product(self, g_NO: Tensor, x_NI: Tensor) -> Tensor:
        """Return the gradient of the weights, booked by nobody yet."""
        return torch.bmm(self._by_model(g_NO).transpose(1, 2), self._by_model(x_NI))

    def book(self, g_NO: Tensor, x_NI: Tensor, *, fresh: bool) -> None:
        """Book the gradients of weights and biases."""
        g_KNO = self._by_model(g_NO)
        if self.bias is not None:
            book_gradient(self.bias, g_KNO.sum(1), fresh=fresh)
        if fresh and self.weight.grad is not None and g_NO.dtype == self.weight.dtype:
            torch.bmm(g_KNO.transpose(1, 2), self._by_model(x_NI), out=self.weight.grad)
        else:
            book_gradient(self.weight, self.product(g_NO, x_NI), fresh=fresh)

    def _by_model(self, x: Tensor) -> Tensor:
        return x.view(len(self.weight), -1, x.shape[-1])


@dataclass(frozen=True)
class KeptNorm:
    """What a norm's backward pass needs."""

    total_ND: Tensor
    mean_N: Tensor
    inverse_N: Tensor
    added: bool


class Norm:
    """A norm that takes in the residual addition before it."""

    def __init__(self, norm: nn.Module, dtype: torch.dtype) -> None:
        assert isinstance(norm, RmsNorm | nn.LayerNorm)
        self.weight, self.eps, self.dtype = norm.weight, norm.eps, dtype
        self.bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
        self.centred = int(isinstance(norm, nn.LayerNorm))
        # gains of each model for its own rows
        self.models = len(self.weight) if self.weight.dim() == 2 else 1
        self.gains, self.shifts = _by_model(self.weight), _by_model(self.bias)

    def forward(self, x_ND: Tensor, delta_ND: Tensor | None) -> tuple[Tensor, Tensor, KeptNorm]:
        """Return x + delta, its norm, and what `backward` needs."""
        N, D = x_ND.shape
        total_ND = x_ND if delta_ND is None else torch.empty_like(x_ND)
        y_ND = torch.empty(N, D, dtype=self.dtype)
        mean_N, inverse_N = torch.empty(2, N).unbind()
        native.call(
            "norm_forward", self.dtype, x_ND, delta_ND, 1.0, self.gains, self.shifts, self.eps, self.centred,
            total_ND, y_ND, mean_N, inverse_N, D, count=N, groups=self.models,
        )  # fmt: skip
        return total_ND, y_ND, KeptNorm(total_ND, mean_N, inverse_N, delta_ND is not None)

    def backward(
        self, dy_ND: Tensor, dtotal_ND: Tensor | None, kept: KeptNorm, *, fresh: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Book the gains' gradients; return those of x, and of delta if there was one."""
        N, D = dy_ND.shape
        dx_ND = torch.empty_like(kept.total_ND)
        ddelta_ND = torch.empty(N, D, dtype=self.dtype) if kept.added else None
        K = self.models
        dgains_PK2D = torch.zeros(native.parts(N // K), K, 2, D)
        native.call(
            "norm_backward", self.dtype, dy_ND, dtotal_ND, kept.total_ND, self.gains, kept.mean_N, kept.inverse_N,
            1.0, self.centred, int(self.bias is not None), dx_ND, ddelta_ND, native.Each(dgains_PK2D), D, count=N,
            groups=K,
        )  # fmt: skip
        dweight_KD, dbias_KD = dgains_PK2D.sum(0).unbind(1)
        book_gradient(self.weight, dweight_KD.view_as(self.weight), fresh=fresh)
        if self.bias is not None:
            book_gradient(self.bias, dbias_KD.view_as(self.bias), fresh=fresh)
        return dx_ND, ddelta_ND


def _by_model(weight: Tensor | None) -> native.Argument:
    return native.OfGroup(weight) if weight is not None and weight.dim() == 2 else weight


def book_gradient(parameter: Tensor, gradient: Tensor, *, fresh: bool) -> None:
    """Overwrite a parameter's gradient, or add to it."""
    if parameter.grad is None:
        parameter.grad = gradient.to(parameter.dtype, copy=True)
    elif fresh:
        parameter.grad.copy_(gradient)
    else:
        parameter.grad.add_(gradient)
