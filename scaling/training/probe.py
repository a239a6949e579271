"""What PyTorch finds on this machine, as JSON: run as a process of its own, which may crash or hang alone.

python -m scaling.training.probe
"""

from __future__ import annotations

import json
from typing import Any

import torch

from scaling.training.device import available_memory
from scaling.training.native import find_obstacle


def probe() -> dict[str, Any]:
    """Return versions, devices, free memory [bytes], and what went wrong in a small computation."""
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "memory": available_memory(torch.device("cpu")),
        "obstacle": find_obstacle(),
        "trouble": _compute("cpu"),
        "gpus": [_gpu(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else [],
    }  # fmt: skip


def _gpu(number: int) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info(number)
    return {
        "name": torch.cuda.get_device_name(number),
        "free": free,
        "total": total,
        "bfloat16": torch.cuda.get_device_capability(number) >= (8, 0),
        "trouble": _compute(f"cuda:{number}"),
    }


def _compute(device: str) -> str:
    """Multiply and differentiate; return what PyTorch says against it."""
    try:
        weights = torch.ones(8, 8, device=device, requires_grad=True)
        (weights @ weights).sum().backward()
        right = weights.grad is not None and float(weights.grad.sum()) == 1024.0
        return "" if right else "a product has the wrong value"
    except RuntimeError as error:
        return str(error).splitlines()[0]


if __name__ == "__main__":
    print(json.dumps(probe()))
