"""``sweeps/`` shown to Hydra as a group beside those of ``conf/``; only that folder, nothing around it."""

from __future__ import annotations

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from mpt.run.settings import HOME


class SweepFiles(FileConfigSource):  # type: ignore[misc]
    """The parent of ``sweeps/`` as a source of one group: as a plain source ``--help`` would walk ``.venv``."""

    @staticmethod
    def scheme() -> str:
        return "sweeps"

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", "sweeps")

    def is_config(self, config_path: str) -> bool:
        return config_path.startswith("sweeps/") and bool(super().is_config(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path:
            return list(super().list(config_path, results_filter))
        return [] if results_filter is ObjectType.CONFIG else ["sweeps"]


class SweepsOnThePath(SearchPathPlugin):  # type: ignore[misc]
    """Adds :class:`SweepFiles` to where Hydra looks."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("mpt", f"sweeps://{HOME}")


def register() -> None:
    """Make ``sweeps=<name>`` known to Hydra."""
    for plugin in (SweepFiles, SweepsOnThePath):
        Plugins.instance().register(plugin)
