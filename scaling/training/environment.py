"""Where and with what code a run is trained, as its record keeps it: no user, no host, no path."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scaling.study.record import RunRecord

_PACKAGE = Path(__file__).parents[1]
_ROOT = Path(__file__).parents[2]  # of a checkout; in an installed package there is no .git
_CODE = ("scaling", "hydra_plugins")  # folders whose changes can change a run's numbers
_TRAINING, _SOURCES = ("study", "training"), (".py", ".cpp", ".h")  # what trains
_SECONDS = 10  # a git that takes longer is on a share that hangs
_JOB = "job"  # another job on the same machines is no other life

# who started this process, by the variable that it sets; the first that is set
_LAUNCHERS = (
    ("SLURM_JOB_ID", "slurm"),
    ("RAY_JOB_ID", "ray"),
    ("RAY_RAYLET_PID", "ray"),  # what a worker of Ray 2 has
    ("TORCHELASTIC_RUN_ID", "torchrun"),
    ("SCALING_LAUNCHER", "local"),
)
# what tells that this is a container: a file, or a variable
_CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")
_CONTAINER_VARIABLES = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER", "KUBERNETES_SERVICE_HOST")


@functools.cache
def find_software() -> dict[str, str]:
    """Return versions of all that computes, and the commit of a checkout.

    `dirty`, where the checkout has changes: a hash of them, so that two runs of the same changes
    can be told from two runs of different ones.
    """
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "code": hash_code(),
    }
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    with contextlib.suppress(metadata.PackageNotFoundError):  # a checkout that is not installed
        versions["scaling"] = metadata.version("scaling-lab")
    if (_ROOT / ".git").exists():
        versions |= git_state(_ROOT)
    return versions


def hash_code() -> str:
    """Return a hash of the files that train: the same in a checkout and in an installed package.

    A commit changes with every document; this changes only where numbers could.
    """
    digest = hashlib.sha256()
    for folder in _TRAINING:
        for file in sorted((_PACKAGE / folder).rglob("*")):
            if file.suffix in _SOURCES:
                digest.update(file.relative_to(_PACKAGE).as_posix().encode() + b"\0")
                digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def git_state(root: Path) -> dict[str, str]:
    """Return the commit of a checkout, and a hash of what was changed since; empty without git."""
    try:
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        changes = _git(root, "diff", "HEAD", "--no-ext-diff", "--", *_CODE)
        new = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *_CODE)
        for name in sorted(filter(None, new.split(b"\0"))):
            changes += name + b"\0" + (root / os.fsdecode(name)).read_bytes()
    except (OSError, subprocess.SubprocessError):  # no git, no commit yet, a file that vanished
        return {}
    if not changes:
        return {"commit": commit}
    return {"commit": commit, "dirty": hashlib.sha256(changes).hexdigest()[:12]}


def _git(root: Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, check=True, timeout=_SECONDS).stdout


def find_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what kind of machine this is and who launched this process.

    Returns:
        os, machine, cpu, cores, gpu (where there is one), container (where it is one), launcher
        (slurm, ray, torchrun, local, process) and Slurm's job id.
    """
    found = _machine() | {"launcher": _launcher(environ)}
    if any(name in environ for name in _CONTAINER_VARIABLES) or any(
        os.path.exists(file) for file in _CONTAINER_FILES
    ):
        found["container"] = "yes"
    job = environ.get("SLURM_ARRAY_JOB_ID")
    if job and "SLURM_ARRAY_TASK_ID" in environ:
        found[_JOB] = f"{job}_{environ['SLURM_ARRAY_TASK_ID']}"
    elif "SLURM_JOB_ID" in environ:
        found[_JOB] = environ["SLURM_JOB_ID"]
    return found


def _launcher(environ: Mapping[str, str]) -> str:
    return next((name for variable, name in _LAUNCHERS if environ.get(variable)), "process")


@functools.cache
def _machine() -> dict[str, str]:
    found = {
        "os": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": str(os.cpu_count()),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return {key: value for key, value in found.items() if value}


def _cpu_name() -> str:
    """The processor's name where Linux tells it, else what Python knows."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def earlier_lives(
    before: RunRecord, now: Mapping[str, Any], *, step: int, at: str | None
) -> list[dict[str, Any]] | None:
    """Return the lives of a run that goes on, the one that has ended included.

    A life ends where a run goes on with other software or on another kind of machine. One that
    goes on as it was, also in another job, is the same life.

    Args:
        before: the record that is there; now: software and environment from here on.
        step: where the run goes on; at: when it was last heard of [UTC].
    """
    lives = list(before.lives or [])
    old = {"software": before.software, "environment": before.environment}
    told = bool(before.software or before.environment)
    if told and not (
        old["software"] == now["software"]
        and _without_job(old["environment"]) == _without_job(now["environment"])
    ):
        lives.append({"until_step": step, "until": at, **old})
    return lives or None


def _without_job(environment: Mapping[str, str] | None) -> dict[str, str]:
    return {key: value for key, value in (environment or {}).items() if key != _JOB}
