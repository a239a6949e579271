"""A Transformer of one stack, decoder or encoder, read from top to bottom.

Shapes in names: B sequences, T positions, D width, V vocabulary, Q head size. Blocks are in `parts.py`.
Parameter counts and FLOPs are those of `study/shape.py` and `study/flops.py`, exactly.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaling.study.objective import first_length
from scaling.study.parametrization import STANDARD, Parametrization
from scaling.study.shape import ModelShape
from scaling.training import fused
from scaling.training.direct import Direct, suits_direct
from scaling.training.kernels import RmsNorm
from scaling.training.loss import chunked_cross_entropy, needs_chunks
from scaling.training.parts import (
    TABLE_STD,
    Attention,
    Block,
    CrossAttention,
    HeadTransform,
    add_norm,
    build_norm,
    distance_bias,
    distance_table,
    rotary_table,
    sinusoids,
    suits_native,
)

if TYPE_CHECKING:
    from typing_extensions import Self

At = slice | Tensor  # positions of tokens: a stretch of them, or each one's


class Transformer(nn.Module):
    """Tokens in, next-token logits or loss out.

    Args:
        shape: sizes and parts.
        attention: `native` (compiled here for this CPU, with norms, activations and loss to match),
            `sdpa` (torch's fused kernel) or `matmul` (plain matrix products). All give the same
            numbers to rounding.
        recompute: keep each block's input only and compute its inside again in the backward pass.

    Build it under `torch.device("meta")` to count parameters without memory.
    """

    turn_TQ2: Tensor | None
    wave_TD: Tensor | None
    causal = True
    adapted = False  # whether matrices of low rank stand beside some weights

    def __init__(
        self, shape: ModelShape, *, attention: str = "sdpa", recompute: bool = False
    ) -> None:
        super().__init__()
        self.shape, self.native = shape, attention == "native"
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.position = (
            nn.Parameter(torch.empty(shape.positions, shape.width))
            if shape.position == "learned"
            else None
        )
        self.relative = distance_table(shape)
        self.segment = nn.Parameter(torch.empty(2, shape.width)) if shape.has_segments else None
        self.embedding_norm = build_norm(shape) if shape.embedding_norm else None
        self.blocks = self.build_blocks(attention, recompute)
        self.norm = build_norm(shape) if shape.norm_at == "pre" else nn.Identity()
        self.transform = HeadTransform(shape) if shape.head_transform else None
        self.head = nn.Linear(shape.width, shape.vocab, bias=shape.head_transform and shape.bias)
        if shape.tied:
            self.head.weight = self.embedding.weight
        table = rotary_table(shape) if shape.position == "rotary" else None
        self.register_buffer("turn_TQ2", table, persistent=False)
        wave = sinusoids(shape) if shape.position == "sinusoidal" else None
        self.register_buffer("wave_TD", wave, persistent=False)

    def build_blocks(self, attention: str, recompute: bool) -> nn.ModuleList:
        """Return the layers."""
        return nn.ModuleList(
            Block(self.shape, attention, recompute, causal=self.causal)
            for _ in range(self.shape.layers)
        )

    def forward(
        self, tokens_BT: Tensor, targets_BT: Tensor | None = None, *, reduction: str = "mean"
    ) -> Tensor:
        """Return logits [B, T, V]; with targets, the cross-entropy in nats per token.

        Args:
            tokens_BT: token indices, T at most the context.
            targets_BT: the token that follows each of them.
            reduction: `mean` gives one number, `none` one per token [B, T].
        """
        if targets_BT is not None and reduction == "none" and self._can_score(tokens_BT):
            narrow = torch.is_autocast_enabled("cpu")
            dtype = torch.get_autocast_dtype("cpu") if narrow else torch.float32
            return Direct(self, dtype).score(tokens_BT, targets_BT)
        h_BTD = self.finish(self.trace(tokens_BT))
        native = self.native and suits_native(self.embedding.weight, stream=True)
        large = needs_chunks(tokens_BT.numel(), self.shape.vocab) and self.head.bias is None
        if targets_BT is not None and reduction == "mean" and large:
            return chunked_cross_entropy(
                h_BTD.flatten(0, 1), self.head.weight, targets_BT.flatten()
            )
        logits_BTV = self.head(h_BTD)
        if targets_BT is None:
            return logits_BTV
        if native:
            loss_N = fused.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
            return loss_N.mean() if reduction == "mean" else loss_N.view_as(targets_BT)
        # a sum over V in bfloat16 would cost about 0.01 nats of precision
        loss = F.cross_entropy(
            logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction=reduction
        )
        return loss if reduction == "mean" else loss.view_as(targets_BT)

    def trace(self, tokens_BT: Tensor) -> Tensor:
        """Return what is known of each position after the last norm [B, T, D]."""
        x_BTD, turn_TQ2 = self.embed(tokens_BT)
        bias_HTT = self.bias(tokens_BT.shape[1])
        for block in self.blocks:
            x_BTD = block(x_BTD, turn_TQ2, bias_HTT=bias_HTT)
        native = self.native and suits_native(x_BTD, stream=True)
        if native and self.shape.norm_at == "pre":
            return add_norm(x_BTD, None, self.norm)[1]
        h_BTD: Tensor = self.norm(x_BTD)
        return h_BTD

    def predict(self, h_BTD: Tensor) -> Tensor:
        """Return logits [B, T, V] from what the last norm gave."""
        logits_BTV: Tensor = self.head(self.finish(h_BTD))
        return logits_BTV

    def embed(self, tokens_BT: Tensor, at: At | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the residual stream [B, T, D] as it begins, and the rotation of each position.

        The halves of a pair are of one length, or nearly; what is no pair is all first half.
        `at`: the positions of the tokens, as a slice or [B, T]; null: 0 ... T - 1.
        """
        T = tokens_BT.shape[1]
        at = slice(T) if at is None else at
        x_BTD = self.embedding(tokens_BT)
        if self.position is not None:
            x_BTD = x_BTD + self.position[at]
        elif self.wave_TD is not None:
            x_BTD = x_BTD + self.wave_TD[at]
        if self.segment is not None:
            first = first_length(T) if self.shape.pairs else T
            second_T = (torch.arange(T, device=x_BTD.device) >= first).long()
            x_BTD = x_BTD + self.segment[second_T]
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        return x_BTD, None if self.turn_TQ2 is None else self.turn_TQ2[at]

    def bias(self, length: int, *, last: int | None = None) -> Tensor | None:
        """Return what relative positions add to the scores [H, T, S]; arguments as of `distance_bias`."""
        if self.relative is None:
            return None
        return distance_bias(self.relative, length, causal=self.causal, last=last)

    def finish(self, h_BTD: Tensor) -> Tensor:
        """Return what the head reads, from what the last norm gave."""
        if self.transform is not None:
            h_BTD = self.transform(h_BTD)
        return h_BTD * self.shape.width**-0.5 if self.shape.scale_head else h_BTD

    def _can_score(self, tokens_BT: Tensor) -> bool:
        """Whether losses without gradients can be taken without autograd."""
        quiet = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        return quiet and tokens_BT.is_cpu and type(self) is Transformer and suits_direct(self)

    @torch.no_grad()
    def init_weights(self, seed: int, parametrization: Parametrization = STANDARD) -> Self:
        """Draw every weight from `seed`, the same on every device; returns itself.

        A matrix has entries of standard deviation 1/sqrt(inputs), so that a signal keeps its size
        at any width (LeCun et al. 1998); GPT-2's 0.02 is this at width 2500. The two matrices of a
        block that write to the residual stream are smaller by sqrt(2 layers), so that depth does
        not grow it (Radford et al. 2019, section 2.3). Tables: see TABLE_STD. Another
        parametrisation multiplies these.
        """
        generator = torch.Generator().manual_seed(seed)

        names = {id(p): n for n, p in self.named_parameters()}

        def draw(weight: Tensor, std: float) -> None:
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)

        def factor(weight: Tensor) -> float:
            return parametrization.factors(names[id(weight)]).init

        residual = 1 / math.sqrt(2 * self.shape.layers)
        # a tied table is also the head, and must not make logits larger than order 1
        width = self.shape.width / parametrization.width
        small = self.shape.tied and not self.shape.scale_head
        table_std = min(TABLE_STD, 1 / math.sqrt(width)) if small else TABLE_STD
        draw(self.embedding.weight, table_std)
        for table in (self.position, self.segment):
            if table is not None:
                draw(table, table_std)
        for table in (self.relative, getattr(self, "encoder_relative", None)):
            if table is not None:  # as transformers draws those of T5
                draw(table, 1 / math.sqrt(self.shape.width))
        if "head.bias" in names.values():  # a tied head's matrix is not among those below
            self.head.bias.zero_()
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.weight is not self.embedding.weight:
                scale = residual if getattr(module, "writes_residual", False) else 1.0
                draw(module.weight, factor(module.weight) * scale / math.sqrt(module.in_features))
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, (RmsNorm, nn.LayerNorm)):
                module.reset_parameters()
                if module is self.norm:
                    module.weight.mul_(factor(module.weight))
        for module in self.modules():
            if isinstance(module, (Attention, CrossAttention)):
                module.shrink_queries()
        return self


def build_model(
    shape: ModelShape, *, attention: str = "sdpa", recompute: bool = False
) -> Transformer:
    """Return the module of a shape: a decoder, an encoder or both; arguments as of `Transformer`."""
    if shape.kind == "decoder" and not shape.outputs:
        return Transformer(shape, attention=attention, recompute=recompute)
    from scaling.training.encoder import Answerer, Classifier, Encoder, EncoderDecoder

    kinds = {
        "decoder": Answerer,
        "encoder": Classifier if shape.classes else Encoder,
        "encoder_decoder": EncoderDecoder,
    }
    return kinds[shape.kind](shape, attention=attention, recompute=recompute)
