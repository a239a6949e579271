"""Weights as Hugging Face `transformers` names and lays them out, and back: llama, gpt2, bert and t5.

Nothing is rounded, so that there and back again is the same to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scaling.study.adoption import Rows
from scaling.study.errors import CheckpointError
from scaling.study.pretrained import Pretrained, open_pretrained
from scaling.study.shape import ModelShape
from scaling.training.checkpoint import read_weights
from scaling.training.counterparts import cleared, counterparts

Tensors = dict[str, Tensor]


def to_hub(tensors: Tensors, shape: ModelShape) -> Tensors:
    """Return a model's weights under the names and in the layout of `transformers`.

    Args:
        tensors: ours by name, as `Transformer.named_parameters` gives them.
        shape: one that `scaling.study.hub.family_of` accepts.

    Raises:
        ConfigError: no family computes what this shape computes.
        CheckpointError: a weight is missing.
    """
    tensors = scale_queries(tensors, shape, scale=None)  # all that families know
    found: Tensors = {}
    for ours, theirs, there, _ in counterparts(shape):
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
    given = cleared(tensors, shape)
    found: Tensors = {}
    for ours, theirs, _, back in counterparts(shape):
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
    """Read a folder of weights: a Hugging Face model (llama, gpt2, bert, t5) or one of our finished runs.

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
    wanted = parameter_sizes(shape)
    given = {n: tuple(t.shape) for n, t in tensors.items()}
    for name in sorted({*wanted, *given}):
        if wanted.get(name) != given.get(name):
            raise CheckpointError(
                f"{where}: {name} is {given.get(name, 'not there')}; its shape wants {wanted.get(name, 'none')}. "
                "The folder's parts do not belong together; copy it again."
            )


def starting_tensors(
    source: Pretrained,
    shape: ModelShape,
    *,
    rows: Rows | None = None,
    fresh: Callable[[], Mapping[str, Tensor]] = dict,
) -> Tensors:
    """Return the weights that a run starts from, as a learner's `load` takes them.

    Args:
        source: what the run's plan found in the folder.
        shape: the run's; its context may be shorter than the source's.
        rows: of the token table, where the run's tokens are others; see `scaling.study.adoption`.
        fresh: gives the weights of a fresh run, for what the source lacks.

    Raises:
        CheckpointError: the folder's weights are not those of the plan any more, or damaged.
    """
    if open_pretrained(source.folder).hash != source.hash:
        raise CheckpointError(
            f"{source.folder}: the weights have changed since the run was planned. Plan it again."
        )
    _, tensors = load_pretrained(source)
    if "position" in tensors:
        tensors["position"] = tensors["position"][: shape.positions]
    tensors = scale_queries(tensors, source.shape, scale=shape.attention_scale)
    given = {f"model.{name}": tensor for name, tensor in tensors.items()}
    moved = rows is not None and rows != tuple(range(source.shape.vocab))
    if not moved and not fresh_parts(source, shape, rows):
        return {f"model.{name}": given[f"model.{name}"] for name in parameter_sizes(shape)}
    begun = {n: t for n, t in fresh().items() if n.startswith("model.")}
    tables = {f"model.{name}" for name in TABLES} if moved else set()
    return {n: _joined(t, given.get(n), rows if n in tables else None) for n, t in begun.items()}


TABLES = ("embedding.weight", "head.weight", "head.bias")  # a row for every token


def fresh_parts(source: Pretrained, shape: ModelShape, rows: Rows | None) -> frozenset[str]:
    """Return the names of weights that a run draws fresh, all of them or some rows, of what the source lacks."""
    there, wanted = parameter_sizes(source.shape), parameter_sizes(shape)
    new_rows = rows is not None and None in rows
    return frozenset(
        name
        for name, size in wanted.items()
        if name not in there
        or (new_rows if name in TABLES else name != "position" and there[name] != size)
    )


@functools.lru_cache(maxsize=64)
def parameter_sizes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Return the size of every weight of a shape by name."""
    from scaling.training.model import build_model

    with torch.device("meta"):
        return {n: tuple(p.shape) for n, p in build_model(shape).named_parameters()}


def _joined(fresh: Tensor, given: Tensor | None, rows: Rows | None) -> Tensor:
    """Return the weights that are given; fresh ones where there are none, and in rows that are new."""
    if given is None:
        return fresh
    if rows is None:
        return given if given.shape == fresh.shape else fresh
    pairs = [(row, origin) for row, origin in enumerate(rows) if origin is not None]
    into, out_of = (list(numbers) for numbers in zip(*pairs, strict=True))
    joined = fresh.detach().clone()
    joined[into] = given[out_of].to(joined)
    return joined


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
    queries = s.heads * s.head_size  # rows of a joint matrix, and all rows of a cross-attention's

    def scaled(name: str, tensor: Tensor) -> Tensor:
        if ".cross.q." in name:
            return tensor * ratio
        if ".attention.qkv." not in name:
            return tensor
        return torch.cat([tensor[:queries] * ratio, tensor[queries:]])

    return {name: scaled(name, tensor) for name, tensor in tensors.items()}
