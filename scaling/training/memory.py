"""How much memory a run needs, and the settings that make it fit; arithmetic only, nothing is built.

Weights, gradients and two moments take 16 bytes per parameter in float32, on every process or (FSDP)
divided over them. The rest is what the forward pass keeps for the backward pass, and the logits.
`benchmarks/memory.py` compares the estimate with what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scaling.study.config import TrainConfig
from scaling.study.errors import TrainError
from scaling.study.shape import GATED, ModelShape, count_params
from scaling.study.units import format_bytes, format_quantity
from scaling.training.loss import logits_bytes

STATE_BYTES = 16  # float32 weight, gradient and Adam's two moments; Muon holds one moment: 12

# A choice left to us leaves this share of the free memory to the allocator and to neighbours.
KEEP_FREE = 0.1

# Processes that a refusal proposes; more than this is no advice for an experiment of this kind.
MOST_PROCESSES = 1024


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes one process holds at its peak, by what they are for.

    weights, gradients, moments: of this process's share. gathered: whole weights and gradients that
    FSDP holds for a moment. activations: kept for the backward pass. logits: with their gradient.
    """

    weights: float
    gradients: float
    moments: float
    gathered: float
    activations: float
    logits: float

    @property
    def state(self) -> float:
        """What does not depend on the batch."""
        return self.weights + self.gradients + self.moments + self.gathered

    @property
    def total(self) -> float:
        return self.state + self.activations + self.logits

    def describe(self) -> str:
        """Return the total and its parts in one line."""
        parts = ("weights", "gradients", "moments", "gathered", "activations", "logits")
        known = [f"{p} {format_bytes(getattr(self, p))}" for p in parts if getattr(self, p)]
        return f"{format_bytes(self.total)}: {', '.join(known)}"


Need = Callable[..., MemoryEstimate]  # of (sequences, parallel, recompute, processes)


@dataclass(frozen=True)
class MemoryFit:
    """Settings under which a run fits, with what it then needs and what was free [bytes]."""

    micro_seqs: int
    recompute: bool
    parallel: str
    need: MemoryEstimate
    free: float


def memory_estimate(
    shape: ModelShape,
    micro_seqs: int,
    *,
    attention: str,
    precision: str = "float32",
    recompute: bool = False,
    parallel: str = "none",
    processes: int = 1,
) -> MemoryEstimate:
    """Estimate the bytes that one process of a run holds at its peak.

    Args:
        shape: the model's.
        micro_seqs: sequences per forward pass of one process.
        attention: `matmul` keeps scores of T x T, `sdpa` does not.
        precision: `bfloat16` halves what products keep; norms and the residual stream stay wide.
        recompute: keep each block's input only, and one block's inside at a time.
        parallel: `fsdp` divides weights, gradients and moments over the processes.
        processes: how many there are.
    """
    params, tokens = count_params(shape).total, micro_seqs * shape.context
    share = processes if parallel == "fsdp" else 1
    narrow = 2 if precision == "bfloat16" else 4
    block = tokens * _block_bytes(shape, narrow, attention)
    kept = tokens * 4 * shape.width  # the residual stream between two blocks
    depth = shape.layers + shape.encoder_layers
    layers = depth * kept + block if recompute else depth * block
    return MemoryEstimate(
        weights=4 * params / share,
        gradients=4 * params / share,
        moments=8 * params / share,
        gathered=_gathered_bytes(shape) if share > 1 else 0.0,
        activations=layers + block + 3 * kept,  # and the gradients inside one block
        logits=logits_bytes(micro_seqs * shape.predicted, shape.vocab, narrow=narrow),
    )


