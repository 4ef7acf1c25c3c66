"""A command composed once: Hydra composes it to learn whether it is a sweep, and then again to run it.

The second configuration is the first with one more word, ``hydra.mode=RUN`` or ``hydra.mode=MULTIRUN``; each takes a
tenth of a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra._internal import hydra as hydra_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

_MODES = tuple(f"hydra.mode={mode.name}" for mode in RunMode)  # what Hydra adds to the words that the user wrote


class OnceLoader(ConfigLoaderImpl):  # type: ignore[misc]
    """Keeps the configuration that Hydra composes to learn the mode, until the next one."""

    _kept: tuple[str | None, list[str], DictConfig] | None = None

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        kept, self._kept = self._kept, None
        if validate_sweep_overrides:
            if kept and config_name == kept[0] and (added := _added(overrides, kept[1])) is not None:
                words = OverridesParser.create().parse_overrides(overrides=overrides)
                self.validate_sweep_overrides_legal(overrides=words, run_mode=run_mode, from_shell=from_shell)
                return _with_mode(kept[2], added)
            return super().load_configuration(config_name, overrides, run_mode, from_shell)
        try:  # as a run, for which a choice that is not made is an error
            composed = super().load_configuration(config_name, overrides, RunMode.RUN, from_shell, False)
        except ConfigCompositionException as error:
            if "You must specify" not in str(error):
                raise
            return super().load_configuration(config_name, overrides, run_mode, from_shell, False)
        self._kept = (config_name, [*overrides], composed)
        return composed


def _added(overrides: Sequence[str], before: Sequence[str]) -> list[str] | None:
    """The mode that ``overrides`` have more than ``before``, or nothing; None where they differ in anything else."""
    first, added = [*overrides[: len(before)]], [*overrides[len(before) :]]
    return added if first == [*before] and (not added or (len(added) == 1 and added[0] in _MODES)) else None


def _with_mode(composed: DictConfig, added: Sequence[str]) -> DictConfig:
    for word in added:
        OmegaConf.update(composed, "hydra.mode", word.partition("=")[2], merge=True)
        composed.hydra.overrides.hydra.append(word)
    return composed


@contextmanager
def composed_once() -> Iterator[None]:
    """Within the block, commands that ``hydra.main`` starts are composed by :class:`OnceLoader`."""
    module: Any = hydra_module
    before, module.ConfigLoaderImpl = module.ConfigLoaderImpl, OnceLoader
    try:
        yield
    finally:
        module.ConfigLoaderImpl = before
