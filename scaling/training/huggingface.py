"""Weights as Hugging Face `transformers` names and lays them out, and back: llama and gpt2.

What differs: our queries, keys and values are one matrix (rows: H query heads, G key heads, G value
heads); our rotary pairs are channels (2i, 2i+1) where theirs are (i, i + Q/2); GPT-2 stores its
matrices transposed. Nothing is rounded, so that there and back again is the same to the bit.
Shapes in names: H query heads, G key-value heads, Q head size, D width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scaling.study.errors import CheckpointError
from scaling.study.hub import family_of
from scaling.study.pretrained import Pretrained, open_pretrained
from scaling.study.shape import ModelShape
from scaling.training.checkpoint import read_weights

Tensors = dict[str, Tensor]

# buffers that some versions saved beside the weights
_BUFFERS = re.compile(r"\.attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")


@dataclass(frozen=True)
class Names:
    """How a family names its parts; {i} is the layer. `layer` pairs our name with theirs."""

    prefix: str
    embedding: str
    norm: str
    block: str
    layer: dict[str, str]
    transposed: bool = False  # matrices of a block are stored [inputs, outputs]


LLAMA = Names(
    prefix="model.", embedding="embed_tokens", norm="norm", block="layers.{i}.",
    layer={
        "attention_norm": "input_layernorm", "attention.out": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm", "ffn.gate": "mlp.gate_proj",
        "ffn.up": "mlp.up_proj", "ffn.down": "mlp.down_proj",
    },
)  # fmt: skip
GPT2 = Names(
    prefix="transformer.", embedding="wte", norm="ln_f", block="h.{i}.",
    layer={
        "attention_norm": "ln_1", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj",
        "ffn_norm": "ln_2", "ffn.up": "mlp.c_fc", "ffn.down": "mlp.c_proj",
    },
    transposed=True,
)  # fmt: skip


def to_hub(tensors: Tensors, shape: ModelShape) -> Tensors:
    """Return a model's weights under the names and in the layout of `transformers`.

    Args:
        tensors: ours by name, as `Transformer.named_parameters` gives them.
        shape: one that `scaling.study.hub.family_of` accepts.

    Raises:
        ConfigError: neither llama nor gpt2 computes what this shape computes.
        CheckpointError: a weight is missing.
    """
    names = LLAMA if family_of(shape) == "llama" else GPT2
    tensors = scale_queries(tensors, shape, scale=None)  # all that families know
    found: Tensors = {}
    for ours, theirs, there, _ in _pairs(names, shape):
        if ours not in tensors:
            raise CheckpointError(f"{ours}: not among the weights. Export a finished run.")
        parts = there(tensors[ours])
        found |= {name: part.contiguous() for name, part in zip(theirs, parts, strict=True)}
    return found


def from_hub(tensors: Tensors, shape: ModelShape, *, where: str = "weights") -> Tensors:
    """Return weights of a `transformers` model under our names, in float32.

    Raises:
        CheckpointError: a weight is missing, of another shape, or not known.
    """
    names = LLAMA if family_of(shape) == "llama" else GPT2
    # GPT-2 as first released lacks the prefix
    given = {
        n if n.startswith((names.prefix, "lm_head.")) else names.prefix + n: t
        for n, t in tensors.items()
        if not _BUFFERS.search(n)
    }
    if shape.tied:
        given.pop("lm_head.weight", None)
    found: Tensors = {}
    for ours, theirs, _, back in _pairs(names, shape):
        missing = [n for n in theirs if n not in given]
        if missing:
            raise CheckpointError(
                f"{where}: {missing[0]} is missing. Save the model again with save_pretrained."
            )
        found[ours] = back([given.pop(n).float() for n in theirs]).contiguous()
    if given:
        raise CheckpointError(
            f"{where}: {min(given)} is no weight of this family. Give the folder of a plain language model."
        )
    return found


def load_pretrained(folder: str | Path | Pretrained) -> tuple[ModelShape, Tensors]:
    """Read a folder of weights: a Hugging Face model (llama, gpt2) or one of our finished runs.

    Args:
        folder: its path, or what `open_pretrained` said of it.

    Returns:
        The shape, and float32 tensors under the names of `Transformer.named_parameters`.

    Raises:
        CheckpointError: no weights there, damaged, or of another shape than the folder says.
        ConfigError: a model that ours cannot be.
    """
    source = folder if isinstance(folder, Pretrained) else open_pretrained(folder)
    where = str(source.folder)
    if source.kind == "run":
        tensors = read_weights(source.folder)
    else:
        tensors = from_hub(_read_files(source.files), source.shape, where=where)
    check_tensors(tensors, source.shape, where=where)
    return source.shape, tensors


def _read_files(files: Iterable[Path]) -> Tensors:
    tensors: Tensors = {}
    for path in files:
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: damaged ({error}). Copy it again.") from None
    return tensors


def check_tensors(tensors: Tensors, shape: ModelShape, *, where: str) -> None:
    """Compare names and sizes with the module that the shape builds.

    Raises:
        CheckpointError: they differ.
    """
    from scaling.training.model import build_model

    with torch.device("meta"):
        wanted = {n: tuple(p.shape) for n, p in build_model(shape).named_parameters()}
    given = {n: tuple(t.shape) for n, t in tensors.items()}
    for name in sorted({*wanted, *given}):
        if wanted.get(name) != given.get(name):
            raise CheckpointError(
                f"{where}: {name} is {given.get(name, 'not there')}; its shape wants {wanted.get(name, 'none')}. "
                "The folder's parts do not belong together; copy it again."
            )


def starting_tensors(source: Pretrained, shape: ModelShape) -> Tensors:
    """Return the weights that a run starts from, as a learner's `load` takes them.

    Args:
        source: what the run's plan found in the folder.
        shape: the run's; its context may be shorter than the source's.

    Raises:
        CheckpointError: the folder's weights are not those of the plan any more, or damaged.
    """
    if open_pretrained(source.folder).hash != source.hash:
        raise CheckpointError(
            f"{source.folder}: the weights have changed since the run was planned. Plan it again."
        )
    _, tensors = load_pretrained(source)
    if "position" in tensors:
        tensors["position"] = tensors["position"][: shape.context]
    tensors = scale_queries(tensors, source.shape, scale=shape.attention_scale)
    return {f"model.{name}": tensor for name, tensor in tensors.items()}


There = Callable[[Tensor], list[Tensor]]
Back = Callable[[list[Tensor]], Tensor]


def _pairs(names: Names, shape: ModelShape) -> Iterator[tuple[str, list[str], There, Back]]:
    """Yield each of our tensors with the names of theirs, and the way there and back."""
    yield "embedding.weight", [f"{names.prefix}{names.embedding}.weight"], _same, _first
    if shape.position == "learned":
        yield "position", [f"{names.prefix}wpe.weight"], _same, _first
    for i in range(shape.layers):
        block = names.prefix + names.block.format(i=i)
        for our, their in names.layer.items():
            norm = our.endswith("norm")
            flip = names.transposed and not norm
            for kind in _kinds(shape, norm):
                there, back = (
                    (_turned, _turned_back) if flip and kind == "weight" else (_same, _first)
                )
                yield f"blocks.{i}.{our}.{kind}", [f"{block}{their}.{kind}"], there, back
        if not names.transposed:
            for kind in _kinds(shape, norm=False):
                split = [f"{block}self_attn.{x}_proj.{kind}" for x in "qkv"]
                yield f"blocks.{i}.attention.qkv.{kind}", split, _split(shape), _join(shape)
    for kind in _kinds(shape, norm=True):
        yield f"norm.{kind}", [f"{names.prefix}{names.norm}.{kind}"], _same, _first
    if not shape.tied:
        yield "head.weight", ["lm_head.weight"], _same, _first


def scale_queries(tensors: Tensors, s: ModelShape, *, scale: float | None) -> Tensors:
    """Return the tensors for another scale of the attention scores; the function stays the same.

    Args:
        tensors: ours by name.
        s: their shape, with the scale that they were trained with.
        scale: that of the module they are for; null: 1 / sqrt(Q).
    """
    usual = s.head_size**-0.5 if s.scale_scores else 1.0
    ratio = (s.attention_scale or usual) / (scale or usual)
    if ratio == 1:
        return tensors
    factor = torch.ones((s.heads + 2 * s.kv_heads) * s.head_size)
    factor[: s.heads * s.head_size] = ratio
    return {
        name: t * factor.to(t).view(-1, *[1] * (t.ndim - 1)) if ".attention.qkv." in name else t
        for name, t in tensors.items()
    }


def _kinds(shape: ModelShape, norm: bool) -> tuple[str, ...]:
    biased = shape.bias and (not norm or shape.norm == "layernorm")
    return ("weight", "bias") if biased else ("weight",)


def _same(tensor: Tensor) -> list[Tensor]:
    return [tensor]


def _first(tensors: list[Tensor]) -> Tensor:
    return tensors[0]


def _turned(tensor: Tensor) -> list[Tensor]:
    return [tensor.T]


def _turned_back(tensors: list[Tensor]) -> Tensor:
    return tensors[0].T


def _split(s: ModelShape) -> There:
    """Cut rows [H + 2G heads of Q] into queries, keys and values; pairs apart for the first two."""
    sizes = [s.heads * s.head_size, s.kv_heads * s.head_size, s.kv_heads * s.head_size]

    def there(rows: Tensor) -> list[Tensor]:
        q, k, v = rows.split(sizes)
        return [_to_halves(q, s.head_size), _to_halves(k, s.head_size), v]

    return there


def _join(s: ModelShape) -> Back:
    def back(parts: list[Tensor]) -> Tensor:
        q, k, v = parts
        return torch.cat([_to_pairs(q, s.head_size), _to_pairs(k, s.head_size), v])

    return back


def _to_halves(rows: Tensor, Q: int) -> Tensor:
    """Reorder each head's rows from (0, 1), (2, 3) ... to 0, 2, ... 1, 3 ..."""
    return rows.unflatten(0, (-1, Q // 2, 2)).transpose(1, 2).flatten(0, 2)


def _to_pairs(rows: Tensor, Q: int) -> Tensor:
    return rows.unflatten(0, (-1, 2, Q // 2)).transpose(1, 2).flatten(0, 2)
