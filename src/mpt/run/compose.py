"""Hydra: from ``conf/``, ``sweeps/`` and a command line to checked settings.

``sweeps/`` is a group, like the folders of ``conf/``. Hydra sees only that folder and nothing around it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import Field, replace
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mpt.errors import sentence
from mpt.files import CONF, HOME
from mpt.run.check import OPEN, check_keys, check_values
from mpt.run.settings import PROTOCOLS, Choice, Settings, dials

S = TypeVar("S")
_TEXT = re.compile(r"[^\x00-\x7f]|[^\w\s/\\\-.+$%*@?|:,]|^\s|\s$")  # what Hydra's grammar takes in quotes only


class SweepFiles(FileConfigSource):  # type: ignore[misc]
    """The parent of ``sweeps/`` as a source of that group alone; of a plain source Hydra would walk ``.venv`` too."""

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


class SearchPath(SearchPathPlugin):  # type: ignore[misc]
    """Adds :class:`SweepFiles` to the places where Hydra looks, and lets files of ``--config-dir`` win.

    Hydra puts that folder in front of the first place that is called "schema", which is otherwise behind ``conf/``: a
    file of the user that has the name of one of mpt's would be ignored without a word.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("mpt", f"sweeps://{HOME}")
        search_path.prepend("schema", f"file://{CONF}", SearchPathQuery(provider="main"))


def register(schema: type = Settings) -> None:
    """Tell Hydra of a command's settings, by the name of their class, and of ``sweeps=<name>``."""
    for plugin in (SweepFiles, SearchPath):
        Plugins.instance().register(plugin)
    store = ConfigStore.instance()
    if f"{schema.__name__}.yaml" not in store.list(""):  # storing takes a tenth of a composition
        store.store(name=schema.__name__, node=schema)
    OmegaConf.register_new_resolver("protocol", _of_protocol, replace=True)
    OmegaConf.register_new_resolver("tasks_per_node", _tasks_per_node, replace=True)
    OmegaConf.register_new_resolver("times_kept", _times_kept, replace=True)


def _of_protocol(choices: DictConfig, *, _root_: DictConfig) -> Any:
    """``${protocol:{kept:..., paper:..., published:...}}`` in a YAML file: the value under the protocol of this run."""
    if _root_.protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be {PROTOCOLS[0]}, {PROTOCOLS[1]} or {PROTOCOLS[2]}, got {_root_.protocol}")
    return choices[_root_.protocol]


def _tasks_per_node(devices: Any) -> int:
    """``${tasks_per_node:${trainer.devices}}`` in a YAML file: the tasks of a SLURM job on each machine."""
    return int(devices) if str(devices).isdigit() else 1


def _times_kept(factor: float, *, _root_: DictConfig) -> float:
    """``${times_kept:x}`` in a YAML file: ``x (1 - prune)``, to twelve digits."""
    return float(f"{factor * (1 - _root_.prune):.12g}")


def compose(name: str, overrides: Sequence[str], schema: type) -> DictConfig:
    """Compose ``conf/<name>.yaml`` and ``overrides`` to a configuration, which is not checked yet."""
    register(schema)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose(name, overrides=quote_text(overrides, schema))


def settings_of(composed: DictConfig, schema: type[S]) -> S:
    """The settings that the configuration ``composed`` holds, checked.

    Raises:
        ValueError: a key, a value or a combination of values is refused, in one sentence.
    """
    check_keys(composed, schema)
    try:
        settings = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:  # an interpolation failed
        raise ValueError(sentence(error)) from error
    assert isinstance(settings, schema)
    for group in OPEN:
        if isinstance(arguments := getattr(settings, group, None), dict):
            choice = Choice(arguments.pop("name"), arguments.pop("target"), arguments)
            settings = replace(settings, **{group: choice})  # type: ignore[type-var]
    check_values(settings)
    return settings


def quote(path: Path) -> str:
    """The absolute path, as a value in Hydra's grammar."""
    return QuotedString(str(path.resolve()), Quote.single).with_quotes()


def quote_text(overrides: Sequence[str], schema: type) -> list[str]:
    """The overrides, with quotes around text that Hydra takes in quotes only, as in ``data.root=~/pictures (new)``."""
    texts = {name for name, f in dials(schema) if _is_text(f)} | {"hydra.run.dir"}
    quoted = []
    for override in overrides:
        key, _, value = override.partition("=")
        bare = value[:1] not in ("'", '"', "[", "{") and "${" not in value and not re.fullmatch(r"\w+\(.*\)", value)
        if key in texts and bare and "," not in value and _TEXT.search(value):
            value = QuotedString(value, Quote.single).with_quotes()
        quoted.append(f"{key}={value}" if "=" in override else override)
    return quoted


def _is_text(f: Field[Any]) -> bool:
    return str(f.type) in ("str", "str | None")


def model_options() -> list[str]:
    """The words of the running command that name its network: ``--config-dir DIR``, ``model.x=``, ``width=``."""
    if not HydraConfig.initialized():
        return []
    hydra, here = HydraConfig.get(), Path.cwd().resolve()
    folders = [Path(each.path).resolve() for each in hydra.runtime.config_sources if each.provider == "command-line"]
    near = [str(folder.relative_to(here) if folder.is_relative_to(here) else folder) for folder in folders]
    pairs = {word.lstrip("+").partition("=")[0]: word for word in hydra.overrides.task}
    named = [word for key, word in pairs.items() if key in ("model", "width") or key.startswith("model.")]
    return [*(word for folder in near for word in ("--config-dir", folder)), *named]


def repeated(overrides: Sequence[str]) -> dict[str, str]:
    """The options that ``overrides`` hold several times, each with its last value, which counts."""
    pairs = [override.lstrip("+").partition("=")[::2] for override in overrides]
    given = Counter(key for key, _ in pairs)
    return {key: value for key, value in dict(pairs).items() if given[key] > 1}


def given_keys(overrides: Sequence[str]) -> set[str]:
    """The keys that a command line sets."""
    return {override.partition("=")[0].lstrip("+") for override in overrides}
