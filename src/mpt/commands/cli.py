"""The console commands that compose settings or read a run's files. They import torch only when there is work."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpt.commands import help
from mpt.errors import give_up, is_mendable, run_command
from mpt.run.apart import APART, follow_parent, is_first
from mpt.run.settings import FinetuneSettings, Settings

Command = Callable[[list[str]], None]


def command(name: str, text: Callable[[], str]) -> Callable[[Command], Callable[[], None]]:
    """Decorator: the console command ``name`` from a function of its arguments; ``--help`` prints ``text()``."""

    def decorate(function: Command) -> Callable[[], None]:
        def work(arguments: list[str]) -> None:
            if help.is_wanted(arguments):
                print(text())
            else:
                function(arguments)

        @functools.wraps(function)
        def main() -> None:
            run_command(name, work)

        return main

    return decorate


@command("mpt-train", help.train)
def train(arguments: list[str]) -> None:
    """``mpt-train model=conv6 prune=0.8 width=1.5``: one run, or with ``-m`` several."""
    from mpt.commands.spelling import check_spelling

    flags, overrides = _split(arguments)
    check_spelling(flags, overrides)
    follow_parent()
    _hydra(Settings, "train", flags, overrides)


@command("mpt-finetune", help.finetune)
def finetune(arguments: list[str]) -> None:
    """``mpt-finetune TICKET layers=last``: train the weights of a ticket under its mask."""
    from mpt.commands.spelling import check_spelling

    flags, rest = _split(arguments)
    path, overrides = _path_first("mpt-finetune TICKET [layers=last] [data=...]", _unwrap_ticket(rest))
    check_spelling(flags, overrides, FinetuneSettings)
    follow_parent()
    from mpt.experiment.stored import stored_data_override
    from mpt.run.compose import given_keys, quote
    from mpt.ticket.ticket import Ticket

    stored = stored_data_override(Ticket.load(path), given_keys(overrides))
    _hydra(FinetuneSettings, "finetune", flags, [f"ticket={quote(path)}", *stored, *overrides])


def _unwrap_ticket(arguments: list[str]) -> list[str]:
    """The arguments with FILE instead of ``ticket=FILE``, as Lightning repeats a command line."""
    return [a.partition("=")[2].strip("'") if a.startswith("ticket=") else a for a in arguments]


@command("mpt-eval", help.evaluate)
def evaluate(arguments: list[str]) -> None:
    """``mpt-eval TICKET data=...``: accuracy of a ticket file."""
    path, overrides = _path_and_overrides("mpt-eval TICKET [data=...] [control=shuffled_mask]", arguments)
    from mpt.commands.evaluate import evaluate

    print(evaluate(path, overrides))


@command("mpt-predict", help.predict)
def predict(arguments: list[str]) -> None:
    """``mpt-predict TICKET PICTURE|FOLDER...``: the classes that a ticket sees in pictures."""
    pictures = [argument for argument in arguments if not argument.startswith("-") and "=" not in argument][1:]
    rest = [argument for argument in arguments if argument not in pictures]
    path, overrides = _path_and_overrides("mpt-predict TICKET PICTURE|FOLDER... [json=true] [top=3]", rest)
    from mpt.commands.predict import run

    print(run(path, [Path(picture) for picture in pictures], overrides))


@command("mpt-ticket", help.ticket)
def ticket(arguments: list[str]) -> None:
    """``mpt-ticket info|report|... TICKET``, ``mpt-ticket import FILE``: describe or convert a ticket."""
    names = ("info", "report", "bench", "import", "pack", "unpack", "compile")
    if arguments[:1] not in [[name] for name in names]:
        raise ValueError(f"usage: mpt-ticket {'|'.join(names)} FILE; see mpt-ticket --help")
    usage = f"mpt-ticket {arguments[0]} FILE"
    path, overrides = _path_and_overrides(usage, arguments[1:])
    if arguments[0] == "info" and overrides:
        raise ValueError(f"there is no option {overrides[0]}: usage: {usage}")
    from mpt.commands import bench, export, ticket

    functions = {"info": ticket.info, "report": ticket.report, "bench": bench.bench, "import": ticket.import_}
    functions |= {"pack": ticket.pack, "unpack": ticket.unpack, "compile": export.compile_}
    print(functions[arguments[0]](path, overrides))


@command("mpt-status", help.status)
def status(arguments: list[str]) -> None:
    """``mpt-status DIR``: which runs are done, running, failed or missing."""
    if len(arguments) != 1:
        raise ValueError(f"name one folder of runs, got {len(arguments)} (usage: mpt-status DIR)")
    from mpt.run.status import status_table

    print(status_table(Path(arguments[0])))


@command("mpt-wandb", help.wandb)
def wandb(arguments: list[str]) -> None:
    """``mpt-wandb sync DIR``: send finished offline runs to W&B."""
    if len(arguments) != 2 or arguments[0] != "sync":
        raise ValueError("usage: mpt-wandb sync DIR")
    from mpt.commands.wandb_sync import sync

    print(sync(Path(arguments[1])))


@command("mpt-dashboard", help.dashboard)
def dashboard(arguments: list[str]) -> None:
    """``mpt-dashboard fig2``: build a W&B workspace for a sweep."""
    from mpt.commands.dashboard import build

    print(build(arguments))


_WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    "--experimental-rerun",
)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split the arguments: Hydra's flags, each with its value, and everything else."""
    flags: list[str] = []
    overrides: list[str] = []
    values = iter(arguments)
    for argument in values:
        if argument in _WITH_VALUE:
            flags += [argument, *[value for value in [next(values, None)] if value is not None]]
        else:
            (flags if argument.startswith("-") else overrides).append(argument)
    if "--dry-run" in flags:
        flags.remove("--dry-run")
        overrides.append("hydra.sweeper.dry_run=true")
    if _is_sweep(flags, overrides):  # otherwise Hydra reports a wrong option as "Ambiguous value for seed=0,1"
        flags.append("--multirun")
    return flags, overrides


