"""Runs as tasks of Ray, which schedules them, and starts again those whose worker or machine died.

Ray is imported only when a sweep is launched on it. Nothing is sent but configurations: the package
and the results folder have to be on every machine, under the same path.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

# Records go to files; what passes through Ray's memory are configurations. Ray's own default is 30 %
# of the machine, its least 75 MiB.
_STORE_BYTES = 100 * 2**20
_ANSWER = 10.0  # s for a cluster to take a connection
_PATIENCE = 60.0  # s for runs to save after Ctrl-C; a second one ends at once


class RayLauncher(Launcher):
    """Trains each job as a task of a Ray cluster.

    Args:
        address: of the cluster; null: one on this machine, for this sweep.
        num_cpus, num_gpus, memory, resources: what Ray keeps for a job.
        max_retries: how often a job is started again when its worker or machine dies.
        init: more arguments of `ray.init`.
    """

    apart = False  # workers are Ray's children, and are told by Ray

    def __init__(
        self,
        address: str | None = None,
        num_cpus: float = 1,
        num_gpus: float | None = None,
        memory: float | None = None,
        resources: Mapping[str, float] | None = None,
        max_retries: int = 3,
        init: Mapping[str, Any] | None = None,
    ) -> None:
        self.address, self.init = address, dict(init or {})
        self.needs: dict[str, Any] = {
            "num_cpus": num_cpus, "num_gpus": num_gpus, "memory": memory,
            "resources": dict(resources or {}), "max_retries": max_retries,
        }  # fmt: skip

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def prepare(self, plans: Sequence[Any]) -> int | None:
        """Connect, settle what each job is given, and say how many run at once.

        Returns:
            How many jobs the cluster takes at once as it is; null if none, until it grows.

        Raises:
            ConfigError: Ray is not installed, not reached, or its own cluster here is too small.
        """
        from scaling.cli.progress import say

        ray = self._connect()
        has, nodes = ray.cluster_resources(), [n["Resources"] for n in ray.nodes() if n["Alive"]]
        wants_gpu = any(p.config.train.device != "cpu" for p in plans)
        if self.needs["num_gpus"] is None:
            self.needs["num_gpus"] = int(wants_gpu and has.get("GPU", 0) >= 1)
        if self.needs["memory"] is None:
            self.needs["memory"] = self._memory(plans, nodes)
        wanted = self._wanted()
        at_once = sum(_fits(node, wanted) for node in nodes)
        where = f"Ray at {self.address}" if self.address else "Ray on this machine"
        if not at_once:
            self._refuse_or_wait(where, wanted, has)
            return None
        say(f"{where}: {at_once} runs at once ({_describe(wanted)} each).", file=sys.stderr)
        return at_once

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs; each has a result, also those that Ray gave up."""
        from hydra_plugins.scaling_lab._job import Parcel

        ray = self._connect()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        options = {k: v for k, v in self.needs.items() if v is not None}
        task = ray.remote(**options)(run_task)
        parcel, place = ray.put(Parcel.of(self)), Place.here()
        tasks = [
            task.remote(parcel, place, initial_job_idx + i, list(o))
            for i, o in enumerate(job_overrides)
        ]
        with _cancelling(ray, tasks):
            waiting = tasks
            while waiting:  # a moment at a time, so that signals are heard
                _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=0.5)
            return [_result(ray, t, o) for t, o in zip(tasks, job_overrides, strict=True)]

    def _connect(self) -> Any:
        """Return ray, connected; once per process."""
        from scaling.study.errors import ConfigError

        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                f"hydra/launcher=ray: Ray cannot be imported ({error}). pip install 'scaling-lab[ray]', "
                "or take hydra/launcher=local."
            ) from None
        if ray.is_initialized():
            return ray
        own: dict[str, Any] = {"configure_logging": True, "logging_level": "ERROR", "log_to_driver": False}  # fmt: skip
        if self.address is None:
            own |= {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
        try:
            _check_port(self.address or "")
            ray.init(address=self.address or "local", **(own | self.init))
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"hydra.launcher.address: Ray cannot be reached or started with {self.address!r} ({error}). Start a cluster "
                "with `ray start --head`, or leave the address out."
            ) from None
        return ray

    def _memory(self, plans: Sequence[Any], nodes: Sequence[Mapping[str, float]]) -> float | None:
        """Bytes to keep for a job on cores, where some machine has so many; else leave it to the run."""
        if self.needs["num_gpus"]:
            return None  # its own memory decides, which Ray does not count
        from scaling.cli.workers import largest_job

        workers = sum(_fits(node, self._wanted()) for node in nodes)
        need = largest_job(plans, workers=workers)
        return need if any(node.get("memory", 0) >= need for node in nodes) else None

    def _wanted(self) -> dict[str, float]:
        names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        own = {names[k]: v for k, v in self.needs.items() if k in names and v}
        return own | self.needs["resources"]

    def _refuse_or_wait(self, where: str, wanted: dict[str, float], has: dict[str, float]) -> None:
        """No machine can take a job: a cluster of ours will not grow, another may."""
        from scaling.cli.progress import say
        from scaling.study.errors import ConfigError

        offered = _describe({k: has.get(k, 0) for k in wanted})
        text = f"{where}: no machine has the {_describe(wanted)} that a run asks for (all together: {offered})."
        if self.address is None:
            raise ConfigError(
                f"hydra.launcher: {text} Ask for less, e.g. hydra.launcher.num_gpus=0."
            )
        say(f"{text} Waiting for one that has; Ctrl-C ends it.", file=sys.stderr)


