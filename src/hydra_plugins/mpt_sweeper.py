"""The sweeper of mpt. Hydra finds sweepers in the package ``hydra_plugins`` only, and reads this file on every start.

Hydra executes this file before it is a module. Dataclasses with postponed annotations would fail then.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore


@dataclass
class SweeperConf:
    """The axes of a sweep, spelled as on the command line.

    ``params``: axes of all runs. ``lines``: name -> axes of one part of the runs, if the parts differ. ``mini``: the
    axes that ``budget=mini`` replaces. ``choose``: axes of the runs that choose a value for each point
    (:mod:`mpt.multirun.choosing`). ``finetune``: axes of ``mpt-finetune`` on every ticket that the runs find.
    ``mini_finetune``: the axes of these that ``budget=mini`` replaces. ``add`` and ``options`` come from the command
    line, as ``name=value``: axes of lines next to those of the file, and options that some choices of an axis have.
    """

    _target_: str = "hydra_plugins.mpt_sweeper.Sweeper"
    params: dict[str, str] = field(default_factory=dict)
    lines: dict[str, dict[str, str]] = field(default_factory=dict)
    mini: dict[str, str] = field(default_factory=dict)
    choose: dict[str, str] = field(default_factory=dict)
    finetune: dict[str, str] = field(default_factory=dict)
    mini_finetune: dict[str, str] = field(default_factory=dict)
    add: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    dry_run: bool = False  # list the runs and run nothing
    started: float | None = None  # set for jobs: a run that failed after this moment is not tried again


ConfigStore.instance().store(group="hydra/sweeper", name="mpt", node=SweeperConf, provider="mpt")


class Sweeper(BasicSweeper):
    """Every combination of the axes, each run once; see :mod:`mpt.multirun.sweep`."""

    def __init__(
        self,
        params: dict[str, str] | None = None,
        add: list[str] | None = None,
        options: list[str] | None = None,
        dry_run: bool = False,
        started: float | None = None,
        **axes: Any,
    ) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.dry_run = dry_run
        self.axes = {name: dict(value) for name, value in axes.items()}
        self.axes["add"] = dict(line.partition("=")[::2] for line in add or ())
        self.options = list(options or ())

    def sweep(self, arguments: list[str]) -> Any:
        from mpt.multirun.sweep import sweep

        return sweep(self, [*arguments, *self.options])