def fit_memory(
    shape: ModelShape,
    *,
    batch_seqs: int,
    train: TrainConfig,
    most_tokens: int,
    free: float,
    attention: str,
    precision: str = "float32",
    processes: int = 1,
    device: str = "cpu",
) -> MemoryFit:
    """Choose micro-batch, recompute and sharding so that a run fits; keep what is asked for.

    Smaller micro-batches come first, since they cost least; then sharding, then recompute.

    Args:
        shape: the model's.
        batch_seqs: sequences per optimiser step over all processes.
        train: `micro_batch_tokens`, `recompute` and `parallel`, each asked for or left open.
        most_tokens: of a forward pass where nothing is asked for.
        free: bytes free for this process.
        attention, precision, processes: as in `memory_estimate`.
        device: its name, for the message.

    Raises:
        TrainError: it will not fit; names the settings under which it would.
    """
    own = math.ceil(batch_seqs / processes)
    most = max(1, int((train.micro_batch_tokens or most_tokens) // shape.context))
    first = math.ceil(own / math.ceil(own / most))  # equal parts where they can be

    def need(seqs: int, parallel: str, recompute: bool, count: int = processes) -> MemoryEstimate:
        return memory_estimate(
            shape, seqs, attention=attention, precision=precision,
            recompute=recompute, parallel=parallel, processes=count,
        )  # fmt: skip

    # 1. every setting that is left open, the cheapest first
    ways = [(p, r) for r in _recomputes(train) for p in _parallels(train, processes)]
    for parallel, recompute in ways:
        seqs = first
        while (
            train.micro_batch_tokens is None
            and seqs > 1
            and need(seqs, parallel, recompute).total > (1 - KEEP_FREE) * free
        ):
            seqs = math.ceil(seqs / 2)
        if need(seqs, parallel, recompute).total <= free:
            return MemoryFit(seqs, recompute, parallel, need(seqs, parallel, recompute), free)

    # 2. it does not fit: what would make it
    parallel, recompute = ways[-1]
    least = need(1 if train.micro_batch_tokens is None else first, parallel, recompute)
    text = (
        f"model: needs about {format_bytes(least.total)} of memory and {format_bytes(free)} are free on {device} "
        f"({least.describe().split(': ', 1)[1]}). "
    )
    raise TrainError(text + _cure(shape, need, free, first, ways[-1], processes))


def _cure(
    shape: ModelShape, need: Need, free: float, first: int, way: tuple[str, bool], processes: int
) -> str:
    """Say which settings would make the run fit, the cheapest first."""
    parallel, recompute = way
    keep = (1 - KEEP_FREE) * free
    if need(1, parallel, recompute).total <= keep:
        seqs = first
        while need(seqs, parallel, recompute).total > keep:
            seqs //= 2
        return f"Set train.micro_batch_tokens={seqs * shape.context}."
    if not recompute and need(1, parallel, True).total <= keep:
        return "Set train.recompute=true: blocks are then computed again in the backward pass, for about a third more time."
    count = max(2, 2 * processes)
    while count <= MOST_PROCESSES:
        if need(1, "fsdp", True, count).total <= keep:
            return (
                f"Set train.parallel=fsdp on {count} processes with as much memory each, e.g. "
                f"`torchrun --nproc_per_node={count} -m scaling train ...`{_or_smaller(free)}."
            )
        count *= 2
    if need(1, "none", True).state > keep:
        return f"Weights, gradients and moments alone take {STATE_BYTES} bytes per parameter{_or_smaller(free)}."
    return (
        "Even one sequence at a time does not fit. Use a shorter model.context, or a larger device."
    )


def _or_smaller(free: float) -> str:
    fits = format_quantity(0.5 * free / STATE_BYTES)
    return f"; or use a larger device, or a model of about {fits} (model.params={fits})"


def _recomputes(train: TrainConfig) -> tuple[bool, ...]:
    return (False, True) if train.recompute == "auto" else (bool(train.recompute),)


def _parallels(train: TrainConfig, processes: int) -> tuple[str, ...]:
    if processes == 1 or train.parallel == "none":
        return ("none",)
    return ("ddp", "fsdp") if train.parallel == "auto" else (train.parallel,)


def _block_bytes(shape: ModelShape, narrow: int, attention: str) -> float:
    """Bytes per token that one block keeps for its backward pass.

    Two norms keep their unit vectors in float32 and give the products' input; queries, keys and
    values are kept as projected and as the kernel takes them; the kernel keeps its output. `matmul`
    adds the probabilities of each head, and for a moment scores and their gradient.
    """
    s = shape
    heads, qkv = s.heads * s.head_size, (s.heads + 2 * s.kv_heads) * s.head_size
    wide = s.ffn * (4 if s.activation in GATED else 2)
    products = 2 * s.width + 2 * qkv + 2 * heads + wide
    if attention == "matmul" or s.position == "relative":
        products += 3 * s.heads * s.context
    return 4.0 * 2 * s.width + float(narrow * products)


def _gathered_bytes(shape: ModelShape) -> float:
    """Whole weights and gradients in float32 that FSDP holds at once.

    Tables and head stay gathered for the whole pass; of the blocks one is computed while the next
    one arrives.
    """
    counts = count_params(shape)
    tables = counts.embedding + counts.head
    return 4.0 * 2 * (tables + 2 * (counts.total - tables) / shape.layers)
