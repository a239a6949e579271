"""Hydra's launcher for Slurm: hands whole jobs to submitit, and need not wait for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from scaling.cli.jobs import Job
    from scaling.cli.submissions import Submission


class SlurmLauncher(Launcher):
    """Takes the keys of conf/hydra/launcher/slurm.yaml.

    A sweep calls `submit`, which returns when Slurm has the jobs; Hydra's own `launch` would have to
    stay until they end.
    """

    def __init__(self, **settings: Any) -> None:
        plain = OmegaConf.to_container(OmegaConf.create(settings), resolve=True)
        assert isinstance(plain, dict)
        self.settings = {str(key): value for key, value in plain.items()}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's context is not needed: jobs carry checked configurations."""

    @property
    def wait(self) -> bool:
        """Whether a launch stays until the jobs have ended."""
        return bool(self.settings["wait"])

    def submit(self, jobs: Sequence[Job], folder: Path) -> list[Submission]:
        """Submit jobs; see `scaling.cli.slurm.submit_jobs`."""
        from scaling.cli.slurm import submit_jobs

        return submit_jobs(jobs, folder, self.settings)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from scaling.study.errors import ConfigError

        raise ConfigError(
            "hydra/launcher=slurm submits sweeps of `scaling train`. For another application take hydra/launcher=submitit_slurm."
        )
