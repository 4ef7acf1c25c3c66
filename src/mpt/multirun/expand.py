"""Expand the axes of a sweep to its runs: compose, check and name every combination, none twice."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict

from mpt.errors import is_mendable
from mpt.experiment.kinds import resolve
from mpt.run.check import OPEN
from mpt.run.name import identity, run_name
from mpt.run.settings import Settings, plain

MOST_RUNS = 10_000  # of a line of axes; a larger number is a slip, and takes minutes to list
CONSTANT = ("runs", "sweep", "sweeps", "budget")  # one value per sweep, as they name its folder


@dataclass(frozen=True)
class Run:
    """One run of a sweep: its overrides, the settings that follow from them, and its directory."""

    overrides: tuple[str, ...]
    settings: Settings
    directory: Path


def expand_axes(sweeper: Any, lines: Sequence[dict[str, str]], arguments: Sequence[str], folder: Path) -> list[Run]:
    """Every run that the axes of ``lines`` and ``arguments`` span, checked and without repetition.

    An argument replaces an axis of the same name; if only some lines have that axis, it changes only those lines. An
    option that only some methods or models have applies to the runs of these. The axes ``add`` of the sweeper replace
    axes in a copy of each line, next to the lines themselves. The dense baseline removes nothing, so all values of
    ``prune`` give one baseline, which also ignores options of the other runs' method.

    Raises:
        ValueError and Hydra's errors: for the first value that is refused.
    """
    composer = Composer(sweeper.hydra_context.config_loader, sweeper.config)
    for override in map(composer.parse, arguments):
        if override.is_sweep_override() and override.get_key_element() in CONSTANT:
            raise ValueError(f"{override.get_key_element()} must be one value for all runs, got {override.input_line}")
    runs: dict[Path, Run] = {}
    ignored: dict[str, Exception] = {}
    add = sweeper.axes.get("add") or {}
    for line, more in [(line, {}) for line in lines] + [(line, add) for line in lines if add]:
        elsewhere = {key for other in lines for key in other} - line.keys() | more.keys()
        applicable = [argument for argument in arguments if argument.partition("=")[0] not in elsewhere]
        combinations = composer.combinations(line | more, applicable)
        if "recipe" in line and ("method" not in line or more):  # the file's recipes name the methods, dense among them
            combinations = [_keep_baseline(composer, combination) for combination in combinations]
        for overrides, settings in _product(composer, combinations, ignored):
            run = Run(overrides, settings, folder / run_name(settings))
            other = runs.setdefault(run.directory, run)
            if identity(plain(other.settings)) != identity(plain(settings)):
                raise ValueError(f"two runs would share {run.directory}: {other.overrides} and {overrides}")
    options = {override.partition("=")[0] for run in runs.values() for override in run.overrides}
    for option, error in ignored.items():
        if option not in options:  # no run has it
            raise error
    return list(runs.values())


def _product(
    composer: Composer, combinations: Sequence[Sequence[str]], ignored: dict[str, Exception]
) -> Iterator[tuple[tuple[str, ...], Settings]]:
    """Overrides and settings of each combination; options that its method or model does not have go to ``ignored``."""
    dense: set[tuple[str, ...]] = set()
    for combination in combinations:
        overrides = tuple(combination)
        without = tuple(override for override in overrides if not override.startswith("prune="))
        if without in dense:
            continue
        if foreign := [override for override in overrides if composer.is_foreign(override, overrides)]:
            try:
                composer.settings(overrides)
            except Exception as error:
                ignored |= {override.partition("=")[0]: error for override in foreign}
            overrides = tuple(override for override in overrides if override not in foreign)
            without = tuple(override for override in without if override not in foreign)
            if without in dense:
                continue
        try:
            settings = composer.settings(overrides)
        except Exception as error:
            options = [override for override in without if override.startswith("method.")]
            without = tuple(override for override in without if override not in options)
            if not is_mendable(error) or not options or not _is_dense(settings := composer.settings(without)):
                raise
            ignored |= {option.partition("=")[0]: error for option in options}
        if _is_dense(settings) and len(without) < len(overrides):
            dense.add(without)
            overrides, settings = without, composer.settings(without)
        yield overrides, settings


def _keep_baseline(composer: Composer, combination: list[str]) -> list[str]:
    """``combination`` without another ``method`` if its recipe is the dense baseline: other methods are next to it."""
    without = [override for override in combination if override.partition("=")[0] not in ("method", "prune")]
    if len(without) == len(combination) or not any(override.startswith("method=") for override in combination):
        return combination
    recipe = [override for override in without if override.startswith(("recipe=", "model="))]
    return without if _is_dense(composer.settings(recipe)) else combination


def _is_dense(settings: Settings) -> bool:
    return settings.method.target == "mpt.Dense"


def _count_values(parsed: Any) -> int:
    """How many values Hydra's object for an override lists, at most one more than a sweep may have runs."""
    return sum(1 for _ in islice(parsed.sweep_string_iterator(), MOST_RUNS + 1)) if parsed.is_sweep_override() else 1


