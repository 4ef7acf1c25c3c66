"""Many runs: the axes expanded, everything checked, and what is missing run, each run once. Imports no torch itself.

The truth about a run lies in its directory, whose name follows from the configuration alone, never in this process:
so a sweep can be killed anywhere and repeated, run by several commands at once, and spread by any launcher of Hydra.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict

from mpt.experiment import status
from mpt.experiment.claim import NAME as CLAIM
from mpt.experiment.claim import is_claimed
from mpt.experiment.config import affects_result, prepared, run_name
from mpt.files import write_atomically

_CONSTANT = ("runs", "sweep", "sweeps", "budget")  # one value a sweep: they say where it is


@dataclass(frozen=True)
class Run:
    """One of a sweep: its overrides, the configuration that they make, and its directory."""

    overrides: tuple[str, ...]
    config: dict[str, Any]
    directory: Path


def sweep(sweeper: Any, arguments: list[str]) -> list[Any]:
    """Run what is missing of the axes that ``arguments`` and the file of the sweep span.

    Raises:
        ValueError: a value of an axis is refused; nothing has started then.
        SystemExit: some runs failed; all others are done.
    """
    folder = Path(sweeper.config.hydra.sweep.dir)
    lines, changes = _axes(sweeper)
    runs = expanded(sweeper, lines, arguments, folder)
    for run in runs:
        _check_processes(sweeper.config, run.config)
    missing = [run for run in runs if not status.finished(run.config, run.directory)]
    print(_announced(sweeper.config, folder, runs, changes), flush=True)
    if missing:
        from mpt.experiment.estimate import estimated

        print(estimated([run.config for run in missing], folder), flush=True)
    if sweeper.dry_run:
        print("\n".join(f"{status.state(run.directory).state:<8} {run.directory.name}" for run in runs), flush=True)
        return []
    _work(sweeper, runs, started=_listed(folder, runs))
    _report(runs, folder)
    return []


def _axes(sweeper: Any) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The axes of each line of the file, and what ``budget=mini`` changes of them (``key`` -> ``before -> after``)."""
    if sweeper.config.budget not in (None, "paper", "mini"):
        raise ValueError(f"budget must be paper or mini, got {sweeper.config.budget}")
    params = dict(sweeper.params)
    mini = sweeper.axes["mini"] if sweeper.config.budget == "mini" else {}
    changes = {key: f"{params.get(key, 'as published')} -> {value}" for key, value in mini.items()}
    lines = sweeper.axes["lines"].values() or [{}]
    return [params | dict(line) | mini for line in lines], changes


def expanded(sweeper: Any, lines: Sequence[dict[str, str]], arguments: Sequence[str], folder: Path) -> list[Run]:
    """Every run that the axes of ``lines`` and, stronger, ``arguments`` span, checked and without repetition.

    An argument that is an axis of some lines only replaces it there. The dense baseline removes nothing, so ``prune``
    does not make several of it.

    Raises:
        ValueError and Hydra's errors: of the first refused value.
    """
    composer = Composer(sweeper.hydra_context.config_loader, sweeper.config)
    for override in map(composer.parsed, arguments):
        if override.is_sweep_override() and override.get_key_element() in _CONSTANT:
            raise ValueError(f"{override.get_key_element()} must be one value for all runs, got {override.input_line}")
    runs: dict[Path, Run] = {}
    for line in lines:
        elsewhere = {key for other in lines for key in other} - line.keys()
        given = [argument for argument in arguments if argument.partition("=")[0] not in elsewhere]
        axes = [composer.parsed(written) for written in (*(f"{key}={value}" for key, value in line.items()), *given)]
        for overrides, config in _product(composer, BasicSweeper.split_arguments(axes, None)[0]):
            run = Run(overrides, config, folder / run_name(config))
            other = runs.setdefault(run.directory, run)
            if affects_result(other.config) != affects_result(config):
                raise ValueError(f"two runs would share {run.directory}: {other.overrides} and {overrides}")
    return list(runs.values())


