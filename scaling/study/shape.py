"""The shape of a Transformer and its exact parameter counts, from arithmetic alone.

d width, h heads, g key-value heads, q head size, f feed-forward width, V vocabulary, T context.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from scaling.study.config import ModelConfig
from scaling.study.errors import ConfigError
from scaling.study.objective import PLAIN, Layout
from scaling.study.units import format_quantity

# d / layers. Kaplan et al. 2020 (arXiv:2001.08361, fig. 5) find the loss flat within 3 % over a
# 40-fold range; 64 is GPT-2 small's value. Below 2 layers no head can look at another's output.
ASPECT = 64
MIN_LAYERS = 2
THINNEST = 0.25  # d / layers; anything thinner is a thread that nobody trains
TOLERANCE = 0.01  # a chosen shape is within 1 % of its target size

GATED = ("swiglu", "geglu")  # activations with a third matrix
# Classes of distances that relative positions tell apart, and the distance from which all are one:
# those of every released T5 (Raffel et al. 2020, arXiv:1910.10683, section 2.1).
BUCKETS, FARTHEST = 32, 128


@dataclass(frozen=True)
class ModelShape:
    """Everything that the parameter count, the FLOPs and the built module depend on."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    vocab: int
    context: int
    norm: str = "rmsnorm"
    position: str = "rotary"
    rotary_base: float = 10_000.0
    activation: str = "swiglu"
    qk_norm: str = "none"
    tied: bool = False
    bias: bool = False
    norm_eps: float = 1e-5  # GPT-2 and Llama 2
    attention_scale: float | None = None  # of scores; None: 1 / sqrt(head size)
    kind: str = "decoder"  # decoder, encoder, encoder_decoder; see `model.kind`
    encoder_layers: int = 0  # of an encoder_decoder
    source: int = 0  # positions of its encoder, for `context` tokens of text
    outputs: int = (
        0  # positions the head predicts, and an encoder_decoder's decoder sees; 0: context
    )
    pairs: bool = False  # two segments, and a judgement whether one follows the other
    norm_at: str = "pre"  # or post; see `model.norm_at`, and so on
    embedding_norm: bool = False
    scale_scores: bool = True
    head_transform: bool = False
    scale_head: bool = False
    segments: bool = False
    classes: int = 0  # labels that an encoder tells apart, in place of tokens; 0: no such head
    padded: bool = False  # sequences end in the vocabulary's last token, which nothing looks at

    @property
    def predicted(self) -> int:
        """Positions of a sequence that the head predicts."""
        return self.outputs or self.context

    @property
    def score_scale(self) -> float | None:
        """What attention scores are multiplied by; null: 1 / sqrt(head size)."""
        return self.attention_scale or (None if self.scale_scores else 1.0)

    @property
    def has_segments(self) -> bool:
        """Whether a table tells two halves of a sequence apart."""
        return self.segments or self.pairs

    @property
    def positions(self) -> int:
        """Positions that a stack must tell apart: marks of spans may lengthen a short sequence."""
        return max(self.context, self.source, self.outputs)


@dataclass(frozen=True)
class ParamCounts:
    """Parameters by group; `total` is their sum.

    embedding: token and learned position tables. head: output matrix, 0 when tied.
    non_embedding: blocks and norms. active: what a token passes through.
    """

    embedding: int
    head: int
    non_embedding: int

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.non_embedding

    @property
    def active(self) -> int:
        return self.total

    def by(self, convention: str) -> int:
        """Return N in a convention: `total` or `non_embedding`."""
        return {"total": self.total, "non_embedding": self.non_embedding}[convention]


def count_params(shape: ModelShape) -> ParamCounts:
    """Count the parameters of the module that `shape` builds, exactly."""
    s = shape
    position = s.positions * s.width if s.position == "learned" else 0
    segments = 2 * s.width if s.has_segments else 0
    norm = _norm_params(s, s.width)
    per_layer = attention_weights(s) + ffn_weights(s) + _biases(s) + 2 * norm + _qk_norm_params(s)
    # of a stack beside its layers: the norm at its end, and biases by distance
    stack = norm * (s.norm_at == "pre") + BUCKETS * s.heads * (s.position == "relative")
    blocks = s.layers * per_layer + stack + norm * s.embedding_norm
    if s.kind == "encoder_decoder":
        blocks += s.encoder_layers * per_layer + stack
        blocks += s.layers * (attention_weights(s) + _attention_biases(s) + norm)
    return ParamCounts(
        embedding=s.vocab * s.width + position + segments,
        head=_head_params(s),
        non_embedding=blocks,
    )


def _head_params(s: ModelShape) -> int:
    if s.classes:
        return label_weights(s) + s.width + s.classes
    pair = pair_weights(s) + (s.width + 2) * s.pairs
    return (0 if s.tied else s.vocab * s.width) + _transform_params(s) + pair


def label_weights(shape: ModelShape) -> int:
    """Matrix entries that tell a label: a dense layer, tanh, and an output for each; 0 without them."""
    return shape.width * (shape.width + shape.classes) if shape.classes else 0


