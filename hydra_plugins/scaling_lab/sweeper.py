"""Hydra's sweeper for sweeps of runs: any shape of design, and only what is still missing."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RunsSweeper(Sweeper):
    """Expands overrides x design into runs and hands the missing ones to Hydra's launcher."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from scaling.cli.sweep import run_sweep

        return run_sweep(self.config, arguments, self.launcher, self.hydra_context.config_loader)
