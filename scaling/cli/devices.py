"""What this machine trains on, as a process of its own reports it: PyTorch may crash or hang there alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaling.cli.finding import Finding
from scaling.study.units import format_bytes
from scaling.training.cpu import cpu_flags, cpu_name

SECONDS = 60.0  # PyTorch takes 1 to 3 s to load, a minute from a cold network file system
LITTLE = 1 * 2**30  # bytes of memory: a toy takes 0.5 GiB, PyTorch with it
DRIVER = Path("/proc/driver/nvidia/version")
FIND_TORCH = "the command for this machine is at https://pytorch.org/get-started/locally"
# What runs of each kind need besides, loaded to see that it is whole.
TRAINING = ("hydra", "omegaconf", "yaml", "tokenizers", "safetensors.torch", "rich")
ANALYSIS = ("scipy.optimize", "pandas", "matplotlib")


class Inquiry:
    """A Python process that is asked something; it runs while other things are looked at."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        self._end = threading.Timer(SECONDS, self._process.kill)
        self._end.daemon = True
        self._end.start()

    def answer(self) -> tuple[str, str]:
        """Wait; return what it printed, and what went wrong (empty: nothing)."""
        out, err = self._process.communicate()
        late = not self._end.is_alive()
        self._end.cancel()
        if late:
            return out, f"no answer in {SECONDS:.0f} s"
        if self._process.returncode < 0:
            return out, f"ended by {signal.Signals(-self._process.returncode).name}"
        last = (err.strip().splitlines() or ["failed"])[-1]
        return out, last if self._process.returncode else ""


def ask_torch() -> Inquiry:
    """Start looking at what PyTorch finds."""
    return Inquiry("-c", f"import {', '.join(TRAINING)}\nimport runpy\nrunpy.run_module('scaling.training.probe', run_name='__main__')")  # fmt: skip


def ask_analysis() -> Inquiry:
    """Start loading what fits and figures need."""
    return Inquiry("-c", f"import {', '.join(ANALYSIS)}")


def check_analysis(inquiry: Inquiry) -> Finding:
    """Say whether fits and figures can be made."""
    _, trouble = inquiry.answer()
    if trouble:
        return Finding("fits, figures", trouble, "fail", f"{sys.executable} -m pip install --force-reinstall scipy pandas matplotlib", trains=False)  # fmt: skip
    return Finding("fits, figures", "scipy, pandas, matplotlib load", trains=False)


def check_torch(inquiry: Inquiry) -> Iterator[Finding]:
    """Yield what PyTorch can use: processor, memory, GPUs."""
    out, trouble = inquiry.answer()
    if trouble:
        yield Finding("PyTorch", trouble, "fail", f"install it again: {FIND_TORCH}")
        return
    seen = json.loads(out.strip().splitlines()[-1])
    if seen["trouble"]:
        yield Finding("PyTorch", f"{seen['torch']}: {seen['trouble']}", "fail", f"install it again: {FIND_TORCH}")  # fmt: skip
    else:
        yield Finding("PyTorch", f"{seen['torch']}, computes")
    yield check_cpu(seen["threads"], seen["obstacle"])
    yield check_memory(seen["memory"])
    yield from check_gpus(seen)


def check_cpu(threads: int, obstacle: str | None) -> Finding:
    """Say what the processor brings: cores, bfloat16, our kernels."""
    narrow = not cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16"})
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [
        cpu_name(),
        f"{usable} cores",
        f"{threads} threads",
        "bfloat16" if narrow else "float32 only",
    ]
    if obstacle is None:
        return Finding("processor", ", ".join([*parts, "compiled kernels"]))
    cure = (
        "about twice as fast on CPU with a compiler: apt install g++ (on a cluster: module load gcc)"
        if "compiler" in obstacle
        else ""
    )
    verdict = "warn" if cure else "ok"
    return Finding(
        "processor", ", ".join([*parts, f"PyTorch's kernels ({obstacle})"]), verdict, cure
    )


def check_memory(free: float) -> Finding:
    """Say how much memory there is for runs; of a container or job, what it leaves."""
    found = f"{format_bytes(free)} free"
    if free < LITTLE:
        return Finding("memory", found, "warn", "end other programs, or run fewer at once: SCALING_JOBS=1 scaling train SWEEP")  # fmt: skip
    return Finding("memory", found)


def check_gpus(seen: dict[str, Any]) -> Iterator[Finding]:
    """Yield each GPU; or why PyTorch sees none where there is one."""
    for number, gpu in enumerate(seen["gpus"]):
        kind = "bfloat16" if gpu["bfloat16"] else "float32 only"
        found = f"{gpu['name']}, {format_bytes(gpu['free'])} of {format_bytes(gpu['total'])} free, {kind}"
        if gpu["trouble"]:
            yield Finding(f"GPU {number}", f"{found}: {gpu['trouble']}", "fail", f"another GPU: CUDA_VISIBLE_DEVICES=1; the processor: train.device=cpu; {FIND_TORCH}")  # fmt: skip
        elif gpu["free"] < 0.1 * gpu["total"]:
            yield Finding(f"GPU {number}", found, "warn", "somebody uses it (nvidia-smi shows who); choose others: CUDA_VISIBLE_DEVICES=1")  # fmt: skip
        else:
            yield Finding(f"GPU {number}", found)
    if seen["gpus"]:
        return
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        yield Finding("GPU", "none; runs train on the processor")
    elif os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        yield Finding(
            "GPU", "hidden by CUDA_VISIBLE_DEVICES", "warn", "to use it: unset CUDA_VISIBLE_DEVICES"
        )
    else:
        built = (
            f"built for CUDA {seen['cuda']}" if seen["cuda"] else "built for the processor alone"
        )
        yield Finding("GPU", f"there is one, and PyTorch ({built}) cannot use it; {driver()}", "warn", f"install PyTorch for this driver: {FIND_TORCH}")  # fmt: skip


def driver(path: Path = DRIVER) -> str:
    """Return NVIDIA's driver version, as the driver tells it."""
    try:
        words = path.read_text(errors="replace").split("\n")[0].split()
    except OSError:
        return "its driver is not loaded"
    numbers = [w for w in words if w[:1].isdigit() and "." in w]
    return f"driver {numbers[0]}" if numbers else "driver of an unknown version"
