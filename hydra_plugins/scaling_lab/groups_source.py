"""Lets Hydra read a user's own `conf/` for further choices of the groups that there are, and see nothing else there.

A plain search path would turn every folder there (of another project, perhaps) into a config group,
and clash with keys of the same name.
"""

from __future__ import annotations

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult

GROUPS = ("model", "data", "tracker", "hydra")  # of the package's own conf/


class GroupsSource(FileConfigSource):
    """`groups:///path/to/conf`: its files `data/<name>.yaml` are choices of `data`, and so on."""

    @staticmethod
    def scheme() -> str:
        return "groups"

    def load_config(self, config_path: str) -> ConfigResult:
        if not _is_of_group(config_path):
            raise ConfigLoadError(f"Config not found : {config_path}")
        try:
            return super().load_config(config_path)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            path = config_path.removesuffix(".yaml")
            raise ConfigLoadError(
                f"{self.path}/{path}.yaml: not readable as YAML ({error}). Correct the file."
            ) from None

    def is_group(self, config_path: str) -> bool:
        return config_path == "" or (_is_of_group(config_path) and super().is_group(config_path))

    def is_config(self, config_path: str) -> bool:
        return "/" in config_path and _is_of_group(config_path) and super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path != "":
            return super().list(config_path, results_filter) if _is_of_group(config_path) else []
        found = super().list("", ObjectType.GROUP)
        return (
            [name for name in found if name in GROUPS]
            if results_filter != ObjectType.CONFIG
            else []
        )


def _is_of_group(config_path: str) -> bool:
    return config_path.partition("/")[0] in GROUPS