class Composer:
    """Composes settings of many combinations of overrides; reads files once for all combinations that choose them.

    Hydra composes in 50 ms; setting values in a copy takes a tenth of that.
    """

    def __init__(self, loader: Any, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self.parser = OverridesParser.create(config_loader=loader)
        self.bases: dict[tuple[str, ...], DictConfig] = {}
        self.cache: dict[str, Any] = {}

    def parse(self, override: str) -> Any:
        """Hydra's object for ``override``; parsed once.

        Raises:
            ValueError: a range without steps, or a pattern that matches no file.
        """
        if override not in self.cache:
            parsed = self.parser.parse_override(override)
            parsed.config_loader = self.loader  # a pattern, as in model=glob(conv*), stands for files
            key = parsed.get_key_element()
            if parsed.is_interval_sweep():
                raise ValueError(
                    f"{override} is a range for hydra/sweeper=optuna: list the values, as in {key}=0.5,0.8"
                )
            try:
                empty = _count_values(parsed) == 0
            except (ArithmeticError, TypeError, ValueError) as error:
                raise ValueError(f"{override} lists no values ({error}): write them out, as in {key}=0,1,2") from error
            if empty:
                how = "a glob names choices, as in model=glob(conv*)" if "glob(" in override else f"write {key}=0,1,2"
                raise ValueError(f"{override} stands for no value: {how}")
            self.cache[override] = parsed
        return self.cache[override]

    def combinations(self, axes: dict[str, str], stronger: Sequence[str] = ()) -> list[list[str]]:
        """Every combination of the values of ``axes``; the overrides ``stronger`` replace axes of their name."""
        lines = [self.parse(line) for line in (*(f"{key}={value}" for key, value in axes.items()), *stronger)]
        runs, longest = 1, {_count_values(line): line.input_line for line in lines}
        for number in ({line.get_key_element(): _count_values(line) for line in lines}).values():
            runs *= number
        if runs > MOST_RUNS:
            raise ValueError(
                f"{longest[max(longest)]} makes this a sweep of more than {MOST_RUNS:,} runs: list fewer values, and "
                "repeat the command with others"
            )
        products: list[list[str]] = BasicSweeper.split_arguments(lines, None)[0]
        return products

    def settings(self, overrides: Sequence[str]) -> Settings:
        """The checked settings of the configuration that Hydra would compose from ``overrides``."""
        composed = copy.deepcopy(self._base(overrides))
        values = [self.parse(override) for override in overrides if not self._chooses_a_file(override)]
        ConfigLoaderImpl._apply_overrides_to_config(values, composed)
        return resolve(composed, overrides)

    def is_foreign(self, override: str, overrides: Sequence[str]) -> bool:
        """Whether ``override`` sets an option of a method or model that the choices of ``overrides`` do not have."""
        group, _, option = override.partition("=")[0].partition(".")
        return group in OPEN and bool(option) and option.partition(".")[0] not in self._base(overrides)[group]

    def _base(self, overrides: Sequence[str]) -> DictConfig:
        files = tuple(override for override in overrides if self._chooses_a_file(override))
        if files not in self.bases:
            base = self.loader.load_sweep_config(self.master, list(files))
            with open_dict(base):
                del base["hydra"]
            self.bases[files] = base
        return self.bases[files]

    def _chooses_a_file(self, override: str) -> bool:
        key = self.parse(override).key_or_group
        plain = override.startswith(key)  # without +, ++ or ~
        return not plain or "@" in override or self.loader.repository.group_exists(key)
