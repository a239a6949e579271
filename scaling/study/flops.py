"""Training FLOPs of a shape, from arithmetic alone, in the conventions people use.

A multiply-add is 2 FLOPs; backward is 2 x forward; element-wise work is not counted. Attention is
counted over the full context, as a FLOP counter sees it (causal kernels may skip half of it).
"""

from __future__ import annotations

from dataclasses import dataclass

from scaling.study.shape import (
    ModelShape,
    attention_weights,
    ffn_weights,
    label_weights,
    pair_weights,
    transform_weights,
)


@dataclass(frozen=True)
class FlopsPerToken:
    """Training FLOPs per token by part (forward and backward).

    blocks: projections and feed-forward. attention: scores and weighted values. head: output matrix.
    Whole numbers where every position does the same work; a token is one of text in any case.
    """

    blocks: float
    attention: float
    head: float

    @property
    def counted(self) -> float:
        """Every matrix product."""
        return self.blocks + self.attention + self.head


def flops_per_token(shape: ModelShape) -> FlopsPerToken:
    """Count training FLOPs per token: 3 x forward, 2 per multiply-add.

    Source: agrees with torch.utils.flop_counter on the built module; the attention term is
    the 12 L h q T of Chowdhery et al. 2022 (arXiv:2204.02311, appendix B).
    """
    s = shape
    head: float = 6 * (s.vocab * s.width + transform_weights(s))
    if s.outputs:  # the head scores these alone
        head = (head * s.outputs + 6 * pair_weights(s)) / s.context
    if s.classes:
        head = 6 * label_weights(s) / s.context
    if s.kind == "encoder_decoder":
        return _encoder_decoder(s, head)
    return FlopsPerToken(
        blocks=6 * s.layers * (attention_weights(s) + ffn_weights(s)),
        attention=12 * s.layers * s.heads * s.head_size * s.context,
        head=head,
    )


def _encoder_decoder(s: ModelShape, head: float) -> FlopsPerToken:
    """Each side works on its own positions; all of it is shared out over the tokens of text."""
    read, written = s.source, s.outputs
    query_and_out = 2 * s.width * s.head_size * s.heads
    key_and_value = 2 * s.width * s.head_size * s.kv_heads
    layer = attention_weights(s) + ffn_weights(s)
    across = query_and_out * written + key_and_value * read
    blocks = s.encoder_layers * layer * read + s.layers * (layer * written + across)
    pairs = s.encoder_layers * read**2 + s.layers * (written**2 + written * read)
    return FlopsPerToken(
        blocks=6 * blocks / s.context,
        attention=12 * s.heads * s.head_size * pairs / s.context,
        head=head,
    )


def flops_6nd(params: float, tokens: float) -> float:
    """Return 6 N D: C = 6 FLOPs per parameter and token (Kaplan et al. 2020)."""
    return 6.0 * params * tokens
