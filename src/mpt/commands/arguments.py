"""The words of a command line, sorted: flags with their values, the one file, and options ``name=value``."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from mpt.commands.spelling import DASHES, check_flag, check_spelling, option_names
from mpt.files import is_stream

_WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
)
_ALONE = (
    *("--dry-run", "--multirun", "-m", "--run", "-r", "--resolve", "--hydra-help"),
    *("--info", "-i", "--help", "-h", "--version", "--traceback"),
)
_OF_A_SWEEP = ("hydra.launcher.", "hydra.sweeper.", "hydra.sweep.")
_CHOSEN = [("hydra/launcher", name) for name in ("basic", "joblib", "slurm", "submitit_local", "submitit_slurm")]
_CHOSEN += [("hydra/sweeper", name) for name in ("basic", "mpt", "optuna")]  # Hydra says that others do not exist
_VALUES = {"--cfg": ("job", "hydra", "all"), "-c": ("job", "hydra", "all")}
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def split(arguments: list[str], schema: type, command: str) -> tuple[list[str], list[str]]:
    """Split the arguments: Hydra's flags, each with its value, and everything else."""
    flags: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith(tuple(DASHES)):
            overrides.append(argument)
            continue
        name, equals, value = argument.partition("=")
        if equals and name in (*_WITH_VALUE, "--info", "-i"):
            argument, rest = name, [value, *rest]
        following = rest[0] if rest else None
        if name in ("--config-path", "-cp"):
            raise ValueError(f"{name} would replace mpt's own options: name your folder with --config-dir instead")
        if name in ("--shell-completion", "-sc"):
            raise ValueError(f"{name} completes nothing: mpt completion bash prints what completes commands")
        check_flag(argument, following, (*_WITH_VALUE, *_ALONE), schema=schema, command=command)
        flags.append(argument)
        if argument in _WITH_VALUE:
            if following is None or following not in _VALUES.get(argument, (following,)):
                choices = " or ".join(_VALUES.get(argument, ("a value",)))
                raise ValueError(f"{argument} must be followed by {choices}, got {following or 'nothing'}")
            flags.append(rest.pop(0))
            if argument in ("--config-dir", "-cd"):
                _make_importable(Path(flags[-1]))
        elif argument in ("--info", "-i") and following in _INFO:
            flags.append(rest.pop(0))
    printing = not {"--cfg", "-c", "--info", "-i"}.isdisjoint(flags)
    if not printing and (idle := [flag for flag in flags if flag in ("--package", "-p", "--resolve")]):
        raise ValueError(f"{idle[0]} has an effect only with --cfg job: leave it out")
    if _is_sweep(flags, overrides):  # otherwise Hydra reports a wrong option as "Ambiguous value for seed=0,1"
        flags.append("--multirun")
    _check_mode(flags, overrides)
    if "--dry-run" in flags:
        flags.remove("--dry-run")
        overrides.append("hydra.sweeper.dry_run=true")
    return flags, overrides


def _check_mode(flags: Sequence[str], overrides: Sequence[str]) -> None:
    """Raise ValueError for an option of a sweep in the command of one run, or the other way around."""
    if not {"--cfg", "-c", "--info", "-i"}.isdisjoint(flags):
        return
    many = not {"-m", "--multirun"}.isdisjoint(flags) or "hydra.mode=MULTIRUN" in overrides
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if not many and ((key, value) in _CHOSEN or (value and key.startswith(_OF_A_SWEEP))):
            raise ValueError(f"{key} has an effect only on a sweep: add -m, or leave it out")
        if many and key == "hydra.run.dir":
            raise ValueError(f"{key} is the directory of one run: write runs=FOLDER for those of a sweep")


def _is_sweep(flags: list[str], overrides: list[str]) -> bool:
    has_other_mode = any(flag in ("-m", "--multirun", "-c", "--cfg", "-i", "--info") for flag in flags)
    has_sweep = any(override.startswith("sweeps=") for override in overrides)
    return has_sweep and not has_other_mode and "hydra.mode=RUN" not in overrides


