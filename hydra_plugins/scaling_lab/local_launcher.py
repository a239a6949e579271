"""Several runs at once on this machine: a process per place, each with its GPU or its share of cores.

Processes are loky's (joblib's engine). Each place has a pool of its own, so that a worker which is
killed takes nobody with it; its runs go on from their checkpoints in a new one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn

# Libraries that start a thread per core unless told otherwise.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class LocalLauncher(BasicLauncher):
    """Trains on every place of this machine; with one place, in this process.

    Args:
        n_jobs: runs at once; -1: one per core, or `per_gpu` on each GPU.
        per_gpu: runs at once on a GPU.
        gpus: which GPUs; null: all that are visible.
        retries: how often a job is started again when its worker is killed.
    """

    def __init__(
        self,
        n_jobs: int = -1,
        per_gpu: int = 1,
        gpus: Sequence[Any] | None = None,
        retries: int = 2,
    ) -> None:
        super().__init__()
        self.asked = {"n_jobs": n_jobs, "per_gpu": per_gpu, "gpus": gpus}
        self.retries = retries
        self.places: Any = None

    def prepare(self, plans: Sequence[Any]) -> int:
        """Choose the places for these plans, and say how many there are.

        Returns:
            How many runs will train at once.
        """
        from scaling.cli.progress import say
        from scaling.cli.workers import find_places, fit_places

        asked = find_places(self.asked, [p.config.train.device for p in plans])
        self.places = fit_places(asked, plans)
        say(self.places.note or f"{self.places.describe(len(plans))}.", file=sys.stderr)
        return len(self.places)

    @property
    def apart(self) -> bool:
        """Whether runs train in processes of their own."""
        return self.places is not None and self.places.gpus != (None,)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs; each has a result, also those whose workers were killed."""
        if self.places is None:
            from scaling.cli.workers import find_places

            self.places = find_places(self.asked, ["auto"])
        if not self.apart:
            return super().launch(job_overrides, initial_job_idx)
        assert self.config is not None
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        return _Crew(self).work(job_overrides, initial_job_idx)


class _Crew:
    """The worker processes of one launch, one per place."""

    def __init__(self, launcher: LocalLauncher) -> None:
        from hydra_plugins.scaling_lab._job import Parcel

        self.parcel, self.retries = Parcel.of(launcher), launcher.retries
        self.gpus = launcher.places.gpus
        self.pools: dict[int, Any] = {}  # by place

    def work(self, jobs: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Hand the next job to whichever place is free, until all have a result."""
        results: dict[int, JobReturn] = {}
        kills = dict.fromkeys(range(len(jobs)), 0)
        waiting = list(reversed(kills))
        running: dict[Future, tuple[int, int]] = {}
        try:
            while len(results) < len(jobs):
                for place in set(range(len(self.gpus))) - {p for p, _ in running.values()}:
                    if waiting:
                        job = waiting.pop()
                        running[self._start(place, first + job, jobs[job])] = (place, job)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    place, job = running.pop(future)
                    error = future.exception()
                    if isinstance(error, BrokenExecutor):
                        self._dismiss(place)
                        kills[job] += 1
                        if kills[job] <= self.retries:
                            _tell(len(jobs) - len(results))
                            waiting.append(job)
                            continue
                    results[job] = _result(future, jobs[job], kills[job])
        finally:
            for place in list(self.pools):
                self._dismiss(place)
        return [results[job] for job in sorted(results)]

    def _start(self, place: int, number: int, overrides: Sequence[str]) -> Future:
        from joblib.externals.loky import ProcessPoolExecutor

        from hydra_plugins.scaling_lab._job import run_parcel

        if place not in self.pools:
            from scaling.cli.stopping import leave_with_launcher

            self.pools[place] = ProcessPoolExecutor(
                max_workers=1, env=self._environment(place),
                initializer=leave_with_launcher, initargs=(os.getpid(),),
            )  # fmt: skip
        return self.pools[place].submit(run_parcel, self.parcel, number, list(overrides))

    def _environment(self, place: int) -> dict[str, str]:
        """Variables of a worker: its share of the cores, and its GPU."""
        from scaling.cli.workers import count_cores

        threads = str(max(1, count_cores() // len(self.gpus)))
        variables = {name: os.environ.get(name, threads) for name in _THREADS}
        gpu = self.gpus[place]
        return variables if gpu is None else variables | {"CUDA_VISIBLE_DEVICES": gpu}

    def _dismiss(self, place: int) -> None:
        """End a place's process; nothing of ours runs in it any more."""
        self.pools.pop(place).shutdown(wait=True, kill_workers=True)


def _tell(left: int) -> None:
    from scaling.cli.progress import say

    say(
        "a worker process was killed from outside, perhaps for want of memory; its runs go on in a new one "
        f"({left} jobs left).",
        file=sys.stderr,
    )


def _result(future: Future, overrides: Sequence[str], kills: int) -> JobReturn:
    """A job's result; or why there is none."""
    from hydra_plugins.scaling_lab._job import failed_job
    from scaling.study.errors import TrainError

    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, BrokenExecutor):
        text = (
            f"its worker process was killed from outside {kills} times, perhaps for want of memory. The same command "
            "goes on from the checkpoint; hydra.launcher.n_jobs=1 needs the least memory."
        )
    elif isinstance(error, SystemExit | KeyboardInterrupt):
        text = "its worker process was told to stop, and saved it. The same command goes on."
    else:
        text = f"its worker process could not run it ({type(error).__name__}: {error})."
    return failed_job(overrides, TrainError(text))
