"""Fine-tuning runs of every ticket that a sweep finds: runs like any other, once the ticket exists."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import open_dict

from mpt.multirun.expand import Composer, Run, expand_axes
from mpt.run.compose import quote, register
from mpt.run.settings import FinetuneSettings, Settings
from mpt.run.status import state


class Tuning:
    """The fine-tuning runs of a sweep's tickets.

    Attributes:
        axes: of fine-tuning; empty if the sweep only searches.
        combinations: of the axes' values, each a list of overrides.
    """

    def __init__(self, sweeper: Any, folder: Path) -> None:
        mini = sweeper.axes["mini_finetune"] if sweeper.config.budget == "mini" else {}
        self.searching, self.folder = sweeper, folder
        self.axes: dict[str, str] = {**sweeper.axes["finetune"], **mini}
        self.composer = Composer(sweeper.hydra_context.config_loader, sweeper.config)
        self.combinations = self.composer.combinations(self.axes) if self.axes else []

    @cached_property
    def sweeper(self) -> Any:
        """The sweeper of the searches, with the configuration of ``mpt-finetune`` instead."""
        register(FinetuneSettings)
        master = copy.deepcopy(self.searching.config)
        with open_dict(master):
            master.hydra.job.config_name = "finetune"
            overrides = master.hydra.overrides.hydra  # without the axes of the searches:
            master.hydra.overrides.hydra = [o for o in overrides if not o.lstrip("+~").startswith("hydra.sweeper.")]
        sweeper = copy.copy(self.searching)
        sweeper.config = master
        return sweeper

    def expand(self, searches: Sequence[Run]) -> list[Run]:
        """The fine-tuning runs of each search that is done."""
        done = _select_done(searches) if self.axes else []
        return [
            run
            for search in done
            for run in expand_axes(self.sweeper, [self.axes], self._overrides(search), self.folder)
        ]

    def _overrides(self, search: Run) -> list[str]:
        here = tuple(f"data.{key}=" for key in ("cache", "stream", "workers", "download"))  # no ticket says these
        config, shared = self.searching.config, ("trainer", "logger", "seed=", "runs=", *here)
        root = search.settings.data.root
        return [
            f"ticket={quote(search.directory / 'ticket.safetensors')}",
            f"data={search.settings.data.name}",
            *([f"data.root={quote(Path(root))}"] if root else []),
            f"sweep={config.sweep}",
            f"budget={config.budget}",
            *(override for override in search.overrides if override.startswith(shared)),
        ]

    def announce(self, searches: Sequence[Run], tunings: Sequence[Run]) -> str:
        """The line that says how many fine-tuning runs there are and how many of them are done."""
        count, done = len(self.combinations), len(_select_done(tunings))
        axes = ", ".join(f"{key}={value}" for key, value in self.axes.items())
        return f"then {count} fine-tuning runs of each ticket, {done} of {count * len(searches)} done: {axes}"

    def settings_left(self, searches: Sequence[Run], tunings: Sequence[Run]) -> list[Settings]:
        """For an estimate: of each fine-tuning run that is not done, the settings of an equally long search."""
        lengths = [
            {o.get_key_element(): o.value() for o in map(self.composer.parse, combination)}
            for combination in self.combinations
        ]
        every = [
            replace(search.settings, **{key: length[key] for key in ("epochs", "batch") if key in length})
            for search in searches
            for length in lengths
        ]
        return every[len(_select_done(tunings)) :]


def _select_done(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if state(run.directory).state == "done"]
