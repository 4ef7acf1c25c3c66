"""The axes of a sweep to its runs: every combination composed, checked and named, none twice."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict

from mpt.errors import is_mendable
from mpt.experiment.kinds import resolve
from mpt.run.name import identity, run_name
from mpt.run.settings import Settings, plain

CONSTANT = ("runs", "sweep", "sweeps", "budget")  # one value a sweep: they say where it is


@dataclass(frozen=True)
class Run:
    """One run of a sweep: its overrides, the settings that follow from them, and its directory."""

    overrides: tuple[str, ...]
    settings: Settings
    directory: Path


def expand_axes(sweeper: Any, lines: Sequence[dict[str, str]], arguments: Sequence[str], folder: Path) -> list[Run]:
    """Every run that the axes of ``lines`` and ``arguments`` span, checked and without repetition.

    An argument replaces an axis of the same name; one that is an axis of some lines only replaces it there. The dense
    baseline removes nothing, so ``prune`` gives a single baseline, and options of the other runs' method do not concern
    it.

    Raises:
        ValueError and Hydra's errors: of the first refused value.
    """
    composer = Composer(sweeper.hydra_context.config_loader, sweeper.config)
    for override in map(composer.parsed, arguments):
        if override.is_sweep_override() and override.get_key_element() in CONSTANT:
            raise ValueError(f"{override.get_key_element()} must be one value for all runs, got {override.input_line}")
    runs: dict[Path, Run] = {}
    left_out: dict[str, Exception] = {}
    for line in lines:
        elsewhere = {key for other in lines for key in other} - line.keys()
        applicable = [argument for argument in arguments if argument.partition("=")[0] not in elsewhere]
        for overrides, settings in _product(composer, composer.combinations(line, applicable), left_out):
            run = Run(overrides, settings, folder / run_name(settings))
            other = runs.setdefault(run.directory, run)
            if identity(plain(other.settings)) != identity(plain(settings)):
                raise ValueError(f"two runs would share {run.directory}: {other.overrides} and {overrides}")
    taken = {override.partition("=")[0] for run in runs.values() for override in run.overrides}
    for option, error in left_out.items():
        if option not in taken:
            raise error
    return list(runs.values())


def _product(
    composer: Composer, combinations: Sequence[Sequence[str]], left_out: dict[str, Exception]
) -> Iterator[tuple[tuple[str, ...], Settings]]:
    """Overrides and settings of each combination; options of a method that dense refuses go to ``left_out``."""
    dense: set[tuple[str, ...]] = set()
    for combination in combinations:
        overrides = tuple(combination)
        without = tuple(override for override in overrides if not override.startswith("prune="))
        if without in dense:
            continue
        try:
            settings = composer.settings(overrides)
        except Exception as error:
            options = [override for override in without if override.startswith("method.")]
            without = tuple(override for override in without if override not in options)
            if not is_mendable(error) or not options or not _is_dense(settings := composer.settings(without)):
                raise
            left_out |= {option.partition("=")[0]: error for option in options}
        if _is_dense(settings) and len(without) < len(overrides):
            dense.add(without)
            overrides, settings = without, composer.settings(without)
        yield overrides, settings


def _is_dense(settings: Settings) -> bool:
    return settings.method.target == "mpt.Dense"


class Composer:
    """Settings of many combinations of overrides; combinations that choose the same files read them once.

    Hydra takes 50 ms to compose; setting values in a copy takes a tenth of that.
    """

    def __init__(self, loader: Any, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self.parser = OverridesParser.create(config_loader=loader)
        self.bases: dict[tuple[str, ...], DictConfig] = {}
        self.known: dict[str, Any] = {}

    def parsed(self, override: str) -> Any:
        if override not in self.known:
            self.known[override] = self.parser.parse_override(override)
        return self.known[override]

    def combinations(self, axes: dict[str, str], stronger: Sequence[str] = ()) -> list[list[str]]:
        """Every combination of the values of ``axes`` and of the overrides ``stronger``, which replace them."""
        lines = (*(f"{key}={value}" for key, value in axes.items()), *stronger)
        products: list[list[str]] = BasicSweeper.split_arguments([self.parsed(line) for line in lines], None)[0]
        return products

    def settings(self, overrides: Sequence[str]) -> Settings:
        """The checked settings of the configuration that Hydra would compose."""
        files = tuple(override for override in overrides if self._chooses_a_file(override))
        if files not in self.bases:
            base = self.loader.load_sweep_config(self.master, list(files))
            with open_dict(base):
                del base["hydra"]
            self.bases[files] = base
        composed = copy.deepcopy(self.bases[files])
        values = [self.parsed(override) for override in overrides if override not in files]
        ConfigLoaderImpl._apply_overrides_to_config(values, composed)
        return resolve(composed, overrides)

    def _chooses_a_file(self, override: str) -> bool:
        key = self.parsed(override).key_or_group
        plain = override.startswith(key)  # no +, ++ or ~ before it
        return not plain or "@" in override or self.loader.repository.group_exists(key)
