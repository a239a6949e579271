"""Which weight of `transformers` is which of ours, family by family, and how to get from one to the other.

What differs: our queries, keys and values are one matrix (rows: H query heads, G key heads, G value
heads), and keys and values that cross from an encoder another; our rotary pairs are channels
(2i, 2i+1) where theirs are (i, i + Q/2); GPT-2 stores its matrices transposed; BERT's judgement of
pairs counts "follows" as 0, ours as 1. Nothing is rounded.

Shapes in names: H query heads, G key-value heads, Q head size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scaling.study.hub import family_of
from scaling.study.shape import GATED, ModelShape

There = Callable[[Tensor], list[Tensor]]
Back = Callable[[list[Tensor]], Tensor]
Counterpart = tuple[str, list[str], There, Back]  # our name, their names, there and back


@dataclass(frozen=True)
class Names:
    """How a decoder's family names its parts; {i} is the layer. `layer` pairs our name with theirs."""

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
BERT_LAYER = {
    "attention.out": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
    "ffn.up": "intermediate.dense", "ffn.down": "output.dense", "ffn_norm": "output.LayerNorm",
}  # fmt: skip

# what some versions saved beside the weights: buffers, and copies of a weight under another name
_SPARE = re.compile(
    r"\.attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$|\.position_ids$"
    r"|^cls\.predictions\.decoder\.bias$|^(en|de)coder\.embed_tokens\.weight$"
    # a table that early releases of T5 have and nothing reads
    r"|\.EncDecAttention\.relative_attention_bias\.weight$"
)
_JUDGEMENT = re.compile(r"^(bert\.pooler|cls\.seq_relationship)\.")
_PREFIXES = {"llama": (LLAMA.prefix, "lm_head."), "gpt2": (GPT2.prefix, "lm_head.")}
_HEADS = {"bert": "cls.predictions.decoder.weight"}  # of the others lm_head.weight
_TABLES = {"llama": "model.embed_tokens.weight", "gpt2": "transformer.wte.weight", "bert": "bert.embeddings.word_embeddings.weight", "t5": "shared.weight"}  # fmt: skip


def counterparts(shape: ModelShape) -> Iterator[Counterpart]:
    """Yield each of our tensors with the names of theirs, and the way there and back.

    Raises:
        ConfigError: no family computes what this shape computes.
    """
    family = family_of(shape)
    if family == "bert":
        return _bert(shape)
    if family == "t5":
        return _t5(shape)
    return _decoder(LLAMA if family == "llama" else GPT2, shape)


