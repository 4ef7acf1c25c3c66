"""The console commands that compose settings or read a run's files. They import torch only when there is work."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mpt.commands.arguments import (
    for_sweeper,
    options_alone,
    path_and_overrides,
    path_first,
    paths_and_overrides,
    split,
    with_output,
)
from mpt.commands.command import VARIABLE, command, help_text
from mpt.commands.spelling import check_spelling
from mpt.commands.study import study
from mpt.errors import give_up, is_mendable
from mpt.phases import importing
from mpt.processes import group, is_first, is_torchrun
from mpt.run.apart import APART, DIRECTORY, follow_parent
from mpt.run.peers import meet
from mpt.run.settings import FinetuneSettings, Settings
from mpt.signals import Interrupted, cause, describe_with, unwind


@command("mpt-train", "train")
def train(arguments: list[str]) -> None:
    """``mpt-train model=conv6 prune=0.8 width=1.5``: one run, or with ``-m`` several."""
    meet()
    flags, overrides = split(arguments, Settings, "mpt-train")
    check_spelling(flags, [override.removeprefix("add.") for override in overrides])
    follow_parent()
    overrides = for_sweeper(flags, overrides)
    _hydra(Settings, "train", flags, overrides)


@command("mpt-finetune", "finetune")
def finetune(arguments: list[str]) -> None:
    """``mpt-finetune TICKET layers=last``: train the weights of a ticket under its mask."""
    meet()
    flags, rest = split(arguments, FinetuneSettings, "mpt-finetune")
    path, overrides = path_first("mpt-finetune TICKET [layers=last] [data=...]", _unwrap_ticket(rest))
    check_spelling(flags, overrides, FinetuneSettings, command="mpt-finetune")
    follow_parent()
    from mpt.experiment.stored import stored_data_override
    from mpt.run.compose import given_keys, quote
    from mpt.ticket.ticket import Ticket

    stored = stored_data_override(Ticket.load(path), given_keys(overrides))
    _hydra(FinetuneSettings, "finetune", flags, [f"ticket={quote(path)}", *stored, *overrides])


def _unwrap_ticket(arguments: list[str]) -> list[str]:
    """The arguments with FILE instead of ``ticket=FILE``, as Lightning repeats a command line."""
    return [a.partition("=")[2].strip("'") if a.startswith("ticket=") else a for a in arguments]


@command("mpt-eval", "evaluate")
def evaluate(arguments: list[str]) -> None:
    """``mpt-eval TICKET data=...``: accuracy of a ticket file."""
    from mpt.commands.schemas import EvalSettings

    usage = "mpt-eval TICKET [data=...] [control=shuffled_mask]"
    path, overrides = path_and_overrides(usage, arguments, EvalSettings)
    with importing():
        from mpt.commands.evaluate import evaluate

    print(evaluate(path, overrides))


@command("mpt-predict", "predict")
def predict(arguments: list[str]) -> None:
    """``mpt-predict TICKET PICTURE|FOLDER...``: the classes that a ticket sees in pictures."""
    from mpt.commands.schemas import PredictSettings

    usage = "mpt-predict TICKET PICTURE|FOLDER... [json=true] [top=3]"
    (path, *pictures), overrides = paths_and_overrides(usage, arguments, PredictSettings, several=True)
    with importing():
        from mpt.commands.predict import run

    print(run(Path(path), [Path(picture) for picture in pictures], overrides))


@command("mpt-ticket", "ticket")
def ticket(arguments: list[str]) -> None:
    """``mpt-ticket info|report|... TICKET``, ``mpt-ticket import FILE``: describe or convert a ticket."""
    from mpt.commands.schemas import TICKET_COMMANDS

    if not arguments or arguments[0] not in TICKET_COMMANDS:
        got = arguments[0] if arguments else "nothing"
        raise ValueError(f"say what to do with a file: mpt-ticket {'|'.join(TICKET_COMMANDS)} FILE, got {got}")
    usage = f"mpt-ticket {arguments[0]} FILE"
    path, overrides = path_and_overrides(usage, arguments[1:], TICKET_COMMANDS[arguments[0]])
    with importing():
        from mpt.commands import bench, export, ticket

    functions = {"info": ticket.info, "report": ticket.report, "draw": ticket.draw, "bench": bench.bench}
    functions |= {"import": ticket.import_, "pack": ticket.pack, "unpack": ticket.unpack}
    functions |= {"compile": export.compile_, "export": export.export}
    print(functions[arguments[0]](path, overrides))


@command("mpt-report", "report")
def report(arguments: list[str]) -> None:
    """``mpt-report RUNS out=page.html``: a page of a run or of a folder of runs."""
    from mpt.commands.schemas import PageSettings

    usage = "mpt-report RUNS [out=page.html] [watch=true]"
    folder, overrides = path_and_overrides(usage, arguments, PageSettings, what="folder of runs")
    from mpt.commands.report import report

    print(report(folder, overrides))


@command("mpt-theory", "theory")
def theory(arguments: list[str]) -> None:
    """``mpt-theory bounds|construct TICKET``, ``mpt-theory figure``: what theorems promise, tickets built so."""
    from mpt.commands.schemas import THEORY_COMMANDS

    if not arguments or arguments[0] not in THEORY_COMMANDS:
        got = arguments[0] if arguments else "nothing"
        raise ValueError(f"say what to do: mpt-theory {'|'.join(THEORY_COMMANDS)}, got {got}")
    what, rest = arguments[0], with_output(arguments[1:])
    path: Path | None = None
    schema, usage = THEORY_COMMANDS[what], f"mpt-theory {what} TICKET"
    if what == "figure" or (what == "bounds" and any(argument.startswith("model=") for argument in rest)):
        rest = options_alone(f"mpt-theory {what}", rest, schema)
    else:
        path, rest = path_and_overrides(usage, rest, schema)
    with importing():
        from mpt.commands import theory

    if what == "figure":
        print(theory.figure(rest))
    else:
        print(theory.bounds(path, rest) if what == "bounds" or path is None else theory.construct(path, rest))


@command("mpt-status", "status", quick=True)
def status(arguments: list[str]) -> None:
    """``mpt-status DIR``: which runs are done, running, interrupted, failed or missing."""
    if len(arguments) != 1 or not arguments[0]:
        got = "an empty name" if arguments == [""] else len(arguments)
        if options := [argument for argument in arguments if argument.startswith("-") or "=" in argument]:
            raise ValueError(f"mpt-status takes no options, got {options[0]}: write mpt-status DIR")
        raise ValueError(f"name one folder of runs, got {got}: write mpt-status DIR")
    from mpt.run.status import status_table

    print(status_table(Path(arguments[0])))


@command("mpt-wandb", "wandb")
def wandb(arguments: list[str]) -> None:
    """``mpt-wandb sync DIR``: send finished offline runs to W&B."""
    if len(arguments) != 2 or arguments[0] != "sync":
        got = " ".join(arguments) or "nothing"
        raise ValueError(f"say what to send, and from which folder: mpt-wandb sync DIR, got {got}")
    from mpt.commands.wandb_sync import sync

    print(sync(Path(arguments[1])))


@command("mpt-dashboard", "dashboard")
def dashboard(arguments: list[str]) -> None:
    """``mpt-dashboard fig2``: build a W&B workspace for a sweep."""
    from mpt.commands.dashboard import build

    print(build(arguments))


@command("mpt", "all_commands", quick=True)
def overview(arguments: list[str]) -> None:
    """``mpt``: the commands; ``mpt new method NAME``: files of your own method; ``mpt completion bash``."""
    if not arguments:
        print(help_text("all_commands", ["--help"]))
        return
    if arguments[0] == "completion":
        from mpt.commands.completion import script

        print(script(" ".join(arguments[1:]), variable=VARIABLE))
        return
    if arguments[0] != "new":
        raise ValueError(f"mpt knows new and completion, got {arguments[0]}: mpt --help lists all commands")
    from mpt.commands.new import new

    print(new(arguments[1:]))


def _hydra(schema: type, name: str, flags: list[str], overrides: list[str]) -> None:
    """Let Hydra compose ``conf/<name>.yaml`` and call :func:`_job` once, or once per run of a sweep."""
    with importing("reading the options"):
        import hydra

        from mpt.files import CONF
        from mpt.run.compose import quote_text, register

    if is_torchrun() and _is_multirun(flags, overrides):
        raise ValueError("torchrun starts the processes of one run, so -m cannot share them: leave out torchrun, or -m")
    register(schema)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises to us instead of printing
    logging.raiseExceptions = False  # nor does its log, where a reader leaves
    # argparse wants all overrides in a row, and Lightning appends some
    sys.argv[1:] = [*flags, *quote_text(overrides, schema)]
    try:
        with study(overrides):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(_job)()
    except Interrupted as interruption:
        if interruption.signum in (signal.SIGUSR1, signal.SIGUSR2):  # as sbatch --signal announces a time limit
            from mpt.run.queue import requeue

            unwind()
            requeue()
        raise


def _is_multirun(flags: list[str], overrides: list[str]) -> bool:
    return not {"-m", "--multirun"}.isdisjoint(flags) or "hydra.mode=MULTIRUN" in overrides


def _job(composed: Any) -> float | None:
    """Run one configuration; return its objective, for a sweeper such as optuna."""
    from hydra.core.hydra_config import HydraConfig

    from mpt.experiment.kinds import objective, resolve
    from mpt.run.compose import repeated
    from mpt.run.name import run_name

    try:
        hydra_config = HydraConfig.get()
        settings = resolve(composed, hydra_config.overrides.task)
        if is_first() and APART not in os.environ and not hydra_config.sweeper.get("started"):
            for key, value in repeated(hydra_config.overrides.task).items():
                print(f"note      {key} is given more than once, and {key}={value} counts", flush=True)
        if hydra_config.mode is not None and hydra_config.mode.name == "MULTIRUN":
            from mpt.multirun.job import job

            return objective(settings, job(settings, Path(hydra_config.sweep.dir) / run_name(settings), hydra_config))
        if hydra_config.sweeper.get("dry_run"):
            from mpt.commands.plan import plan

            print(plan(settings, _directory(settings, hydra_config.run.dir)))
            return None
        return objective(settings, _single(settings, _directory(settings, hydra_config.run.dir)))
    except Exception as error:  # handled here, before Hydra prints a line of its own
        if isinstance(ended := cause(error), Interrupted):
            raise ended from error
        _tell_first(error)
        if not is_mendable(error):
            raise
        give_up("mpt-finetune" if "ticket" in composed else "mpt-train", error)


def _tell_first(error: Exception) -> None:
    """In a process that Lightning started for a run: record ``error`` for the first one, which speaks for all."""
    if not is_first() and group() is None and DIRECTORY in os.environ:
        from mpt.run.status import record_rank_failure

        record_rank_failure(Path(os.environ[DIRECTORY]), int(os.environ["LOCAL_RANK"]), error)


def _single(settings: Settings, directory: Path) -> dict[str, Any]:
    from mpt.experiment.kinds import run
    from mpt.run.claim import hold_claim
    from mpt.run.status import describe_interruption, name_limit, record_failure

    child = APART in os.environ  # its parent holds the claim, and speaks for it
    silent = child or not is_first()
    describe_with(lambda: "" if silent else describe_interruption(directory, settings.epochs))
    try:
        return run(settings, directory, claim=hold_claim(directory) if is_first() and not child else None)
    except Interrupted as interruption:
        if not silent and (limit := name_limit(directory, interruption.signum)):
            record_failure(directory, settings, limit)
            describe_with(lambda: f": {limit}")
            raise ValueError(limit) from interruption  # which no one puts back into the queue
        raise
    except Exception as error:
        if is_first() and child:
            record_failure(directory, settings, error)
        raise


def _directory(settings: Settings, choice: str) -> Path:
    """The directory of a single run: ``choice`` (hydra.run.dir) if the user set it, else named by the settings."""
    from mpt.run.name import run_name

    if DIRECTORY in os.environ and ("LOCAL_RANK" in os.environ or APART in os.environ):
        return Path(os.environ[DIRECTORY])  # from the first process of this run, or from the sweep
    return Path(choice) if choice not in (".", "") else Path(settings.runs) / run_name(settings)


if __name__ == "__main__":  # mpt.run.apart.run_apart starts a run of several processes inside a multirun
    train()
