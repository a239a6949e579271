"""Exact parameter counts and FLOPs of well-known families, for tables whose N or C is not stated.

`count("llama", layers=32, width=4096, heads=32, ffn=11008, vocab=32_000)` returns the counts by
group; `count_model("llama2-7b")` knows the shape. Counts agree with the released weights; Pythia's
and T5's include padding of the vocabulary as released.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from scaling.study.errors import ConfigError, did_you_mean
from scaling.study.shape import BUCKETS, ModelShape, ParamCounts, count_params


@dataclass(frozen=True)
class Shape:
    """Sizes of a model: d width, h heads of size q, g key-value heads, f feed-forward, V, T."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    vocab: int
    context: int

    @property
    def inner(self) -> int:
        """Width of all heads together, h q."""
        return self.heads * self.head_size


def count(
    family: str, *, layers: int, width: int, heads: int, kv_heads: int | None = None,
    head_size: int | None = None, ffn: int | None = None, vocab: int | None = None, context: int | None = None,
) -> ParamCounts:  # fmt: skip
    """Count the parameters of a shape of a family.

    Args:
        family: gpt2 (and GPT-3), llama, olmo, opt, pythia, bert, t5, transformer (Vaswani et al.
            2017) or chinchilla. layers: of each stack where there are two (t5, transformer).
        head_size: width / heads by default; kv_heads: as many as heads; ffn: 4 x width; vocab and
            context: the family's own.

    Raises:
        ConfigError: unknown family, a size that is no whole number above 0, or heads that do not fit.
    """
    if family not in FAMILIES:
        raise ConfigError(
            f"family: {family!r} is none of {', '.join(FAMILIES)}.{did_you_mean(family, FAMILIES)}"
        )
    counter, own_vocab, own_context = FAMILIES[family]
    sizes = {"layers": layers, "width": width, "heads": heads, "kv_heads": kv_heads or heads,
             "head_size": head_size or max(1, width // heads), "ffn": ffn or 4 * width,
             "vocab": vocab or own_vocab, "context": context or own_context}  # fmt: skip
    for name, value in sizes.items():
        if not isinstance(value, int) or value <= 0:
            raise ConfigError(f"{name}: must be a whole number above 0; got {value!r}.")
    if head_size is None and width % heads:
        raise ConfigError(
            f"heads: {heads} do not divide width {width}. Give head_size, or another number of heads."
        )
    if heads % sizes["kv_heads"]:
        raise ConfigError(f"kv_heads: {kv_heads} does not divide the {heads} heads.")
    return counter(Shape(**sizes))


def _decoder(**parts: Any) -> Callable[[Shape], ParamCounts]:
    """Families that our own model builds too: the same formula counts both."""

    def counter(s: Shape) -> ParamCounts:
        shape = ModelShape(
            s.layers, s.width, s.heads, s.kv_heads, s.head_size, s.ffn, s.vocab, s.context
        )
        return count_params(replace(shape, **parts))

    return counter


def _opt(s: Shape) -> ParamCounts:
    """GPT-2's parts; the position table has two rows more than the context (an offset in its code)."""
    return _GPT2(replace(s, context=s.context + 2))


def _bert(s: Shape) -> ParamCounts:
    """Encoder with LayerNorm after each part, two segment rows, a norm on the embeddings, a pooler.

    Source: Devlin et al. 2018, arXiv:1810.04805, as released.
    """
    norm = 2 * s.width
    attention = 4 * s.width * s.inner + 3 * s.inner + s.width
    ffn = 2 * s.width * s.ffn + s.ffn + s.width
    pooler = s.width * s.width + s.width
    blocks = s.layers * (attention + ffn + 2 * norm)
    tables = (s.vocab + s.context + 2) * s.width
    return ParamCounts(embedding=tables, head=0, non_embedding=blocks + norm + pooler)


def _t5(s: Shape) -> ParamCounts:
    """Encoder and decoder without biases, one scale per norm, one table for both and the head.

    Source: Raffel et al. 2020, arXiv:1910.10683, version 1.0 as released.
    """
    attention, ffn = 4 * s.width * s.inner, 2 * s.width * s.ffn
    encoder = s.layers * (attention + ffn + 2 * s.width)
    decoder = s.layers * (2 * attention + ffn + 3 * s.width)
    rest = (
        2 * s.width + 2 * BUCKETS * s.heads
    )  # biases by distance in the first layer of each stack
    return ParamCounts(embedding=s.vocab * s.width, head=0, non_embedding=encoder + decoder + rest)


def _transformer(s: Shape) -> ParamCounts:
    """The first Transformer: biases, LayerNorm after each part, sinusoidal positions, one table.

    Source: Vaswani et al. 2017, arXiv:1706.03762.
    """
    attention = 4 * s.width * s.inner + 3 * s.inner + s.width
    ffn = 2 * s.width * s.ffn + s.ffn + s.width
    norm = 2 * s.width
    encoder = s.layers * (attention + ffn + 2 * norm)
    decoder = s.layers * (2 * attention + ffn + 3 * norm)
    return ParamCounts(embedding=s.vocab * s.width, head=0, non_embedding=encoder + decoder)


def _chinchilla(s: Shape) -> ParamCounts:
    """Matrices only: five of attention (the fifth projects relative positions), two of feed-forward.

    Reproduces table A9 of Hoffmann et al. 2022 (arXiv:2203.15556): 49 of its 50 sizes within 0.5 %,
    the smallest within 0.8 %. The five is the reading of Schaeffer et al. 2025 (arXiv:2509.23963).
    """
    blocks = s.layers * (5 * s.width * s.inner + 2 * s.width * s.ffn)
    return ParamCounts(embedding=s.vocab * s.width, head=0, non_embedding=blocks)


_GPT2 = _decoder(norm="layernorm", position="learned", activation="gelu", tied=True, bias=True)
_PYTHIA = _decoder(norm="layernorm", activation="gelu", bias=True)

# family: (how it is counted, vocabulary, context)
FAMILIES: dict[str, tuple[Callable[[Shape], ParamCounts], int, int]] = {
    "gpt2": (_GPT2, 50_257, 1024),
    "llama": (_decoder(), 32_000, 4096),
    "olmo": (_decoder(qk_norm="full"), 100_352, 4096),
    "opt": (_opt, 50_272, 2048),
    "pythia": (_PYTHIA, 50_304, 2048),
    "bert": (_bert, 30_522, 512),
    "t5": (_t5, 32_128, 512),
    "transformer": (_transformer, 37_000, 512),
    "chinchilla": (_chinchilla, 32_000, 2048),
}


def _sizes(layers: int, width: int, heads: int, **more: int) -> dict[str, int]:
    return {"layers": layers, "width": width, "heads": heads, **more}


# fmt: off
MODELS: dict[str, tuple[str, dict[str, int]]] = {
    "gpt2-small": ("gpt2", _sizes(12, 768, 12)), "gpt2-medium": ("gpt2", _sizes(24, 1024, 16)),
    "gpt2-large": ("gpt2", _sizes(36, 1280, 20)), "gpt2-xl": ("gpt2", _sizes(48, 1600, 25)),
    "gpt3-175b": ("gpt2", _sizes(96, 12288, 96, context=2048)),
    "llama2-7b": ("llama", _sizes(32, 4096, 32, ffn=11008)), "llama2-13b": ("llama", _sizes(40, 5120, 40, ffn=13824)),
    "llama2-70b": ("llama", _sizes(80, 8192, 64, kv_heads=8, ffn=28672)),
    "llama3-8b": ("llama", _sizes(32, 4096, 32, kv_heads=8, ffn=14336, vocab=128_256)),
    "llama3-70b": ("llama", _sizes(80, 8192, 64, kv_heads=8, ffn=28672, vocab=128_256)),
    "llama3-405b": ("llama", _sizes(126, 16384, 128, kv_heads=8, ffn=53248, vocab=128_256)),
    "olmo-190m": ("olmo", _sizes(12, 768, 12)),
    "opt-125m": ("opt", _sizes(12, 768, 12)), "opt-1.3b": ("opt", _sizes(24, 2048, 32)), "opt-6.7b": ("opt", _sizes(32, 4096, 32)),
    "opt-13b": ("opt", _sizes(40, 5120, 40)), "opt-175b": ("opt", _sizes(96, 12288, 96)),
    "pythia-70m": ("pythia", _sizes(6, 512, 8)), "pythia-160m": ("pythia", _sizes(12, 768, 12)),
    "pythia-410m": ("pythia", _sizes(24, 1024, 16)), "pythia-1b": ("pythia", _sizes(16, 2048, 8)),
    "pythia-1.4b": ("pythia", _sizes(24, 2048, 16)), "pythia-2.8b": ("pythia", _sizes(32, 2560, 32)),
    "pythia-6.9b": ("pythia", _sizes(32, 4096, 32, vocab=50_432)), "pythia-12b": ("pythia", _sizes(36, 5120, 40, vocab=50_688)),
    "bert-base": ("bert", _sizes(12, 768, 12)), "bert-large": ("bert", _sizes(24, 1024, 16)),
    "t5-base": ("t5", _sizes(12, 768, 12)),
    "transformer-base": ("transformer", _sizes(6, 512, 8)), "transformer-big": ("transformer", _sizes(6, 1024, 16)),
}
# fmt: on


def count_model(name: str) -> ParamCounts:
    """Count the parameters of a published model by name, e.g. `llama2-7b`.

    Raises:
        ConfigError: the name is not known.
    """
    if name not in MODELS:
        raise ConfigError(
            f"model: {name!r} is not known.{did_you_mean(name, MODELS)} There are {', '.join(MODELS)}."
        )
    family, sizes = MODELS[name]
    return count(family, **sizes)


def flops_with_attention(
    params: float, *, layers: int, heads: int, head_size: int, context: int
) -> float:
    """Return training FLOPs per token as 6N + 12 L h q T: 6N and the scores over the full context.

    Source: Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, appendix B.
    """
    return 6.0 * params + 12.0 * layers * heads * head_size * context


def model_flops_utilization(
    tokens_per_second: float, flops_per_token: float, *, peak: float
) -> float:
    """Return MFU: the share of the peak FLOP/s of all chips that the model's own FLOPs take."""
    return tokens_per_second * flops_per_token / peak


def flops_hoffmann(
    shape: Shape, *, embedding: bool = True, logits: bool = True, softmax: bool = True
) -> float:
    """Return training FLOPs per token as Hoffmann et al. 2022 count them, appendix F.

    Args:
        embedding: count the table as a matrix product, 2 V d; logits: the head, 2 d V.
        softmax: count 3 h T. Their table of ratios to 6ND leaves both vocabulary terms out.
    """
    s = shape
    layer = 2 * 3 * s.width * s.inner + 2 * s.inner * s.width + 2 * 2 * s.width * s.ffn
    layer += 2 * 2 * s.context * s.inner + (3 * s.heads * s.context if softmax else 0)
    forward = s.layers * layer + 2 * s.vocab * s.width * (int(embedding) + int(logits))
    return 3.0 * forward  # backward is twice forward
