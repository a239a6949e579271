"""Where this process stands among those that torchrun or srun launched together."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from scaling.study.errors import TrainError

DEFAULT_PORT = 29_500  # torchrun's


@dataclass(frozen=True)
class Place:
    """One process among those that were launched together.

    rank, size: of all; local_rank, local_size: on this machine; host, port: where they meet.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    port: int


def find_place(environ: Mapping[str, str] = os.environ) -> Place | None:
    """Read torchrun's or srun's variables; null for a process that was launched alone.

    Raises:
        TrainError: variables are missing or no numbers.
    """
    try:
        if "RANK" in environ and "WORLD_SIZE" in environ:
            place = _torchrun_place(environ)
        elif "SLURM_PROCID" in environ and not _is_batch_script(environ):
            place = _slurm_place(environ)
        else:
            return None
    except (KeyError, ValueError) as error:
        raise TrainError(
            f"train.parallel: the launcher's variables cannot be read ({error}). Launch with torchrun or srun, or set train.parallel=none."
        ) from None
    return place if place.size > 1 else None


def _torchrun_place(environ: Mapping[str, str]) -> Place:
    rank, size = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    return Place(
        rank=rank,
        size=size,
        local_rank=int(environ.get("LOCAL_RANK", str(rank))),
        local_size=int(environ.get("LOCAL_WORLD_SIZE", "1")),
        host=environ.get("MASTER_ADDR", "localhost"),
        port=int(environ.get("MASTER_PORT", DEFAULT_PORT)),
    )


def _slurm_place(environ: Mapping[str, str]) -> Place:
    """srun numbers its tasks; they meet on the first node, at a port that follows from the job."""
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "localhost")
    tasks = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE", "1")
    job, step = (int(environ.get(f"SLURM_{n}_ID", "0")) for n in ("JOB", "STEP"))
    # below the range that Linux gives to outgoing connections (32768 and up)
    port = 10_000 + (job + 977 * step) % 20_000
    return Place(
        rank=int(environ["SLURM_PROCID"]),
        size=int(environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS", "1")),
        local_rank=int(environ.get("SLURM_LOCALID", "0")),
        local_size=int(re.split(r"[(,]", tasks)[0]),
        host=environ.get("MASTER_ADDR") or first_host(nodes),
        port=int(environ.get("MASTER_PORT", str(port))),
    )


def _is_batch_script(environ: Mapping[str, str]) -> bool:
    """Whether this is a job's script itself, which has a rank but was not started by srun."""
    return "SLURM_JOB_ID" in environ and "SLURM_STEP_ID" not in environ


def first_host(nodes: str) -> str:
    """Return the first host of Slurm's list: `gpu[003-010,12],x1` begins with gpu003."""
    first = re.match(r"(?:[^\[,]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0]) if first else nodes


def is_first() -> bool:
    """Whether this process speaks for those launched with it (it is alone, or their first)."""
    place = find_place()
    return place is None or place.rank == 0