def for_sweeper(flags: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The overrides with those that only some runs of a sweep have as lists for its sweeper.

    ``add.method=mine`` adds lines to the sweep. Only some methods have an option as ``method.period=4``, and Hydra
    would look for it in the first of them.

    Raises:
        ValueError: lines are added to something that is no sweep of mpt.
    """
    added = [override.removeprefix("add.") for override in overrides if override.startswith("add.")]
    many = not {"-m", "--multirun"}.isdisjoint(flags) or "hydra.mode=MULTIRUN" in overrides
    if not many or any(override.startswith("hydra/sweeper=") for override in overrides):
        if added:
            raise ValueError(f"add.{added[0]} adds lines to a sweep: give sweeps=NAME, or -m with values")
        return list(overrides)
    options = [override for override in overrides if override.startswith(("method.", "model.")) and "=" in override]
    rest = [override for override in overrides if override not in options and not override.startswith("add.")]
    lists = {"add": added, "options": options}
    return rest + [f"hydra.sweeper.{key}=[{','.join(map(_quote, lines))}]" for key, lines in lists.items() if lines]


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def path_and_overrides(
    usage: str, arguments: list[str], schema: type, *, what: str = "ticket file"
) -> tuple[Path, list[str]]:
    """The one path, which is ``what``, and the overrides, as :func:`paths_and_overrides` finds them."""
    paths, overrides = paths_and_overrides(usage, arguments, schema, what=what)
    return _one(paths, usage, what), overrides


def paths_and_overrides(
    usage: str, arguments: list[str], schema: type, *, what: str = "ticket file", several: bool = False
) -> tuple[list[str], list[str]]:
    """The paths, one or ``several``, and the overrides.

    ``--json`` means ``json=true``, and ``--config-dir`` adds a search path.
    """
    arguments, folder = _config_dir(["json=true" if argument == "--json" else argument for argument in arguments])
    name = " ".join(usage.split()[: 1 + usage.startswith("mpt-ticket")])
    for place, argument in enumerate(arguments):
        if argument.startswith(tuple(DASHES)):
            check_flag(
                argument,
                next(iter(arguments[place + 1 :]), None),
                ("--json", "--config-dir", "-cd"),
                schema=schema,
                command=name,
            )
    paths, overrides = _sorted(arguments, option_names(schema))
    _one(paths[:1] if several else paths, usage, what)
    if "" in paths:
        raise ValueError("an empty word names no picture: check the variable that it comes from, or leave it out")
    check_spelling(["--config-dir"] if folder else [], overrides, schema, command=name)
    if given := Counter(override.partition("=")[0] for override in overrides):
        key, times = given.most_common(1)[0]
        if times > 1:
            raise ValueError(f"{key} is given {times} times: give it once")
    return paths, overrides + ([f"hydra.searchpath=['file://{folder.resolve()}']"] if folder else [])


def options_alone(usage: str, arguments: list[str], schema: type) -> list[str]:
    """The overrides of a command without a file, checked as those of :func:`path_and_overrides`."""
    arguments, folder = _config_dir(["json=true" if argument == "--json" else argument for argument in arguments])
    for place, argument in enumerate(arguments):
        if argument.startswith(tuple(DASHES)):
            following = next(iter(arguments[place + 1 :]), None)
            check_flag(argument, following, ("--json", "--config-dir", "-cd"), schema=schema, command=usage)
        elif not _is_override(argument, option_names(schema)):
            raise ValueError(f"{usage} takes options name=value alone here, got {argument}")
    check_spelling(["--config-dir"] if folder else [], arguments, schema, command=usage)
    return arguments + ([f"hydra.searchpath=['file://{folder.resolve()}']"] if folder else [])


def with_output(arguments: list[str]) -> list[str]:
    """The arguments with ``out=FILE`` for ``-o FILE``."""
    if "-o" not in arguments:
        return arguments
    at = arguments.index("-o")
    if at + 1 == len(arguments) or "=" in arguments[at + 1]:
        raise ValueError("-o must be followed by the file to write")
    return [*arguments[:at], f"out={arguments[at + 1]}", *arguments[at + 2 :]]


def check_ending(out: Path, *endings: str) -> None:
    """Raise ValueError if ``out`` ends as a file of another kind than ``endings``, and is no device or pipe."""
    if out.suffix not in endings and not is_stream(out):
        raise ValueError(f"out= must end in {' or '.join(endings)} here, got {out.name!r}")


def _config_dir(arguments: list[str]) -> tuple[list[str], Path | None]:
    """The arguments without ``--config-dir DIR``, and DIR, a folder of the user's configuration files."""
    for flag in ("--config-dir", "-cd"):
        if flag in arguments:
            at = arguments.index(flag)
            if at + 1 == len(arguments) or not Path(arguments[at + 1]).is_dir():
                raise ValueError(f"{flag} must be followed by a folder of configuration files")
            _make_importable(Path(arguments[at + 1]))
            return arguments[:at] + arguments[at + 2 :], Path(arguments[at + 1])
    return arguments, None


def _make_importable(folder: Path) -> None:
    """Let this process, and those that it starts, import modules beside the user's ``folder`` of YAML files."""
    beside = str(folder.resolve().parent)
    if beside not in sys.path:
        sys.path.append(beside)
        paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        os.environ["PYTHONPATH"] = os.pathsep.join([*paths, beside])


def path_first(usage: str, arguments: list[str], *, what: str = "ticket file") -> tuple[Path, list[str]]:
    """The one path among ``arguments``, which is ``what``, and the overrides."""
    paths, overrides = _sorted(arguments)
    return _one(paths, usage, what), overrides


def _sorted(arguments: list[str], options: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """The paths among ``arguments``, and the overrides."""
    overrides = [argument for argument in arguments if _is_override(argument, options)]
    return [argument for argument in arguments if not _is_override(argument, options)], overrides


def _one(paths: list[str], usage: str, what: str) -> Path:
    """The one path; ValueError if there is none, or another."""
    if len(paths) != 1 or not paths[0]:
        raise ValueError(f"name one {what}, got {len(paths) if any(paths) else 'none'}: write {usage}")
    return Path(paths[0])


def _is_override(argument: str, options: Collection[str]) -> bool:
    """True for ``data.root=x``; False for a path that contains an equals sign, ``runs/a=b/ticket.safetensors``."""
    key = argument.partition("=")[0]
    return "=" in argument and "/" not in key and (key in options or not _exists(argument))


def _exists(argument: str) -> bool:
    """Whether there is a file or folder of this name, which may be too long for one."""
    try:
        return Path(argument).exists()
    except OSError:
        return False
