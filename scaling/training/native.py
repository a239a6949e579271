"""The compiled kernels of native.cpp: built once per machine, loaded once per process.

A C++ compiler turns the source into a library in the user's cache folder (3 s); later processes
load it at once. Where there is no compiler, or no AVX-512, `is_available` says no and the engine
takes torch's own kernels: nothing depends on these but speed.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaling.training.cpu import cpu_flags
from scaling.training.data.cache import cache_folder

SOURCE = Path(__file__).with_name("native.cpp")
# What the source uses without asking; bfloat16 needs avx512_bf16 too.
NEEDED = {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
# Trapping and errno are off because nothing here reads them; arithmetic keeps its order.
OPTIONS = (
    "-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC",
)  # fmt: skip
BUILD_SECONDS = 120  # a build takes 3 to 10 s; a compiler that hangs is given up

_P, _I, _L, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
# Arguments before (first, last), as in native.cpp.
_SIGNATURES: dict[str, list[Any]] = {
    "attention_forward": [_P] * 4 + [_F] + [_I] * 4,
    "attention_backward": [_P] * 6 + [_F] + [_I] * 4,
    "norm_forward": [_P, _P, _F, _P, _P, _F, _I, _P, _P, _P, _P, _L],
    "norm_backward": [_P] * 6 + [_F, _I, _I] + [_P] * 3 + [_L],
    "act_forward": [_P] * 3 + [_I],
    "act_backward": [_P] * 5 + [_I],
    "loss_forward": [_P] * 4 + [_L],
    "loss_backward": [_P] * 5 + [_L],
    "squares": [_P] * 3,
    "adamw": [_P] * 7 + [_F] * 3,
}
_KINDS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def is_available(dtype: torch.dtype = torch.float32) -> bool:
    """Return whether the kernels can be used here for a kind of number; builds them if need be."""
    if dtype not in _KINDS or (dtype == torch.bfloat16 and "avx512_bf16" not in cpu_flags()):
        return False
    # an older compiler builds the library without bfloat16, whatever the CPU can do
    return hasattr(_library(), f"attention_forward_{_KINDS[dtype]}")


@dataclasses.dataclass(frozen=True)
class Each:
    """An argument of which every thread gets a row of its own, such as sums over its part."""

    rows: Tensor


@dataclasses.dataclass(frozen=True)
class OfGroup:
    """An argument [groups, ...] of which each group of rows gets its own row, such as a model's gains."""

    rows: Tensor


def parts(count: int) -> int:
    """Return over how many threads `call` splits so many rows."""
    return max(1, min(torch.get_num_threads(), count))


Argument = Tensor | Each | OfGroup | float | None


def call(name: str, dtype: torch.dtype, *arguments: Argument, count: int, groups: int = 1) -> None:
    """Run a kernel over rows 0 to `count`, split over torch's threads.

    Args:
        name: of the function in native.cpp, without the kind of number.
        dtype: float32 or bfloat16, that of the tensors that are not always float32.
        arguments: contiguous tensors (null: none) and numbers, in the function's order.
        count: rows, heads or elements there are.
        groups: equal parts of the rows that differ in what is given as `OfGroup`.
    """
    rows = count // groups
    function, threads = _function(f"{name}_{_KINDS[dtype]}"), parts(rows)

    def run(part: int) -> None:
        first, last = rows * part // threads, rows * (part + 1) // threads
        values = [_value(a, part) for a in arguments]
        steps = [(at, _step(a)) for at, a in enumerate(arguments) if groups > 1 and _step(a)]
        for group in range(groups):
            function(*values, group * rows + first, group * rows + last)
            for at, step in steps:
                values[at] += step

    if threads == 1:
        run(0)
    else:
        list(_pool(threads).map(run, range(threads)))


def _value(argument: Argument, part: int) -> Any:
    """Return what the first group is called with."""
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    if isinstance(argument, OfGroup):
        return argument.rows.data_ptr()
    if isinstance(argument, Each):
        return argument.rows[part].data_ptr()
    return argument


def _step(argument: Argument) -> int:
    """Return by how many bytes an argument moves from one group to the next."""
    if isinstance(argument, Each):
        return argument.rows.stride(1) * argument.rows.element_size()
    if isinstance(argument, OfGroup):
        return argument.rows.stride(0) * argument.rows.element_size()
    return 0


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="scaling-native")


@functools.cache
def _function(name: str) -> Callable[..., None]:
    library = _library()
    assert library is not None, "is_available() was not asked"
    function = getattr(library, name)
    function.restype = None
    function.argtypes = [*_SIGNATURES[name.rsplit("_", 1)[0]], _L, _L]
    found: Callable[..., None] = function
    return found


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Load the library, built first if it is not there; null where that is not possible."""
    if not cpu_flags() >= NEEDED:
        return None
    compiler, path = _compiler(), _place()
    try:
        if not path.exists():
            if compiler is None:
                return None
            _build(compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):  # no room, no permission, a compiler too old
        return None


def find_obstacle() -> str | None:
    """Return why the kernels cannot be had on this machine, without building them; null if they can."""
    if missing := NEEDED - cpu_flags():
        return f"the CPU has no {', '.join(sorted(missing))}"
    return None if _compiler() or _place().exists() else "no C++ compiler (c++, g++, clang++)"


def _compiler() -> str | None:
    return next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)


def _place() -> Path:
    """Where the library is or will be; a folder may be shared by machines, so the name tells what it is built for."""
    options = repr((OPTIONS, sorted(cpu_flags()))).encode()
    key = hashlib.sha256(b"|".join([SOURCE.read_bytes(), options]))
    return cache_folder(None) / "native" / f"{key.hexdigest()[:16]}.so"


def _build(compiler: str, path: Path) -> None:
    """Compile beside the final name and rename, so that no process loads half a library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(handle)
    try:
        command = [compiler, *OPTIONS, str(SOURCE), "-o", temporary]
        subprocess.run(command, check=True, capture_output=True, timeout=BUILD_SECONDS)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
