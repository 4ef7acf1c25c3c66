"""Fine-tunings of every ticket that a sweep's searches give: runs like any others, once there is the ticket."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import open_dict

from mpt.experiment import schemas, status
from mpt.run.settings import register
from mpt.multirun.expand import Composer, Run, expanded


class Tuning:
    """What ``mpt-finetune`` is to do with the tickets of a sweep.

    Attributes:
        axes: of the fine-tuning; empty if the sweep is one of searches alone.
        combinations: of their values, each as overrides.
    """

    def __init__(self, sweeper: Any, folder: Path) -> None:
        mini = sweeper.axes["mini_finetune"] if sweeper.config.budget == "mini" else {}
        self.searching, self.folder = sweeper, folder
        self.axes: dict[str, str] = {**sweeper.axes["finetune"], **mini}
        self.composer = Composer(sweeper.hydra_context.config_loader, sweeper.config)
        self.combinations = self.composer.combinations(self.axes) if self.axes else []

    @cached_property
    def sweeper(self) -> Any:
        """The sweeper of the searches with the configuration of ``mpt-finetune``."""
        register(schemas.FinetuneConfig)
        master = copy.deepcopy(self.searching.config)
        with open_dict(master):
            master.hydra.job.config_name = "finetune"
            given = [o for o in master.hydra.overrides.hydra if not o.lstrip("+~").startswith("hydra.sweeper.")]
            master.hydra.overrides.hydra = given  # the axes there are those of the searches' file
        second = copy.copy(self.searching)
        second.config = master
        return second

    def expanded(self, searches: Sequence[Run]) -> list[Run]:
        """The fine-tunings of each search that is done."""
        done = _done(searches) if self.axes else []
        return [run for search in done for run in expanded(self.sweeper, [self.axes], self._given(search), self.folder)]

    def _given(self, search: Run) -> list[str]:
        config, kept = self.searching.config, ("trainer", "logger", "seed=", "runs=", "data.root=")
        return [
            f"ticket={quoted(search.directory / 'ticket.safetensors')}",
            f"data={search.config['data']['name']}",
            f"sweep={config.sweep}",
            f"budget={config.budget}",
            *(override for override in search.overrides if override.startswith(kept)),
        ]

    def announced(self, searches: Sequence[Run], tunings: Sequence[Run]) -> str:
        """How many there are and how many of them are done."""
        count, done = len(self.combinations), len(_done(tunings))
        axes = ", ".join(f"{key}={value}" for key, value in self.axes.items())
        return f"then {count} fine-tunings of each ticket, {done} of {count * len(searches)} done: {axes}"

    def configs_left(self, searches: Sequence[Run], tunings: Sequence[Run]) -> list[dict[str, Any]]:
        """For an estimate: of each fine-tuning that is not done, the configuration of a search of its length."""
        lengths = [
            {o.get_key_element(): o.value() for o in map(self.composer.parsed, combination)}
            for combination in self.combinations
        ]
        every = [
            search.config | {key: length[key] for key in ("epochs", "batch") if key in length}
            for search in searches
            for length in lengths
        ]
        return every[len(_done(tunings)) :]


def _done(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if status.state(run.directory).state == "done"]


def quoted(path: Path) -> str:
    """As a value in Hydra's grammar, absolute."""
    escaped = str(path.resolve()).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
