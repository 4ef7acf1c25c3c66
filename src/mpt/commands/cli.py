"""The console commands. They import torch only when there is work."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mpt.experiment import help as helps
from mpt.errors import USERS, give_up, reported
from mpt.run.apart import APART, follow_parent, is_first


def train() -> None:
    """``mpt-train model=conv6 prune=0.8 width=1.5``: one run, or with ``-m`` several."""
    reported("mpt-train", _train)


def evaluate() -> None:
    """``mpt-eval TICKET data=...``: accuracy of a ticket file."""
    reported("mpt-eval", _evaluate)


def finetune() -> None:
    """``mpt-finetune TICKET layers=last``: the weights of a ticket trained under its mask."""
    reported("mpt-finetune", _finetune)


def ticket() -> None:
    """``mpt-ticket info|report TICKET``, ``mpt-ticket import FILE``: what a ticket holds; a published one."""
    reported("mpt-ticket", _ticket)


def status() -> None:
    """``mpt-status DIR``: which runs are done, running, failed, missing."""
    reported("mpt-status", _status)


def wandb() -> None:
    """``mpt-wandb sync DIR``: give finished offline runs to W&B."""
    reported("mpt-wandb", _wandb)


def dashboard() -> None:
    """``mpt-dashboard fig2``: a W&B workspace for a sweep."""
    reported("mpt-dashboard", _dashboard)


def _train(arguments: list[str]) -> None:
    if helps.wanted(arguments):
        print(helps.train())
        return
    import hydra

    from mpt.experiment import config
    from mpt.commands.spelling import check_spelling

    check_spelling(*_flags_apart(arguments))
    follow_parent()
    config.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises to us instead of printing
    sys.argv[1:] = _flags_first(arguments)  # argparse takes the overrides in one stretch, and Lightning appends to it
    hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="train")(_job)()


_WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    "--experimental-rerun",
)


def _flags_first(arguments: list[str]) -> list[str]:
    """Hydra's flags before all overrides, each with its value."""
    flags, overrides = _flags_apart(arguments)
    return flags + overrides


def _flags_apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(Hydra's flags, each with its value; everything else)."""
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
    if _is_sweep(flags, overrides):  # or else Hydra calls a wrong option "Ambiguous value for seed=0,1"
        flags.append("--multirun")
    return flags, overrides


def _is_sweep(flags: list[str], overrides: list[str]) -> bool:
    asks = any(override.startswith("sweeps=") for override in overrides) and "hydra.mode=RUN" not in overrides
    return asks and not any(flag in ("-m", "--multirun", "-c", "--cfg", "-i", "--info") for flag in flags)


def _job(composed: Any) -> None:
    from hydra.core.hydra_config import HydraConfig

    from mpt.run.name import configured, run_name

    try:
        hydra_config = HydraConfig.get()
        plain = configured(composed, hydra_config.overrides.task)
        if hydra_config.mode is not None and hydra_config.mode.name == "MULTIRUN":
            from mpt.multirun.job import job

            job(plain, Path(hydra_config.sweep.dir) / run_name(plain), hydra_config, run=_run)
        else:
            _single(plain, _directory(plain, hydra_config.run.dir))
    except USERS as error:  # here already: Hydra would print a line of its own before the sentence
        give_up("mpt-finetune" if "ticket" in composed else "mpt-train", error)


def _single(plain: dict[str, Any], directory: Path) -> None:
    from mpt.experiment import status
    from mpt.run.claim import claimed

    first = is_first()
    mine = first and APART not in os.environ and not status.finished(plain, directory)
    with claimed(directory) if mine else nullcontext():
        try:
            _run(plain, directory)
        except Exception as error:
            if first and APART in os.environ:  # for the parent, who claimed the directory
                status.record_failure(directory, plain, error)
            raise


def _run(plain: dict[str, Any], directory: Path) -> None:
    from mpt.experiment import finetune
    from mpt.experiment.train import run, search

    _quiet()
    row = run(plain, directory, start=finetune.start if "ticket" in plain else search)
    if "test_acc_before" in row:
        print(f"before    {100 * row['test_acc_before']:.2f} %, the ticket as it was")


def _directory(plain: dict[str, Any], given: str) -> Path:
    """Of a single run: what hydra.run.dir says if it was given, else a name that follows from the configuration."""
    from mpt.run.name import run_name

    if "MPT_DIRECTORY" in os.environ and ("LOCAL_RANK" in os.environ or APART in os.environ):
        return Path(os.environ["MPT_DIRECTORY"])  # as the first process of this run says, or the sweep
    return Path(given) if given not in (".", "") else Path(plain["runs"]) / run_name(plain)


def _quiet() -> None:
    """Silence what others print at every start: it is not about the user's run."""
    import logging
    import warnings

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings(
        "ignore",
        module="lightning",
        message=".*(num_workers|GPU available|existing checkpoint|exists and is not empty).*",
    )


def _finetune(arguments: list[str]) -> None:
    if helps.wanted(arguments):
        print(helps.finetune())
        return
    import hydra

    from mpt.experiment import config, schemas
    from mpt.commands.evaluate import given_keys, own_data
    from mpt.commands.spelling import check_spelling
    from mpt.ticket.ticket import Ticket

    flags, rest = _flags_apart(arguments)
    named = [argument.partition("=")[2].strip("'") for argument in rest if argument.startswith("ticket=")]
    rest = [*named, *(argument for argument in rest if not argument.startswith("ticket="))]
    path, overrides = _path_first("mpt-finetune TICKET [layers=last] [data=...]", rest)
    check_spelling(flags, overrides, schemas.FinetuneConfig)
    quoted = str(path).replace("\\", "\\\\").replace("'", "\\'")
    follow_parent()
    config.register(schemas.FinetuneConfig)
    os.environ["HYDRA_FULL_ERROR"] = "1"
    own = own_data(Ticket.load(path), given_keys(overrides))
    sys.argv[1:] = [*flags, f"ticket='{quoted}'", *own, *overrides]
    hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="finetune")(_job)()


