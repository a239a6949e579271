"""Lets Hydra read a folder of sweep files as the config group `sweeps`, and see nothing else there.

A plain search path would turn every folder beside `sweeps/` (data, results, tests ...) into a
config group and clash with keys of the same name.
"""

from __future__ import annotations

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from omegaconf import DictConfig

GROUP = "sweeps"


class SweepsSource(FileConfigSource):
    """`sweeps:///path/to/folder`: its files are `sweeps/<name>`."""

    @staticmethod
    def scheme() -> str:
        return "sweeps"

    def load_config(self, config_path: str) -> ConfigResult:
        inside = self._inside(config_path)
        if inside is None:
            raise ConfigLoadError(f"Config not found : {config_path}")
        try:
            return _named(super().load_config(inside), inside)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigLoadError(
                f"{self.path}/{inside}.yaml: not readable as YAML ({error}). Correct the file."
            ) from None

    def available(self) -> bool:
        return super().is_group("")

    def is_group(self, config_path: str) -> bool:
        inside = self._inside(config_path)
        return config_path == "" or (inside is not None and super().is_group(inside))

    def is_config(self, config_path: str) -> bool:
        inside = self._inside(config_path)
        return bool(inside) and super().is_config(inside)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        inside = self._inside(config_path)
        if inside is None:
            return (
                [GROUP] if config_path == "" and results_filter in (None, ObjectType.GROUP) else []
            )
        return super().list(inside, results_filter)

    @staticmethod
    def _inside(config_path: str) -> str | None:
        """Return the path below the folder, or None where this source has nothing."""
        if config_path == GROUP:
            return ""
        return config_path[len(GROUP) + 1 :] if config_path.startswith(f"{GROUP}/") else None


def _named(result: ConfigResult, path: str) -> ConfigResult:
    """Name a sweep after its file where it gives no name, so that `fit NAME` finds its records."""
    is_global = (
        result.header.get("package") == "_global_"
    )  # else it is refused later, with a reason
    if is_global and isinstance(result.config, DictConfig) and "sweep" not in result.config:
        name = path.rsplit("/", 1)[-1]
        result.config["sweep"] = name.removesuffix(".yaml")
    return result
