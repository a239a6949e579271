"""Which weights of a run train: all of them, the last layers, the head, or adapters of low rank.

A frozen weight keeps its value to the bit, and the optimiser holds nothing for it. Adapters are those
of `peft`; when the run ends they are added to the weights beside which they were trained, so that what
is kept is a plain model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scaling.study.errors import TrainError
from scaling.study.finetune import FinetuneConfig
from scaling.study.plan import RunPlan
from scaling.study.shape import ModelShape
from scaling.training.huggingface import fresh_parts, parameter_sizes
from scaling.training.model import Transformer, build_model

HEADS = ("head.", "transform.", "pool.", "pair.", "label.")
TABLE = "embedding.weight"  # which is the head where they are tied
# matrices of a block that adapters may stand beside, by `finetune.targets`
_ATTENTION, _FFN = r"(attention|cross)\.(qkv|q|kv|out)", r"ffn\.(gate|up|down)"
_TARGETS = {"attention": _ATTENTION, "ffn": _FFN, "all": f"({_ATTENTION}|{_FFN})"}
_BASE, _ADAPTER = ".base_layer", ".lora_"  # in names that peft gives


@dataclass(frozen=True)
class Tuning:
    """What of a model trains, where that is not all.

    fresh: names of weights that are drawn anew, all of them or some rows.
    """

    config: FinetuneConfig
    fresh: frozenset[str]

    @classmethod
    def of(cls, plan: RunPlan) -> Tuning | None:
        """Return what a plan asks for; null: all weights train."""
        if plan.source is None or plan.config.finetune.parts == "all":
            return None
        return cls(plan.config.finetune, fresh_parts(plan.source, plan.shape, plan.rows))

    @property
    def targets(self) -> str:
        """The modules that have an adapter, as an expression that their whole name matches."""
        return rf"(blocks|encoder)\.\d+\.{_TARGETS[self.config.targets]}"

    def choose(self, names: Iterable[str], shape: ModelShape) -> frozenset[str]:
        """Return which of a model's own weights train, adapters aside."""
        parts, first = self.config.parts, shape.layers - self.config.blocks
        is_head = {n for n in names if n.startswith(HEADS)}
        if shape.tied and not shape.classes:
            is_head.add(TABLE)
        if parts == "lora":
            return frozenset(is_head & self.fresh)
        if parts == "head":
            return frozenset(is_head)
        last = {f"blocks.{i}." for i in range(first, shape.layers)} | {"norm."}
        return frozenset(is_head | {n for n in names if n.startswith(tuple(last))})


def tune(model: Transformer, tuning: Tuning, *, seed: int) -> None:
    """Freeze what does not train, and put adapters in place, which change nothing before the first step.

    Args:
        model: with fresh weights, on its first device.
        tuning: what trains.
        seed: that one half of each adapter is drawn from; the other is 0.

    Raises:
        TrainError: adapters are asked for and peft is not installed.
    """
    trained = tuning.choose([n for n, _ in model.named_parameters()], model.shape)
    if tuning.config.parts == "lora":
        _add_adapters(model, tuning, seed=seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained or _ADAPTER in name)


def _add_adapters(model: Transformer, tuning: Tuning, *, seed: int) -> None:
    try:
        import peft  # seconds, which no other run has to wait
    except ModuleNotFoundError as error:
        raise TrainError(
            f"finetune.parts=lora: {error.name} is not installed. pip install 'scaling-lab[tune]', or train other parts."
        ) from None
    rank = tuning.config.rank
    alpha: Any = tuning.config.alpha or rank
    adapters = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=tuning.targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(adapters, model)
    model.adapted = True


def plain_name(name: str) -> str | None:
    """Return what a weight of an adapted model is called in the plain one; null: it is an adapter's."""
    return None if _ADAPTER in name else name.replace(_BASE, "")


def beside_adapters(model: Transformer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a plain model's tensors, `model.NAME`, as an adapted one takes them; adapters stay as drawn."""
    found = {}
    for name, parameter in model.named_parameters():
        plain = plain_name(name)
        found[f"model.{name}"] = parameter.detach() if plain is None else tensors[f"model.{plain}"]
    return found


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the plain model that computes what an adapted one does, to rounding."""
    tensors = {p: t.detach() for n, t in model.named_parameters() if (p := plain_name(n))}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            delta = module.get_delta_weight("default").detach()
            tensors[f"{name}.weight"] = tensors[f"{name}.weight"] + delta
    return tensors


def merge(model: Transformer, attention: str) -> Transformer:
    """Return the plain model that computes what an adapted one does, on the CPU."""
    plain = build_model(model.shape, attention=attention)
    with torch.no_grad():
        tensors = merged_weights(model)
        for name, parameter in plain.named_parameters():
            parameter.copy_(tensors[name])
    return plain


def count_trained(plan: RunPlan) -> int:
    """Return how many parameters of a run train, adapters included."""
    tuning = Tuning.of(plan)
    if tuning is None:
        return plan.counts.total
    sizes = {n: torch.Size(size) for n, size in parameter_sizes(plan.shape).items()}
    count = sum(sizes[n].numel() for n in tuning.choose(sizes, plan.shape))
    if tuning.config.parts != "lora":
        return count
    beside = [s for n, s in sizes.items() if re.fullmatch(rf"{tuning.targets}\.weight", n)]
    return count + tuning.config.rank * sum(map(sum, beside))