def _evaluate(arguments: list[str]) -> None:
    if helps.wanted(arguments):
        print(helps.evaluate())
        return
    from mpt.commands.evaluate import measure

    path, overrides = _path_and_overrides("mpt-eval TICKET [data=...] [control=shuffled_mask]", arguments)
    _quiet()
    print(measure(path, overrides))


def _ticket(arguments: list[str]) -> None:
    if helps.wanted(arguments):
        print(helps.ticket())
        return
    commands = ("info", "report", "import")
    if arguments[:1] not in [[name] for name in commands]:
        raise ValueError(f"usage: mpt-ticket {'|'.join(commands)} FILE, see mpt-ticket --help")
    from mpt.experiment import tickets

    usage = f"mpt-ticket {arguments[0]} FILE"
    path, overrides = _path_and_overrides(usage, arguments[1:])
    if arguments[0] == "info" and overrides:
        raise ValueError(f"there is no option {overrides[0]}: usage: {usage}")
    _quiet()
    print({"info": tickets.info, "report": tickets.report, "import": tickets.import_}[arguments[0]](path, overrides))


def _path_and_overrides(usage: str, arguments: list[str]) -> tuple[Path, list[str]]:
    """The one file that is named, and the overrides: ``--json`` is ``json=true``, ``--config-dir`` a search path."""
    arguments, folder = _config_dir(["json=true" if argument == "--json" else argument for argument in arguments])
    path, overrides = _path_first(usage, arguments)
    return path, overrides + ([f"hydra.searchpath=['file://{folder.resolve()}']"] if folder else [])


def _status(arguments: list[str]) -> None:
    if helps.wanted(arguments):
        print(helps.status())
        return
    if len(arguments) != 1:
        raise ValueError(f"name one folder of runs, got {len(arguments)}: usage: mpt-status DIR")
    from mpt.run.status import shown

    print(shown(Path(arguments[0])))


def _wandb(arguments: list[str]) -> None:
    if helps.wanted(arguments):
        print(helps.wandb())
        return
    if len(arguments) != 2 or arguments[0] != "sync":
        raise ValueError("usage: mpt-wandb sync DIR")
    from mpt.commands.wandb_sync import synced

    print(synced(Path(arguments[1])))


def _dashboard(arguments: list[str]) -> None:
    if helps.wanted(arguments):
        print(helps.dashboard())
        return
    from mpt.commands.dashboard import made

    print(made(arguments))


def _config_dir(arguments: list[str]) -> tuple[list[str], Path | None]:
    """The arguments without ``--config-dir DIR``, and DIR: configuration files of the user's own."""
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
        raise ValueError(f"name one ticket file, got {len(paths)}: usage: {usage}")
    return Path(paths[0]), [argument for argument in arguments if _is_override(argument)]


def _is_override(argument: str) -> bool:
    """``data.root=x`` is one; ``runs/a=b/ticket.safetensors``, a path that holds an equals sign, is not."""
    key = argument.partition("=")[0]
    return "=" in argument and "/" not in key and not Path(argument).is_file()


if __name__ == "__main__":  # a run of several processes inside a multirun: isolation.run_apart
    train()
