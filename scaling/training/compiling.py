"""When torch.compile repays itself, and how a model is compiled.

Compiling costs half a minute to a minute once per shape, and a few seconds when another run has
left its result in the cache folder. What it saves grows with the run, so that there is a run length
from which it pays. The rule reads the plan and the device only, never the cache: a run that is
started again must make the same choice, or its losses would differ in the last bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import nn

from scaling.study.flops import flops_per_token
from scaling.study.shape import ModelShape
from scaling.training.data.cache import cache_folder

# Seconds of a first compilation: a part per model and one per layer, on one core. Measured on one
# Zen 4 core: 52 CPU-seconds for two layers; elsewhere 12 to 68 s (0.1M to 10M parameters) were seen.
START_SECONDS, LAYER_SECONDS = 40.0, 6.0

# Share of the time that compiled steps save against steps as they are. CPU, plain products, 0.1M:
# 54,100 against 43,900 tokens/s, which is 19 %; kernels of native.cpp took 84,000 beside them, so
# where those can be used nothing is compiled. GPU: assumed, not measured.
SAVED = {"cpu": 0.15, "cuda": 0.25}

# FLOPs per second of steps that are not compiled, to turn FLOPs into seconds: one core here; a
# third of the bfloat16 peak of an H100. Only the order matters.
RATE = {"cpu": 60e9, "cuda": 300e12}

# Launches per layer, forward, backward and optimiser, after fusion, and seconds per launch. CUDA's
# own figure for a launch is a few microseconds; the count is read off the block. Not measured.
LAUNCHES_PER_LAYER, LAUNCH_SECONDS = 40, 4e-6


def repays_compiling(shape: ModelShape, *, tokens: float, device: str) -> bool:
    """Return whether a run saves more time by compiling than compiling takes.

    Args:
        shape: the model's.
        tokens: that the run trains on.
        device: type of device, `cpu` or `cuda`; others are never compiled.
    """
    if device not in SAVED:
        return False
    seconds = float(flops_per_token(shape).counted) * tokens / RATE[device]
    return SAVED[device] * seconds > START_SECONDS + LAYER_SECONDS * shape.layers


def is_launch_bound(shape: ModelShape, *, tokens: int) -> bool:
    """Return whether a GPU would wait for launches rather than compute, at `tokens` per pass."""
    computing = float(flops_per_token(shape).counted) * tokens / RATE["cuda"]
    return computing < 2 * LAUNCHES_PER_LAYER * shape.layers * LAUNCH_SECONDS


def compile_model(model: nn.Module, *, graphs: bool) -> Callable[..., torch.Tensor]:
    """Return the compiled forward pass; its result is cached for all later runs of the shape.

    Args:
        model: on its device.
        graphs: replay each pass as one CUDA graph, where launches would dominate.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder(None) / "inductor"))
    mode = "reduce-overhead" if graphs else "default"
    compiled: Callable[..., torch.Tensor] = torch.compile(model, dynamic=False, mode=mode)
    if not graphs:
        return compiled

    def replay(*inputs: torch.Tensor) -> torch.Tensor:
        # what the last replay returned has been used up by now
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(*inputs)

    return replay