def _product(
    composer: Composer, combinations: Sequence[Sequence[str]]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    dense: set[tuple[str, ...]] = set()
    for combination in combinations:
        overrides = tuple(combination)
        without = tuple(override for override in overrides if not override.startswith("prune="))
        if without in dense:
            continue
        config = composer.config(overrides)
        if config["method"]["target"] == "mpt.Dense" and len(without) < len(overrides):
            dense.add(without)
            overrides, config = without, composer.config(without)
        yield overrides, config


class Composer:
    """Configurations of many combinations of overrides: files are read once for all that choose the same ones.

    Hydra takes 50 ms to compose; giving plain values to a copy takes a tenth of it.
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

    def config(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The checked plain configuration that Hydra would compose."""
        files = tuple(override for override in overrides if self._chooses_a_file(override))
        if files not in self.bases:
            base = self.loader.load_sweep_config(self.master, list(files))
            with open_dict(base):
                del base["hydra"]
            self.bases[files] = base
        composed = copy.deepcopy(self.bases[files])
        values = [self.parsed(override) for override in overrides if override not in files]
        ConfigLoaderImpl._apply_overrides_to_config(values, composed)
        return prepared(composed)

    def _chooses_a_file(self, override: str) -> bool:
        key = self.parsed(override).key_or_group
        plain = override.startswith(key)  # no +, ++ or ~ before it
        return not plain or "@" in override or self.loader.repository.group_exists(key)


def _check_processes(master: DictConfig, config: dict[str, Any]) -> None:
    devices, nodes = str(config["trainer"]["devices"]), config["trainer"]["num_nodes"]
    launcher = master.hydra.launcher
    slurm = "Slurm" in str(launcher.get("_target_"))
    if slurm and (devices, nodes) != (str(launcher.tasks_per_node), launcher.nodes):
        raise ValueError(
            f"SLURM gives each run {launcher.nodes} x {launcher.tasks_per_node} tasks, one for each device, and "
            f"trainer.devices={devices} trainer.num_nodes={nodes} wants others: one number of devices a command"
        )
    if nodes > 1 and not slurm:
        raise ValueError(
            f"trainer.num_nodes={nodes} in a sweep needs a launcher that starts a task for each device: "
            "hydra/launcher=slurm"
        )
    if devices.isdigit() and config["batch"] % max(1, int(devices) * nodes):
        raise ValueError(
            f"batch is the global batch and must divide by the {int(devices) * nodes} processes, got {config['batch']}"
        )


def _announced(master: DictConfig, folder: Path, runs: Sequence[Run], changes: dict[str, str]) -> str:
    counts = dict.fromkeys(status.STATES, 0)
    for run in runs:
        counts[status.state(run.directory).state] += 1
    name = f"{master.sweep} ({master.budget or 'paper'})" if master.sweep else "sweep"
    lines = [
        f"{name}: {len(runs)} runs in {folder}: {counts['done']} done, {counts['running']} running, "
        f"{counts['failed']} failed and tried again, {counts['missing']} missing"
    ]
    if changes:
        lines += ["mini is not the published experiment; it changes:", *(f"  {k}: {v}" for k, v in changes.items())]
    return "\n".join(lines)


def _listed(folder: Path, runs: Sequence[Run]) -> float:
    """Write down what was asked for, beside what earlier commands asked for; the time, by the file system's clock."""
    folder.mkdir(parents=True, exist_ok=True)
    names = status.listed(folder) | {run.directory.name: list(run.overrides) for run in runs}
    write_atomically(folder / status.LIST, json.dumps(names, indent=1) + "\n")
    return (folder / status.LIST).stat().st_mtime


def _work(sweeper: Any, runs: Sequence[Run], *, started: float) -> None:
    """Launch until every run is done or has failed once since ``started``; what another command holds is waited for."""
    deaths: dict[Path, int] = {}
    while left := [run for run in runs if not _settled(run, started)]:
        free = [run for run in left if not is_claimed(run.directory)]
        if not free:
            _wait(left, started)
            continue
        stopped = _launched(sweeper, free, started)
        after = [run for run in free if not _settled(run, started) and not is_claimed(run.directory)]
        dead = [run for run in after if _left_claim(run.directory) > started]
        for run in dead:
            deaths[run.directory] = deaths.get(run.directory, 0) + 1
            if deaths[run.directory] > 1:
                status.record_failure(run.directory, run.config, "its process was killed, twice (out of memory?)")
        if len(after) == len(free) and not dead:
            raise stopped or RuntimeError("the launcher ran nothing")


def _settled(run: Run, started: float) -> bool:
    return bool(status.finished(run.config, run.directory)) or failed_since(run.directory, started)


def failed_since(directory: Path, started: float) -> bool:
    """True if a try of this run, by this command or another, failed after ``started``."""
    try:
        written = (directory / "result.json").stat().st_mtime
    except OSError:
        return False
    return written > started and status.result(directory).get("status") == "failed"


def _left_claim(directory: Path) -> float:
    """When the claim was made that a dead process left; 0 if there is none."""
    try:
        return (directory / CLAIM).stat().st_mtime
    except OSError:
        return 0.0


def _wait(left: Sequence[Run], started: float) -> None:
    print(f"waiting for {len(left)} runs that other commands are at work on", flush=True)
    while all(is_claimed(run.directory) and not _settled(run, started) for run in left):
        time.sleep(1)


def _launched(sweeper: Any, runs: Sequence[Run], started: float) -> Exception | None:
    """Give ``runs`` to the launcher; the exception with which it stopped, if it did."""
    from hydra.core.plugins import Plugins

    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=sweeper.hydra_context, task_function=sweeper.launcher.task_function, config=sweeper.config
    )
    moment = f"hydra.sweeper.started={started!r}"
    try:
        launcher.launch([[*run.overrides, moment] for run in runs], initial_job_idx=0)
    except Exception as error:  # of a job that the launcher lost: the others are looked for in their directories
        print(f"the launcher stopped: {error!r}", file=sys.stderr, flush=True)
        return error
    return None


def _report(runs: Sequence[Run], folder: Path) -> None:
    failed = [run for run in runs if not status.finished(run.config, run.directory)]
    print(f"\n{len(runs) - len(failed)} of {len(runs)} runs in {folder} are done", flush=True)
    if failed:
        lines = [f"  {run.directory}: {status.result(run.directory).get('error', 'missing')}" for run in failed]
        print("\n".join([f"mpt-train: {len(failed)} runs failed:", *lines]), file=sys.stderr, flush=True)
        sys.exit(1)
