"""One job of a sweep in whichever process it reaches, and what became of it.

Hydra's scan for plugins passes over this module, as its name begins with an underscore.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


@dataclass(frozen=True)
class Parcel:
    """What a process needs of the launching one to run jobs as Hydra does; it can be pickled."""

    context: HydraContext
    config: DictConfig
    task: TaskFunction
    singletons: dict[Any, Any]
    key: str  # of the launch

    @classmethod
    def of(cls, launcher: Any) -> Parcel:
        """Take it from a launcher after its `setup`."""
        setup_globals()
        state = Singleton.get_state()
        return cls(
            launcher.hydra_context, launcher.config, launcher.task_function, state, uuid.uuid4().hex
        )


def run_parcel(parcel: Parcel, number: int, overrides: Sequence[str]) -> JobReturn:
    """Compose one job's configuration in this worker process and run it.

    Args:
        parcel: of the launching process.
        number: the job's place in the launch.
        overrides: what makes this job.
    """
    _take_state(parcel)
    config = parcel.context.config_loader.load_sweep_config(parcel.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id = f"{config.hydra.job.name}_{number}"
        config.hydra.job.num = number
    HydraConfig.instance().set_config(config)
    return run_job(
        task_function=parcel.task, config=config, job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir", hydra_context=parcel.context,
    )  # fmt: skip


_taken: list[str] = []  # the launch whose state this process has


def _take_state(parcel: Parcel) -> None:
    """Become what the launching process is to Hydra, once: it looks for all plugins again."""
    if _taken != [parcel.key]:
        setup_globals()
        Singleton.set_state(parcel.singletons)
        _taken[:] = [parcel.key]


def failed_job(overrides: Sequence[str], error: Exception) -> JobReturn:
    """Return what Hydra returns of a job that raised, for one whose process did not live to say so."""
    result = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    result.return_value = error
    return result
