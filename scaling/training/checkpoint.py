"""Checkpoints: everything a run needs to go on to the bit, in one checksummed safetensors file.

A file is written whole beside its final name and then renamed, so that a kill leaves either the
old or the new one. The last two are kept, so that a damaged one does not cost the run. Safetensors
hold numbers only: opening someone else's folder runs no code.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scaling.study.errors import CheckpointError

KEEP = 2
FOLDER = "checkpoint"
FULL = (errno.ENOSPC, errno.EDQUOT)
_NAME = re.compile(r"step-(\d+)\.safetensors")


@dataclass(frozen=True)
class Progress:
    """Where a run is, besides weights and moments.

    step: optimiser steps done. loss_sum and loss_count: training loss since the last row.
    seconds, train_seconds, row_seconds: time so far, its part in training steps, that since the
    last row. joules: energy so far; null: some of it is not known. shared: the same of the runs that
    are still on this run's trunk, by run id.
    """

    run_hash: str
    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    row_seconds: float = 0.0
    joules: float | None = None
    shared: dict[str, dict[str, Any]] = field(default_factory=dict)


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], progress: Progress) -> Path:
    """Write `checkpoint/step-N.safetensors` and drop all but the last two.

    Args:
        folder: the run's.
        tensors: what a learner's `tensors` returns.
        progress: where the run is.
    """
    path = folder / FOLDER / f"step-{progress.step:09d}.safetensors"
    values = asdict(progress)
    try:
        _write(path, tensors, values)
    except OSError as error:
        older = [p for p in list_checkpoints(folder) if p < path][1:]
        if (error.errno not in FULL and "os error 28" not in str(error)) or not older:
            raise
        _unlink(older)  # one is enough to go on from; its room may do
        _write(path, tensors, values)
    kept = list_checkpoints(folder)
    later = [p for p in kept if p > path]  # damaged, or of other text: else we would be there
    _unlink([*later, *[p for p in kept if p <= path][KEEP:]])
    return path


def load_checkpoint(
    folder: Path, take: Callable[[dict[str, Tensor]], None], *, run_hash: str
) -> tuple[Progress, list[str]]:
    """Hand the tensors of the newest whole checkpoint to `take`.

    Args:
        folder: the run's.
        take: takes them over, or raises CheckpointError if they do not fit.
        run_hash: what the checkpoint must belong to.

    Returns:
        The progress it stands for (step 0 if there is none) and what was wrong with newer ones.
    """
    problems = []
    for path in list_checkpoints(folder):
        try:
            tensors, values = _read(path)
            progress = _progress(path, values)
            _check_owner(path, progress, run_hash)
            take(tensors)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            return progress, problems
    return Progress(run_hash=run_hash), problems


def peek_checkpoint(folder: Path, *, run_hash: str) -> Progress | None:
    """Return the progress of the newest readable checkpoint without its tensors; null if none is.

    Damage inside the tensors shows only when they are loaded.
    """
    for path in list_checkpoints(folder):
        with contextlib.suppress(CheckpointError):
            progress = _progress(path, _values(path, _read_metadata(path)))
            _check_owner(path, progress, run_hash)
            return progress
    return None


def _progress(path: Path, values: Any) -> Progress:
    """Check that values of a file from anywhere are a progress."""
    try:
        return Progress(**values)
    except TypeError as error:
        raise _damaged(path, error) from None


def _check_owner(path: Path, progress: Progress, run_hash: str) -> None:
    if progress.run_hash != run_hash:
        raise CheckpointError(f"{path}: belongs to run {progress.run_hash}, not to {run_hash}.")


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the training checkpoints of a run, newest first."""
    return sorted(
        (p for p in (folder / FOLDER).glob("step-*") if _NAME.fullmatch(p.name)), reverse=True
    )


def save_weights(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write the final weights, out of a learner's `tensors`, as `checkpoint/model.safetensors`."""
    path = folder / FOLDER / "model.safetensors"
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    _write(path, weights, {})
    return path


def load_weights(folder: Path, model: nn.Module) -> None:
    """Read the final weights of a finished run into a model of the same shape.

    Raises:
        CheckpointError: no weights there, damaged, or of another shape.
    """
    tensors, _ = _read(folder / FOLDER / "model.safetensors")
    copy_parameters(model, tensors)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the final weights of a finished run by name.

    Raises:
        CheckpointError: no weights there, or damaged.
    """
    return _read(folder / FOLDER / "model.safetensors")[0]


def remove_checkpoints(folder: Path) -> None:
    """Delete the training checkpoints of a finished run (the final weights stay)."""
    _unlink(list_checkpoints(folder))


def remove_parts(folder: Path) -> None:
    """Delete half-written files that a kill has left; only for the process that holds the claim."""
    _unlink((folder / FOLDER).glob(".*.safetensors.*"))
    for name in ("run.json", "metrics.jsonl", "config.yaml", "writable"):
        _unlink(folder.glob(f".{name}.*"))


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def copy_parameters(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
    """Copy tensors into the parameters of the same names.

    Raises:
        CheckpointError: one is missing or of another shape.
    """
    for name, parameter in model.named_parameters():  # all, before the first is changed
        value = tensors.get(prefix + name)
        if value is None or value.shape != parameter.shape:
            found = "not there" if value is None else f"of shape {tuple(value.shape)}"
            raise CheckpointError(
                f"checkpoint: {name} is {found}; the model has {tuple(parameter.shape)}. Delete the folder."
            )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[prefix + name])


def _write(path: Path, tensors: Mapping[str, Tensor], values: dict) -> None:
    """Write tensors, values and a checksum of both; on disk before it has its name."""
    tensors = {n: t.detach().contiguous().cpu() for n, t in tensors.items()}
    text = json.dumps(values, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, part, metadata={"progress": text, "sha256": _digest(tensors, text)})
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(part, 0o644)  # as all else in the folder; safetensors makes it the user's alone
        os.replace(part, path)
        _sync_folder(path.parent)  # the name is on disk before an older one is deleted
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(None, str(error), str(path)) from None
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    metadata = _read_metadata(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    values = _values(path, metadata)
    if metadata.get("sha256") != _digest(tensors, metadata["progress"]):
        raise _damaged(path, "checksum differs")
    return tensors, values


def _values(path: Path, metadata: Mapping[str, str]) -> dict:
    try:
        values: dict = json.loads(metadata["progress"])
    except json.JSONDecodeError as error:
        raise _damaged(path, error) from None
    return values


def _sync_folder(folder: Path) -> None:
    """Bring a folder's entries to disk, where the system can open a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _read_metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: not there. Train the run with train.keep_checkpoint=true."
        ) from None
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None
    if "progress" not in metadata:
        raise _damaged(path, "no progress in it")
    return metadata


def _damaged(path: Path, why: object) -> CheckpointError:
    return CheckpointError(
        f"{path}: damaged ({why}). Delete it; the run goes on from an older one."
    )


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