def has_common_parts(shape: ModelShape) -> bool:
    """Whether a shape has only the parts that passes written out by hand know: those of llama and gpt2."""
    s = shape
    rare = s.embedding_norm or s.head_transform or s.scale_head or s.segments or s.outputs
    return s.kind == "decoder" and s.norm_at == "pre" and s.position != "relative" and not rare


def transform_weights(shape: ModelShape) -> int:
    """Matrix entries of the dense layer before the head; 0 where there is none.

    Source: Devlin et al. 2019 (arXiv:1810.04805), as released.
    """
    return shape.width**2 if shape.head_transform else 0


def _transform_params(s: ModelShape) -> int:
    if not s.head_transform:
        return 0
    return transform_weights(s) + _norm_params(s, s.width) + (s.width + s.vocab) * s.bias


def pair_weights(shape: ModelShape) -> int:
    """Matrix entries that judge whether one half follows the other; 0 where nothing does.

    Source: Devlin et al. 2019 (arXiv:1810.04805): a dense layer, tanh, and two outputs.
    """
    return shape.width * (shape.width + 2) if shape.pairs else 0


def attention_weights(shape: ModelShape) -> int:
    """Matrix entries of one layer's query, key, value and output projections."""
    s = shape
    return s.width * s.head_size * (2 * s.heads + 2 * s.kv_heads)


def ffn_weights(shape: ModelShape) -> int:
    """Matrix entries of one layer's feed-forward part (three matrices when gated)."""
    return (3 if shape.activation in GATED else 2) * shape.width * shape.ffn


def _biases(s: ModelShape) -> int:
    if not s.bias:
        return 0
    return _attention_biases(s) + (2 if s.activation in GATED else 1) * s.ffn + s.width


def _attention_biases(s: ModelShape) -> int:
    return s.head_size * (s.heads + 2 * s.kv_heads) + s.width if s.bias else 0


def _norm_params(s: ModelShape, size: int) -> int:
    return size * (2 if s.norm == "layernorm" and s.bias else 1)


def _qk_norm_params(s: ModelShape) -> int:
    return {"none": 0, "head": 2 * s.head_size, "full": (s.heads + s.kv_heads) * s.head_size}[
        s.qk_norm
    ]


@lru_cache(maxsize=4096)
def resolve_shape(
    model: ModelConfig, *, vocab: int, params: float | None = None, layout: Layout = PLAIN
) -> ModelShape:
    """Return the shape a configuration asks for, choosing what it leaves open.

    Args:
        model: sizes that are null are chosen; `params` is the target when the shape is open.
        vocab: tokens of the tokenizer; special tokens of the objective come on top.
        params: target size when it follows from two budgets instead of `model.params`.
        layout: what the objective makes of a sequence.

    Raises:
        ConfigError: heads do not divide the width, or no shape is within 1 % of the target.
    """
    target = model.params if model.params is not None else params
    if target is None:
        if model.layers is None or model.width is None:
            raise ConfigError("model: give params, or layers and width.")
        return _build(model, vocab, layout, model.layers, model.width, model.ffn)
    return _nearest_shape(model, vocab, layout, target)


def heads_for(width: int) -> int:
    """Heads by width: of 64 channels from width 256 on (GPT-2, Llama), about 32 below, two at least."""
    return max(2, round(width / (64 if width >= 256 else 32)))


