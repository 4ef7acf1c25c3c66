"""The console commands mpt-train, mpt-eval, mpt-finetune, mpt-ticket. They import torch only when there is work."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mpt.experiment import help as helps
from mpt.experiment.errors import USERS, give_up, reported


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


def _train(arguments: list[str]) -> None:
    if helps.wanted(arguments):
        print(helps.train())
        return
    import hydra

    from mpt.experiment import config

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
    return flags, overrides


def _job(composed: Any) -> None:
    from mpt.experiment import config

    try:
        config.check(composed)
        plain = config.plain(composed)
        if plain["data"]["root"]:
            plain["data"]["root"] = str(Path(plain["data"]["root"]).expanduser().resolve())
        directory = _directory(plain)
        from mpt.experiment.train import run

        _quiet()
        run(plain, directory)
    except USERS as error:  # here already: Hydra would print a line of its own before the sentence
        give_up("mpt-train", error)


def _directory(plain: dict[str, Any]) -> Path:
    """Of the run: what hydra.run.dir says if it was given, else a name that follows from the configuration."""
    from hydra.core.hydra_config import HydraConfig

    from mpt.experiment.config import run_name

    if "LOCAL_RANK" in os.environ and "MPT_DIRECTORY" in os.environ:
        return Path(os.environ["MPT_DIRECTORY"])  # as the first process of this run says
    hydra_config = HydraConfig.get()
    if hydra_config.mode is not None and hydra_config.mode.name == "MULTIRUN":
        if str(plain["trainer"]["devices"]) not in ("auto", "1"):
            raise ValueError("several processes a run do not go with -m yet: start each run on its own")
        return Path(hydra_config.sweep.dir) / run_name(plain)
    given = hydra_config.run.dir
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

    from mpt.experiment import config
    from mpt.experiment.measure import given_keys, own_data
    from mpt.ticket.ticket import Ticket

    flags, rest = _flags_apart(arguments)
    named = [argument.partition("=")[2].strip("'") for argument in rest if argument.startswith("ticket=")]
    rest = [*named, *(argument for argument in rest if not argument.startswith("ticket="))]
    path, overrides = _path_first("mpt-finetune TICKET [layers=last] [data=...]", rest)
    quoted = str(path).replace("\\", "\\\\").replace("'", "\\'")
    given = given_keys(overrides)
    config.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = [*flags, f"ticket='{quoted}'", *own_data(Ticket.load(path), given), *overrides]

    def job(composed: Any) -> None:
        _finetune_job(composed, given=given)

    hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="finetune")(job)()


def _finetune_job(composed: Any, *, given: set[str]) -> None:
    try:
        from mpt.experiment.finetune import completed, start
        from mpt.experiment.train import run

        plain = completed(composed, given)
        if plain["data"]["root"]:
            plain["data"]["root"] = str(Path(plain["data"]["root"]).expanduser().resolve())
        directory = _directory(plain)
        _quiet()
        if (row := run(plain, directory, start=start)) and "test_acc_before" in row:
            print(f"before    {100 * row['test_acc_before']:.2f} %, the ticket as it was")
    except USERS as error:
        give_up("mpt-finetune", error)


def _evaluate(arguments: list[str]) -> None:
    if helps.wanted(arguments):
        print(helps.evaluate())
        return
    from mpt.experiment.measure import measure

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