def _is_sweep(flags: list[str], overrides: list[str]) -> bool:
    has_other_mode = any(flag in ("-m", "--multirun", "-c", "--cfg", "-i", "--info") for flag in flags)
    has_sweep = any(override.startswith("sweeps=") for override in overrides)
    return has_sweep and not has_other_mode and "hydra.mode=RUN" not in overrides


def _hydra(schema: type, name: str, flags: list[str], overrides: list[str]) -> None:
    """Let Hydra compose ``conf/<name>.yaml`` and call :func:`_job` once, or once per run of a sweep."""
    import hydra

    from mpt.files import CONF
    from mpt.run.compose import register

    register(schema)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises to us instead of printing
    sys.argv[1:] = [*flags, *overrides]  # argparse wants all overrides in a row, and Lightning appends some
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(_job)()


def _job(composed: Any) -> None:
    from hydra.core.hydra_config import HydraConfig

    from mpt.experiment.kinds import resolve
    from mpt.run.name import run_name

    try:
        hydra_config = HydraConfig.get()
        settings = resolve(composed, hydra_config.overrides.task)
        if hydra_config.mode is not None and hydra_config.mode.name == "MULTIRUN":
            from mpt.multirun.job import job

            job(settings, Path(hydra_config.sweep.dir) / run_name(settings), hydra_config)
        elif hydra_config.sweeper.get("dry_run"):
            print(_plan(settings, _directory(settings, hydra_config.run.dir)))
        else:
            _single(settings, _directory(settings, hydra_config.run.dir))
    except Exception as error:  # handled here, before Hydra prints a line of its own
        if not is_mendable(error):
            raise
        give_up("mpt-finetune" if "ticket" in composed else "mpt-train", error)


def _single(settings: Settings, directory: Path) -> None:
    from mpt.experiment.kinds import run
    from mpt.run.claim import hold_claim
    from mpt.run.status import record_failure

    child = APART in os.environ  # its parent holds the claim
    try:
        run(settings, directory, claim=hold_claim(directory) if is_first() and not child else None)
    except SystemExit:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from None
    except Exception as error:
        if is_first() and child:
            record_failure(directory, settings, error)
        raise


def _plan(settings: Settings, directory: Path) -> str:
    """The lines of ``--dry-run`` for a single run: its state, its directory, and an estimate if it would run."""
    from mpt.multirun.estimate import check_methods, estimate
    from mpt.run.status import state

    check_methods([settings])
    line = f"{state(directory).state:<8} {directory}"
    return line if line.startswith("done") else f"{line}\n{estimate([settings], directory.parent)}"


def _directory(settings: Settings, choice: str) -> Path:
    """The directory of a single run: ``choice`` (hydra.run.dir) if the user set it, else named by the settings."""
    from mpt.run.name import run_name

    if "MPT_DIRECTORY" in os.environ and ("LOCAL_RANK" in os.environ or APART in os.environ):
        return Path(os.environ["MPT_DIRECTORY"])  # from the first process of this run, or from the sweep
    return Path(choice) if choice not in (".", "") else Path(settings.runs) / run_name(settings)


def _path_and_overrides(usage: str, arguments: list[str]) -> tuple[Path, list[str]]:
    """The one file, and the overrides: ``--json`` means ``json=true``, ``--config-dir`` adds a search path."""
    arguments, folder = _config_dir(["json=true" if argument == "--json" else argument for argument in arguments])
    path, overrides = _path_first(usage, arguments)
    return path, overrides + ([f"hydra.searchpath=['file://{folder.resolve()}']"] if folder else [])


def _config_dir(arguments: list[str]) -> tuple[list[str], Path | None]:
    """The arguments without ``--config-dir DIR``, and DIR, a folder of the user's configuration files."""
    for flag in ("--config-dir", "-cd"):
        if flag in arguments:
            at = arguments.index(flag)
            if at + 1 == len(arguments) or not Path(arguments[at + 1]).is_dir():
                raise ValueError(f"{flag} must be followed by a folder of configuration files")
            return arguments[:at] + arguments[at + 2 :], Path(arguments[at + 1])
    return arguments, None


def _path_first(usage: str, arguments: list[str]) -> tuple[Path, list[str]]:
    paths = [argument for argument in arguments if not _is_override(argument)]
    if len(paths) != 1:
        raise ValueError(f"name one ticket file, got {len(paths)} (usage: {usage})")
    return Path(paths[0]), [argument for argument in arguments if _is_override(argument)]


def _is_override(argument: str) -> bool:
    """True for ``data.root=x``; False for a path that contains an equals sign, ``runs/a=b/ticket.safetensors``."""
    key = argument.partition("=")[0]
    return "=" in argument and "/" not in key and not Path(argument).is_file()


if __name__ == "__main__":  # mpt.run.apart.run_apart starts a run of several processes inside a multirun
    train()