def _build(
    model: ModelConfig, vocab: int, layout: Layout, layers: int, width: int, ffn: int | None
) -> ModelShape:
    heads = model.heads or heads_for(width)
    kv_heads = model.kv_heads or heads
    if width % heads:
        raise ConfigError(
            f"model.heads: {heads} heads do not divide width {width}. Set model.heads to a divisor of {width}."
        )
    if heads % kv_heads:
        raise ConfigError(
            f"model.kv_heads: {kv_heads} does not divide the {heads} heads. Set model.kv_heads to a divisor of {heads}."
        )
    if model.position == "rotary" and (width // heads) % 2:
        raise ConfigError(
            f"model.heads: rotary positions need an even head size; width {width} / heads {heads} is {width // heads}."
        )
    return ModelShape(
        layers=layers, width=width, heads=heads, kv_heads=kv_heads, head_size=width // heads,
        ffn=ffn or round(_ffn_ratio(model) * width), vocab=vocab + len(layout.specials), context=model.context,
        norm=model.norm, position=model.position, rotary_base=model.rotary_base,
        activation=model.activation, qk_norm=model.qk_norm, tied=model.tied, bias=model.bias,
        norm_eps=model.norm_eps, kind=model.kind,
        encoder_layers=(model.encoder_layers or layers) if model.kind == "encoder_decoder" else 0,
        **layout.sizes,
        norm_at=model.norm_at, embedding_norm=model.embedding_norm, scale_scores=model.scale_scores,
        head_transform=model.head_transform, scale_head=model.scale_head, segments=model.segments,
    )  # fmt: skip


def _ffn_ratio(model: ModelConfig) -> float:
    return 8 / 3 if model.activation in GATED else 4.0  # both give 8 d^2 weights a layer


def _nearest_shape(model: ModelConfig, vocab: int, layout: Layout, target: float) -> ModelShape:
    """Search depth and width near the aspect ratio, then let the feed-forward width hit the target.

    Among shapes within 1 %, the one closest to the nominal proportions wins: proportions that
    drift along a ladder of sizes would themselves bend the law.
    """
    best: tuple[float, int, ModelShape] | None = None
    closest: tuple[float, int, ModelShape] | None = None
    candidates = enumerate(_candidates(model, vocab, layout, target))
    for index, proportions in sorted(candidates, key=lambda c: _aspect(*c[1])):
        if best is not None and _aspect(*proportions) > best[0]:
            break  # the others are farther from nominal by this alone
        shape = _fit_ffn(model, vocab, layout, *proportions, target)
        if shape is None:
            continue
        off = abs(count_params(shape).by(model.params_convention) / target - 1)
        closest = _nearer(closest, (off, index, shape))
        # below 5k parameters one channel of the feed-forward part is more than 1 %
        channel = 0.5 * shape.layers * (ffn_weights(shape) / shape.ffn) / target
        if off <= max(TOLERANCE, min(channel, 0.05)):
            best = _nearer(best, (_strain(model, shape) + off, index, shape))
    if best is not None:
        return best[2]
    size = count_params(closest[2]).by(model.params_convention) if closest else None
    nearest = f"; the closest has {size:,}" if size else ""
    raise ConfigError(
        f"model.params: no shape is within 1 % of {format_quantity(target)} {model.params_convention} parameters "
        f"with vocabulary {vocab}{nearest}. Ask for another size, free model.layers or model.width, "
        f"or count in the other convention (model.params_convention)."
    )


def _nearer(
    best: tuple[float, int, ModelShape] | None, found: tuple[float, int, ModelShape]
) -> tuple[float, int, ModelShape]:
    """Return the smaller of two distances; the narrower model of two equal ones."""
    return found if best is None or found[:2] < best[:2] else best


def _strain(model: ModelConfig, shape: ModelShape) -> float:
    """How far proportions are from nominal, in log units; the feed-forward ratio counts twice."""
    ratio = shape.ffn / (_ffn_ratio(model) * shape.width)
    return _aspect(shape.layers, shape.width) + 2 * abs(math.log(ratio))


def _aspect(layers: int, width: int) -> float:
    """How far width / layers is from nominal; the smallest models are as deep as they must be."""
    aspect = math.log(width / layers / ASPECT)
    return abs(max(0.0, aspect) if layers == MIN_LAYERS else aspect)


def _candidates(
    model: ModelConfig, vocab: int, layout: Layout, target: float
) -> Iterator[tuple[int, int]]:
    """Yield (layers, width) pairs whose nominal size is near the target."""
    for width in [model.width] if model.width else _WIDTHS:
        if model.layers:
            yield model.layers, width
            continue
        try:
            one, two = (
                count_params(_build(model, vocab, layout, n, width, None)).by(
                    model.params_convention
                )
                for n in (1, 2)
            )
        except ConfigError:
            continue  # this width does not suit the heads asked for
        depth = 1 + (target - one) / (two - one)
        if depth < MIN_LAYERS / 3:  # wider ones overshoot even with the narrowest feed-forward part
            return
        if width < depth * THINNEST:
            continue
        yield from (
            (n, width) for n in sorted({max(MIN_LAYERS, f(depth)) for f in (math.floor, math.ceil)})
        )


_WIDTHS = [*range(8, 64, 4), *range(64, 96, 8), *range(96, 256, 16), *range(256, 16_385, 64)]


def _fit_ffn(
    model: ModelConfig, vocab: int, layout: Layout, layers: int, width: int, target: float
) -> ModelShape | None:
    """Choose the feed-forward width that brings this depth and width closest to the target."""
    try:
        one = _build(model, vocab, layout, layers, width, 1)
    except ConfigError:
        return None
    if model.ffn:
        return _build(model, vocab, layout, layers, width, model.ffn)
    base = count_params(one).by(model.params_convention)
    two = _build(model, vocab, layout, layers, width, 2)
    per_unit = count_params(two).by(model.params_convention) - base
    nominal = _ffn_ratio(model) * width
    exact = 1 + (target - base) / per_unit
    if not 0.5 * nominal <= exact <= 2 * nominal:
        return None
    multiple = 64 if width >= 512 else 8 if width >= 64 else 1  # matrix units like round sizes
    for step in (multiple, 8, 1):
        ffn = max(1, round(exact / step) * step)
        shape = _build(model, vocab, layout, layers, width, ffn)
        if abs(count_params(shape).by(model.params_convention) / target - 1) <= TOLERANCE / 2:
            return shape
    return _build(model, vocab, layout, layers, width, max(1, round(exact)))