def _check_port(address: str) -> None:
    """Raise OSError where nobody listens; Ray itself tries for more than ten minutes, and says little."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()


class Place:
    """Where the launching process stands: its folder, and its variables that runs read."""

    def __init__(self, folder: str, variables: dict[str, str]) -> None:
        self.folder, self.variables = folder, variables

    @classmethod
    def here(cls) -> Place:
        own = {k: v for k, v in os.environ.items() if k.startswith("SCALING_")}
        return cls(os.getcwd(), own)

    def enter(self) -> None:
        """Stand there, in a worker.

        Raises:
            TrainError: the folder is not on this machine.
        """
        from scaling.study.errors import TrainError

        os.environ.update(self.variables)
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise TrainError(
                f"{self.folder}: not on machine {os.uname().nodename} ({error.strerror}). Ray's machines have to share the "
                "folder that the sweep is started from, under the same path."
            ) from None


def run_task(parcel: Any, place: Place, number: int, overrides: Sequence[str]) -> JobReturn:
    """Run one job; this is what a worker of Ray executes."""
    from hydra_plugins.scaling_lab._job import failed_job, run_parcel
    from scaling.study.errors import TrainError

    try:
        place.enter()
    except TrainError as error:
        return failed_job(overrides, error)
    return run_parcel(parcel, number, overrides)


@contextmanager
def _cancelling(ray: Any, tasks: Sequence[Any]) -> Iterator[None]:
    """While tasks run, let a notice to this process end with saved runs.

    Ray passes a cancellation on as Ctrl-C, which the trainer answers with a checkpoint.
    """
    from scaling.cli.progress import say

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        say("\nstopping: runs in progress save where they are", file=sys.stderr)
        for task in tasks:
            ray.cancel(task)
        ray.wait(tasks, num_returns=len(tasks), timeout=_PATIENCE)
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _result(ray: Any, task: Any, overrides: Sequence[str]) -> JobReturn:
    """A job's result; or why Ray has none."""
    from hydra_plugins.scaling_lab._job import failed_job
    from scaling.study.errors import TrainError

    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return failed_job(
            overrides,
            TrainError(
                f"Ray gave it up ({type(error).__name__}: {first}). The same command goes on from the checkpoint."
            ),
        )


def _fits(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """How many jobs a machine takes at once; a share of a GPU is never of two."""
    counts = []
    for name, need in wanted.items():
        has = node.get(name, 0.0)
        share = name == "GPU" and 0 < need < 1
        counts.append(int(has) * int(1 / need + 1e-9) if share else int(has / need + 1e-9))
    return min(counts, default=1)


def _describe(resources: Mapping[str, float]) -> str:
    from scaling.study.units import format_bytes

    return ", ".join(
        f"{format_bytes(v)} of memory" if k == "memory" else f"{v:g} {k}"
        for k, v in resources.items()
    )