def cleared(tensors: dict[str, Tensor], shape: ModelShape) -> dict[str, Tensor]:
    """Return a folder's weights under the names of today, without those that say nothing new."""
    family = family_of(shape)
    given = {n: t for n, t in tensors.items() if not _SPARE.search(n)}
    if family == "bert":  # as first released: gains and shifts of norms had other names
        given = {re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", n)): t for n, t in given.items()}  # fmt: skip
        if not (shape.pairs or shape.classes):
            given = {n: t for n, t in given.items() if not _JUDGEMENT.search(n)}
    prefixes = _PREFIXES.get(family)
    if prefixes:  # GPT-2 as first released lacks the prefix
        given = {n if n.startswith(prefixes) else prefixes[0] + n: t for n, t in given.items()}
    head, table = _HEADS.get(family, "lm_head.weight"), _TABLES[family]
    if shape.tied:
        same = head in given and table in given and torch.equal(given[head], given[table])
        if family != "t5" or same:  # else it is an error: the configuration says one matrix
            given.pop(head, None)
    elif head not in given and table in given and family == "t5":
        given[head] = given[table]  # saved by transformers 5 as one, though told apart
    return given


def _decoder(names: Names, shape: ModelShape) -> Iterator[Counterpart]:
    yield _plain("embedding.weight", f"{names.prefix}{names.embedding}.weight")
    if shape.position == "learned":
        yield _plain("position", f"{names.prefix}wpe.weight")
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
                yield _joint(f"blocks.{i}.attention.qkv.{kind}", split, shape)
    for kind in _kinds(shape, norm=True):
        yield _plain(f"norm.{kind}", f"{names.prefix}{names.norm}.{kind}")
    if not shape.tied:
        yield _plain("head.weight", "lm_head.weight")


def _bert(shape: ModelShape) -> Iterator[Counterpart]:
    tables, head = "bert.embeddings.", "cls.predictions."
    yield _plain("embedding.weight", f"{tables}word_embeddings.weight")
    yield _plain("position", f"{tables}position_embeddings.weight")
    yield _plain("segment", f"{tables}token_type_embeddings.weight")
    for kind in ("weight", "bias"):
        yield _plain(f"embedding_norm.{kind}", f"{tables}LayerNorm.{kind}")
        for i in range(shape.layers):
            block = f"bert.encoder.layer.{i}."
            for our, their in BERT_LAYER.items():
                yield _plain(f"blocks.{i}.{our}.{kind}", f"{block}{their}.{kind}")
            split = [f"{block}attention.self.{x}.{kind}" for x in ("query", "key", "value")]
            yield _joint(f"blocks.{i}.attention.qkv.{kind}", split, shape)
        if shape.pairs or shape.classes:
            yield _plain(f"pool.{kind}", f"bert.pooler.dense.{kind}")
        if shape.classes:
            yield _plain(f"label.{kind}", f"classifier.{kind}")
            continue
        yield _plain(f"transform.dense.{kind}", f"{head}transform.dense.{kind}")
        yield _plain(f"transform.norm.{kind}", f"{head}transform.LayerNorm.{kind}")
        if shape.pairs:
            yield f"pair.{kind}", [f"cls.seq_relationship.{kind}"], _swapped, _swapped_back
    if not shape.classes:
        yield _plain("head.bias", f"{head}bias")


def _t5(shape: ModelShape) -> Iterator[Counterpart]:
    yield _plain("embedding.weight", "shared.weight")
    sides = (("encoder", "encoder", shape.encoder_layers), ("blocks", "decoder", shape.layers))
    for ours, theirs, depth in sides:
        for i in range(depth):
            yield from _t5_layer(f"{ours}.{i}.", f"{theirs}.block.{i}.layer.", shape, theirs)
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    yield _plain("encoder_relative", f"encoder.{bias}")
    yield _plain("relative", f"decoder.{bias}")
    yield _plain("encoder_norm.weight", "encoder.final_layer_norm.weight")
    yield _plain("norm.weight", "decoder.final_layer_norm.weight")
    if not shape.tied:
        yield _plain("head.weight", "lm_head.weight")


def _t5_layer(ours: str, theirs: str, shape: ModelShape, side: str) -> Iterator[Counterpart]:
    attention, last = f"{theirs}0.SelfAttention.", 2 if side == "decoder" else 1
    yield _joint(f"{ours}attention.qkv.weight", [f"{attention}{x}.weight" for x in "qkv"], shape)
    yield _plain(f"{ours}attention.out.weight", f"{attention}o.weight")
    yield _plain(f"{ours}attention_norm.weight", f"{theirs}0.layer_norm.weight")
    if side == "decoder":
        cross = f"{theirs}1.EncDecAttention."
        yield _plain(f"{ours}cross.q.weight", f"{cross}q.weight")
        split = [f"{cross}{x}.weight" for x in "kv"]
        yield f"{ours}cross.kv.weight", split, _halved, _stacked
        yield _plain(f"{ours}cross.out.weight", f"{cross}o.weight")
        yield _plain(f"{ours}cross_norm.weight", f"{theirs}1.layer_norm.weight")
    ffn = f"{theirs}{last}.DenseReluDense."
    if shape.activation in GATED:
        yield _plain(f"{ours}ffn.gate.weight", f"{ffn}wi_0.weight")
    up = "wi_1" if shape.activation in GATED else "wi"
    yield _plain(f"{ours}ffn.up.weight", f"{ffn}{up}.weight")
    yield _plain(f"{ours}ffn.down.weight", f"{ffn}wo.weight")
    yield _plain(f"{ours}ffn_norm.weight", f"{theirs}{last}.layer_norm.weight")


def _kinds(shape: ModelShape, norm: bool) -> tuple[str, ...]:
    biased = shape.bias and (not norm or shape.norm == "layernorm")
    return ("weight", "bias") if biased else ("weight",)


def _plain(ours: str, theirs: str) -> Counterpart:
    return ours, [theirs], _same, _first


def _same(tensor: Tensor) -> list[Tensor]:
    return [tensor]


def _first(tensors: list[Tensor]) -> Tensor:
    return tensors[0]


def _turned(tensor: Tensor) -> list[Tensor]:
    return [tensor.T]


def _turned_back(tensors: list[Tensor]) -> Tensor:
    return tensors[0].T


def _swapped(tensor: Tensor) -> list[Tensor]:
    return [tensor.flip(0)]


def _swapped_back(tensors: list[Tensor]) -> Tensor:
    return tensors[0].flip(0)


def _halved(tensor: Tensor) -> list[Tensor]:
    return [half.clone() for half in tensor.chunk(2)]


def _stacked(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors)


def _joint(ours: str, theirs: list[str], s: ModelShape) -> Counterpart:
    """Rows [H + 2G heads of Q] as queries, keys and values; rotary pairs apart for the first two."""
    sizes = [s.heads * s.head_size, s.kv_heads * s.head_size, s.kv_heads * s.head_size]
    rotary = s.position == "rotary"

    def there(rows: Tensor) -> list[Tensor]:
        q, k, v = rows.split(sizes)
        if rotary:
            q, k = _to_halves(q, s.head_size), _to_halves(k, s.head_size)
        return [t.clone() for t in (q, k, v)]  # safetensors takes no tensors that share memory

    def back(parts: list[Tensor]) -> Tensor:
        q, k, v = parts
        if rotary:
            q, k = _to_pairs(q, s.head_size), _to_pairs(k, s.head_size)
        return torch.cat([q, k, v])

    return ours, theirs, there, back


def _to_halves(rows: Tensor, Q: int) -> Tensor:
    """Reorder each head's rows from (0, 1), (2, 3) ... to 0, 2, ... 1, 3 ..."""
    return rows.unflatten(0, (-1, Q // 2, 2)).transpose(1, 2).flatten(0, 2)


def _to_pairs(rows: Tensor, Q: int) -> Tensor:
    return rows.unflatten(0, (-1, 2, Q // 2)).transpose(1, 2).flatten(0, 2)
