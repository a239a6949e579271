"""What a run executes on: device, precision, attention kernel, micro-batch, memory.

Everything left open by `train.*` is chosen here, from the device and the shape, and recorded.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import resource
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from scaling.study.config import TrainConfig
from scaling.study.devices import find_peak
from scaling.study.errors import ConfigError
from scaling.study.flops import flops_per_token
from scaling.study.shape import ModelShape
from scaling.training.compiling import is_launch_bound, repays_compiling
from scaling.training.cpu import cpu_flags, cpu_name, keep_freed_memory
from scaling.training.memory import MemoryEstimate, fit_memory, memory_estimate
from scaling.training.native import is_available

# bfloat16 products on CPU pay above this many FLOPs (forward and backward) per pass; below, oneDNN's
# set-up and the casts cost what the products save. Measured on one Zen 4 core (avx512_bf16) with the
# compiled kernels, 2k to 90k parameters, 192 to 1,344 tokens, against float32: 0.70 to 0.81 times the
# speed up to 4e7, 0.92 to 0.94 at 7e7 to 9e7, 1.11 at 1.7e8, 1.17 at 2.4e8, 1.3 to 1.55 from 4e8.
BF16_MIN_FLOPS = 1.2e8

# Plain products win over torch's fused kernel on CPU in bfloat16 (1.5 to 2.4 times on the step at
# 128 positions) and in float32 for heads narrower than this; wider, the fused kernel leads by 5 to
# 15 %. Scores of T x T are kept for the backward pass, so beyond 512 positions memory decides.
MATMUL_HEAD_SIZE = 24
MATMUL_CONTEXT = 512

# Tokens per forward pass: enough to fill the device, few enough to stay in its caches or memory.
MICRO_TOKENS = {"cpu": 8192, "cuda": 65_536}

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Engine:
    """How one run executes, all choices made."""

    device: torch.device
    precision: str
    attention: str
    micro_seqs: int
    compile: bool
    threads: int
    recompute: bool = False
    parallel: str = "none"
    graphs: bool = False  # passes replayed as CUDA graphs
    devices: int = 1

    def autocast(self) -> AbstractContextManager:
        """Return the context of forward passes: bfloat16 products, or nothing."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def memory(self, shape: ModelShape) -> MemoryEstimate:
        """Return what a run of a shape is expected to hold at its peak."""
        return memory_estimate(
            shape, self.micro_seqs, attention=self.attention, precision=self.precision,
            recompute=self.recompute, parallel=self.parallel, processes=self.devices,
        )  # fmt: skip

    def name(self) -> str:
        """Return the device's own name."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return cpu_name() if self.device.type == "cpu" else self.device.type

    def peak_flops(self) -> float | None:
        """Return the devices' bfloat16 peak in FLOPs/s; null where it is not known (every CPU)."""
        if self.device.type != "cuda" or self.precision != "bfloat16":
            return None
        peak = find_peak(self.name())
        return None if peak is None else self.devices * peak

    def peak_memory(self) -> int:
        """Return the most memory in bytes that the device (or on CPU this process) has held."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used * (1 if platform.system() == "Darwin" else 1024)


def choose_engine(
    shape: ModelShape,
    *,
    batch_seqs: int,
    train: TrainConfig,
    processes: int = 1,
    beside: int = 1,
    tokens: float = 0,
) -> Engine:
    """Choose what `train.*` leaves open, for a shape and sequences per step.

    Args:
        shape: the model's.
        batch_seqs: sequences per optimiser step, over all processes.
        train: what is asked for.
        processes: that train this run together; `beside` of them share this machine's memory.
        tokens: of the run; from some length on it is compiled.

    Raises:
        ConfigError: the device asked for is not there.
        TrainError: the run does not fit in memory.
    """
    device = _device(train.device)
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    if device.type == "cpu":
        keep_freed_memory()
    # 1. how much at once, by the memory of the larger of the kernels that may be chosen
    short = device.type == "cpu" and shape.context <= MATMUL_CONTEXT
    attention = train.attention
    compiled = attention == "native" or (attention == "auto" and _likes_native(device, train))
    larger = ("matmul" if short else "sdpa") if attention == "auto" else attention
    if compiled:
        larger = "native"
    free = available_memory(device) / (beside if device.type == "cpu" else 1)
    memory = fit_memory(
        shape, batch_seqs=batch_seqs, train=train, most_tokens=MICRO_TOKENS.get(device.type, 8192), free=free,
        attention=larger, precision=_kept_precision(device, train), processes=processes, device=str(device),
    )  # fmt: skip
    seqs = memory.micro_seqs

    # 2. precision by the work in a pass, kernel by precision
    precision = train.precision
    if precision == "auto":
        flops = float(flops_per_token(shape).counted) * seqs * shape.context
        precision = "bfloat16" if _likes_bfloat16(device, flops) else "float32"
    if compiled:
        attention = "native"
        _check_native(device, train, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    elif attention == "auto":
        plain = short and (precision == "bfloat16" or shape.head_size < MATMUL_HEAD_SIZE)
        attention = "matmul" if plain else "sdpa"
    # 3. compilation by length; our own kernels are as fast without
    compiling = train.compile is True
    if train.compile == "auto" and not compiled:
        compiling = repays_compiling(shape, tokens=tokens / processes, device=device.type)
    return Engine(
        device=device, precision=precision, attention=attention, micro_seqs=seqs,
        compile=compiling, threads=torch.get_num_threads(),
        recompute=memory.recompute, parallel=memory.parallel, devices=processes,
        graphs=compiling and device.type == "cuda" and is_launch_bound(shape, tokens=seqs * shape.context),
    )  # fmt: skip


def _likes_native(device: torch.device, train: TrainConfig) -> bool:
    """Whether our kernels can be had for every precision that may be chosen."""
    narrow = train.precision == "bfloat16" or (
        train.precision == "auto" and _likes_bfloat16(device, math.inf)
    )
    kinds = [torch.bfloat16] * narrow + [torch.float32] * (train.precision != "bfloat16")
    return device.type == "cpu" and train.compile is not True and all(map(is_available, kinds))


def _check_native(device: torch.device, train: TrainConfig, dtype: torch.dtype) -> None:
    if (
        train.compile is True
    ):  # a traced model takes torch's kernels, and the record would not say so
        raise ConfigError(
            "train.attention: native kernels are compiled already; they cannot be had with train.compile=true. "
            "Set train.compile=false or train.attention=auto."
        )
    if device.type != "cpu" or not is_available(dtype):
        raise ConfigError(
            f"train.attention: native kernels for {str(dtype).removeprefix('torch.')} need a CPU with AVX-512 and a C++ compiler, and "
            f"this is {device}. Set train.attention=auto."
        )


def available_memory(device: torch.device) -> float:
    """Return the bytes that are free for this process; infinite where it cannot be known."""
    if device.type == "cuda":
        # what torch keeps of runs that ended in this process is free too
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    if device.type != "cpu":
        return math.inf
    return min(_free_by_meminfo(), _free_by_cgroup(), _free_by_ulimit())


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"train.device: {name!r} cannot be used ({first}). Set train.device=auto or cpu."
        ) from None
    return device


def _kept_precision(device: torch.device, train: TrainConfig) -> str:
    """The precision that activations are kept in, before the work of a pass is known."""
    if train.precision == "auto":
        return "bfloat16" if device.type == "cuda" and _likes_bfloat16(device, 0) else "float32"
    return train.precision


def _likes_bfloat16(device: torch.device, flops: float) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return (
        device.type == "cpu"
        and flops >= BF16_MIN_FLOPS
        and not cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16"})
    )


def _free_by_meminfo() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(
            float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration):
        pages = os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in os.sysconf_names else -1
        return float(pages * os.sysconf("SC_PAGE_SIZE")) if pages > 0 else math.inf


def _free_by_ulimit() -> float:
    """Address space that `ulimit -v` leaves to this process (Linux)."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return math.inf
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return math.inf
    return max(0.0, float(limit - pages * resource.getpagesize()))


def _free_by_cgroup() -> float:
    """Memory limit of a container or Slurm job less what it uses (cgroup v2)."""
    try:
        limit, used, stat = (
            (CGROUP / f"memory.{n}").read_text().strip() for n in ("max", "current", "stat")
        )
        # files that were read count as used until their room is wanted
        cached = sum(
            float(line.split()[1])
            for line in stat.splitlines()
            if line.startswith(("active_file ", "inactive_file "))
        )
        return math.inf if limit == "max" else float(limit) - float(used) + cached
    except (OSError, ValueError):
        return math.inf
