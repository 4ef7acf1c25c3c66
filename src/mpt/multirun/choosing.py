"""Axes whose value a sweep chooses for each point on held-out training images, before it runs the point.

A file of a sweep says so with ``choose``: the values to choose from (the axes with several values) and what else is
different in the runs that choose, such as their seed and ``data.val_size``. A point is one combination of all other
axes. Its runs that choose are runs like any other, in a folder of their own next to the sweep's; the one with the
highest objective, by default ``val_acc``, gives the point its values. Test accuracies choose nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mpt.experiment.kinds import objective
from mpt.multirun.expand import Composer, Run, expand_axes
from mpt.run.compose import quote
from mpt.run.name import flat, run_name
from mpt.run.settings import plain, spell
from mpt.run.status import count_runs, result, state

SUFFIX = "-choice"  # of the folder of the runs that choose, and of the name of their sweep


class Choosing:
    """The runs of a sweep that choose values, and the runs that have the chosen values.

    Attributes:
        axes: of the runs that choose; empty if the sweep chooses nothing.
        chosen: names of the axes whose value is chosen.
        trials: the runs that choose, in the order of their values.
        planned: the runs of the sweep as they would be without a choice.
        folder: of the runs that choose.
    """

    def __init__(self, sweeper: Any, lines: Sequence[dict[str, str]], arguments: Sequence[str], folder: Path) -> None:
        """Expand the axes.

        Args:
            sweeper: Hydra's, with the configuration of the command.
            lines: the axes of each part of the sweep.
            arguments: axes of the command line.
            folder: of the sweep.

        Raises:
            ValueError: an axis has a value that is refused, or an argument sets what is chosen.
        """
        axes = OmegaConf.to_container(sweeper.config.hydra.sweeper.choose, resolve=False)  # ${...} is of each run
        self.axes: dict[str, str] = axes  # type: ignore[assignment]
        self.sweeper, self.home = sweeper, folder
        self.folder = folder.with_name(folder.name + SUFFIX)
        self.planned = expand_axes(sweeper, lines, arguments, folder)
        self.composer = Composer(sweeper.hydra_context.config_loader, sweeper.config)
        self.chosen = [key for key in self.axes if len(self.composer.combinations({key: self.axes[key]})) > 1]
        for argument in arguments:
            if (key := argument.partition("=")[0]) in self.chosen:
                raise ValueError(f"{key} is chosen by the sweep among {self.axes[key]}: leave {argument} out")
        own = [argument for argument in arguments if argument.partition("=")[0] not in self.axes]
        name = [f"sweep={sweeper.config.sweep}{SUFFIX}"] if self.axes else []
        every = [line | self.axes for line in lines] if self.axes else []
        self.trials = expand_axes(sweeper, every, [*own, *name], self.folder) if every else []

    @property
    def more(self) -> tuple[str, ...]:
        """What a job of a run that chooses needs besides its overrides."""
        return (f"hydra.sweep.dir={quote(self.folder)}",)

    def announce(self) -> str:
        """The line that says how many runs choose, and how many of them are done."""
        done = sum(state(run.directory).state == "done" for run in self.trials)
        return (
            f"first {count_runs(len(self.trials))} in {self.folder} choose {', '.join(self.chosen)} on held-out images "
            f"for each point, {done} done"
        )

    def describe(self) -> str:
        """One line for each point: the chosen values, and the objective of every run that chose."""
        lines = []
        for point, runs in self._by_point().items():
            best = self._choose(runs)
            tried = ", ".join(f"{self._spell(run)}: {self._objective(run):.4f}" for run in runs)
            lines.append(f"chosen {self._spell(best)} for {' '.join(sorted(point))} ({tried})")
        return "\n".join(lines)

    def decided(self) -> list[Run]:
        """The runs of each point whose runs that choose have all ended, with the chosen values.

        A point none of whose runs ended with a ticket is left out.
        """
        if not self.axes:
            return self.planned
        best = {point: self._choose(runs) for point, runs in self._by_point().items()}
        return [self._with(run, best[point]) for run in self.planned if (point := self._point(run)) in best]

    def undecided(self) -> list[Run]:
        """The planned runs that :meth:`decided` leaves out."""
        points = self._by_point() if self.axes else {}
        return [run for run in self.planned if self.axes and self._point(run) not in points]

    def _by_point(self) -> dict[frozenset[str], list[Run]]:
        """The runs that chose for each point for which all have ended and some have a ticket."""
        points: dict[frozenset[str], list[Run]] = {}
        for run in self.trials:
            points.setdefault(self._point(run), []).append(run)
        states = {run.directory: state(run.directory).state for run in self.trials}
        ended = {
            point: [run for run in runs if states[run.directory] == "done"]
            for point, runs in points.items()
            if all(states[run.directory] in ("done", "failed") for run in runs)
        }
        return {point: runs for point, runs in ended.items() if runs}

    def _point(self, run: Run) -> frozenset[str]:
        keys = {*self.axes, "sweep"}
        return frozenset(override for override in run.overrides if override.partition("=")[0] not in keys)

    def _choose(self, runs: Sequence[Run]) -> Run:
        return max(runs, key=self._objective)  # the first of equals

    @staticmethod
    def _objective(run: Run) -> float:
        return objective(run.settings, result(run.directory)) or 0.0

    def _values(self, run: Run) -> list[str]:
        return [override for override in run.overrides if override.partition("=")[0] in self.chosen]

    def _spell(self, run: Run) -> str:
        """The values of ``run``, after interpolation."""
        settings = flat(plain(run.settings))
        given = dict(override.split("=", 1) for override in self._values(run))
        return " ".join(f"{key}={spell(settings.get(key, text))}" for key, text in given.items())

    def _with(self, run: Run, best: Run) -> Run:
        overrides = (*run.overrides, *self._values(best))
        settings = self.composer.settings(overrides)
        return Run(overrides, settings, self.home / run_name(settings))
