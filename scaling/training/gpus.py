"""Which GPUs this process may use, and what memory is free; torch is loaded only where it must be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# Device files that a driver makes, also in a container, for the GPUs it gives: NVIDIA's, Windows
# Subsystem for Linux's, AMD's. Without any of them torch need not be asked, whose import takes seconds.
_FILES = ("nvidia[0-9]*", "dxg", "kfd")


def visible_gpus(environ: Mapping[str, str] = os.environ, *, devices: Path = Path("/dev")) -> list[str]:  # fmt: skip
    """Return the GPUs that torch would see, as CUDA_VISIBLE_DEVICES names them.

    Args:
        environ: the process's variables. A number, a UUID or a MIG instance stays as it is named there.
        devices: the folder of device files.
    """
    if not any(True for pattern in _FILES for _ in devices.glob(pattern)):
        return []
    import torch

    count = torch.cuda.device_count()
    named = environ.get("CUDA_VISIBLE_DEVICES")
    names = [] if named is None else [n.strip() for n in named.split(",")]
    return names[:count] if named is not None else [str(i) for i in range(count)]


def free_memory(*, gpus: bool) -> float:
    """Return the bytes that are free for new processes here: of the fullest GPU, or of the machine."""
    import torch

    from scaling.training.device import available_memory

    if not gpus:
        return available_memory(torch.device("cpu"))
    return min(available_memory(torch.device("cuda", i)) for i in range(torch.cuda.device_count()))
