"""How a model's numbers change with width and depth, so that one learning rate serves all sizes.

A parametrisation says, for every parameter, by what factors its initial size, learning rate, weight
decay and epsilon differ from the standard ones. At the base shape (`optim.base_width`,
`optim.base_depth`) every factor is 1: there, all parametrisations are the same run to the bit.

The papers write some of these factors as multipliers in the forward pass: of the head's output, and
of what each block adds. Here they are folded into the weights, so that the forward pass is the same
for all, exported weights need nothing added, and nobody has to remember them. The two are the same
training: a matrix with multiplier c, initial size s, rate r, decay w and epsilon e moves, times c, as
one with initial size c s, rate c r, decay w / c and epsilon e / c, because Adam's step does not depend
on the gradient's size, which the multiplier makes c times as large (Yang et al. 2022,
arXiv:2203.03466, lemma J.1). Only the scale of attention scores stays in the forward pass.

In the comments m is width / base width, l is layers / base layers.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from scaling.study.config import ModelConfig, OptimConfig
from scaling.study.errors import ConfigError
from scaling.study.shape import ModelShape, heads_for

# matrices that read the residual stream, or what an encoder made of it
_READS = ("qkv.weight", "cross.q.weight", "cross.kv.weight", "gate.weight", "up.weight")


@dataclass(frozen=True)
class Factors:
    """What one parameter's initial size, learning rate, weight decay and epsilon are multiplied by."""

    init: float = 1.0
    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0


@dataclass(frozen=True)
class Parametrization:
    """Factors of every parameter by its name, relative to the standard parametrisation.

    width: m, 1 if the parametrisation does not look at width. depth: l, likewise.
    tied: the head is the token table. muon: block matrices are trained by Muon.

    Source: table 1 of Dey et al. 2025 (CompleteP, arXiv:2505.01618) for muP and CompleteP
    (alpha = 1), with forward multipliers folded as above.
    """

    name: str = "standard"
    width: float = 1.0
    depth: float = 1.0
    tied: bool = False
    muon: bool = False

    @classmethod
    def of(cls, optim: OptimConfig, shape: ModelShape) -> Parametrization:
        """Return the parametrisation that a configuration asks for at a shape."""
        name = optim.parametrization
        return cls(
            name=name,
            width=1.0 if name == "standard" else shape.width / optim.base_width,
            depth=shape.layers / optim.base_depth if name == "completep" else 1.0,
            tied=shape.tied,
            muon=optim.name == "muon",
        )

    def factors(self, name: str) -> Factors:
        """Return the factors of a parameter, by its name in the plain Transformer."""
        m = self.width
        if name.startswith(("blocks.", "encoder.")):
            return self._in_block(name)
        if name.startswith("norm."):
            # with a tied head its multiplier 1/m has no matrix of its own, so the last gain takes it
            return Factors(init=1 / m, lr=1 / m) if self.tied else Factors(eps=1 / m)
        if name == "head.weight":
            # standard size falls as 1/sqrt(width); the multiplier makes it 1/width
            return Factors(init=m**-0.5, lr=1 / m, weight_decay=m)
        if name in (
            "pool.weight",
            "pair.weight",
            "label.weight",
        ):  # read from the last norm, as the head is
            return Factors(lr=1 / m, weight_decay=m)
        # token and position tables; their gradient falls as 1/m, so epsilon does
        return Factors(eps=1 / m)

    def _in_block(self, name: str) -> Factors:
        m, l = self.width, self.depth  # noqa: E741
        writes = name.endswith(("attention.out.weight", "cross.out.weight", "ffn.down.weight"))
        if writes or name.endswith(_READS):
            # An Adam step is aligned with its input, so its effect grows with the inputs: rate 1/m.
            # A Muon step of fixed entry size has all singular values equal, its effect grows with
            # their root: 1/sqrt(m) (spectral condition, Yang et al. 2023, arXiv:2310.17813).
            # Decay keeps rate x decay.
            lr = m**-0.5 if self.muon else 1 / m
            if not writes:
                return Factors(lr=lr, weight_decay=1 / lr, eps=1 / (m * l))
            # A branch has multiplier 1/l, and CompleteP's initial size does not fall with depth,
            # where the standard one falls as 1/sqrt(layers).
            return Factors(init=l**-0.5, lr=lr / l, weight_decay=l / lr, eps=1 / m)
        if name.endswith(("attention.out.bias", "cross.out.bias", "ffn.down.bias")):
            return Factors(lr=1 / l, eps=1 / m)
        return Factors(eps=1 / (m * l))  # gains of norms, other biases


STANDARD = Parametrization()


def with_attention_scale(
    shape: ModelShape, *, optim: OptimConfig, model: ModelConfig
) -> ModelShape:
    """Return the shape with what its attention scores q·k are multiplied by.

    Trained queries and keys are aligned, so that their product grows with the head size Q, not with
    its root: muP asks for 1/Q. It is sqrt(base Q) / Q here, the usual scale at the base width. With
    heads of one size at every width nothing changes.

    Raises:
        ConfigError: the parametrisation is not known for one of the shape's parts.

    Source: Yang et al. 2022, arXiv:2203.03466, definition 4.1.
    """
    if optim.parametrization == "standard":
        return shape
    _check_parts(shape, optim)
    base = optim.base_width / (model.heads or heads_for(optim.base_width))
    if base == shape.head_size:
        return shape
    return dataclasses.replace(shape, attention_scale=math.sqrt(base) / shape.head_size)


# parts whose factors nobody has worked out here, and what each key must be instead
_UNKNOWN = {"norm_at": "pre", "head_transform": False, "scale_head": False, "scale_scores": True}


def _check_parts(shape: ModelShape, optim: OptimConfig) -> None:
    for key, known in _UNKNOWN.items():
        if (value := getattr(shape, key)) != known:
            raise ConfigError(
                f"optim.parametrization={optim.parametrization} with model.{key}={str(value).lower()}: its rates and "
                f"sizes are not known. Set optim.parametrization=standard, or model.{key}={str(known).lower()}."
            )
