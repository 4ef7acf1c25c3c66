"""Errors for people: one sentence that says what is wrong, why, and what to do; and an exit status."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from mpt.schema import MAX_TEXT, printable

_UNKNOWN = re.compile(r"Could not override '([^']+)'")
_MERGING = "Error merging override "
_NOISE = ("full_key", "object_type", "reference_type", "To append", "Config search path", "Set the env", "See https")


def is_mendable(error: BaseException) -> bool:
    """True if the user can mend ``error``: a ValueError, an OSError, or an error of Hydra, OmegaConf or YAML."""
    return isinstance(error, (ValueError, OSError)) or _package(error) in ("hydra", "omegaconf", "yaml")


def _package(error: BaseException) -> str:
    """Name of the package that defines the class of ``error``, which need not be imported to know it."""
    return type(error).__module__.partition(".")[0]


def sentence(error: Any) -> str:
    """What went wrong, as one line of text."""
    from_hydra = _package(error) == "hydra"
    if from_hydra and getattr(error, "missing_cfg_file", None) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group} has no choice {choice!r}: take one of {', '.join(sorted(error.options))}"
    if from_hydra and (key := _UNKNOWN.search(str(error))):
        return f"there is no option {key[1]}: --help lists them"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = str(error) or type(error).__name__
    cause = str(error.__cause__ or "") if _package(error) in ("hydra", "omegaconf") else ""
    lines = [line.strip() for line in f"{text}\n{cause}".splitlines()]
    if lines[0].startswith(_MERGING) and len(lines) > 1:
        lines[0] = f"{lines[0].removeprefix(_MERGING)} is refused:"
    useful = dict.fromkeys(line for line in lines if line and not line.startswith(_NOISE))  # each once, in order
    return " ".join(useful).removeprefix("ValueError raised while resolving interpolation: ")


def run_command(name: str, function: Callable[[list[str]], None]) -> None:
    """Run a console command. An error that the user can mend ends as one sentence on stderr and exit status 1.

    ``--traceback`` among the arguments (or MPT_TRACEBACK in the environment) shows the traceback instead.
    """
    arguments = sys.argv[1:]
    if "--traceback" in arguments:
        os.environ["MPT_TRACEBACK"] = "1"
        arguments = [argument for argument in arguments if argument != "--traceback"]
        sys.argv[1:] = arguments
    try:
        function(arguments)
    except KeyboardInterrupt:
        print(f"{name}: interrupted: repeat the command to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, as in `mpt-ticket info ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if not is_mendable(error):
            raise
        give_up(name, error)


def give_up(command: str, error: BaseException) -> NoReturn:
    """Exit with one sentence and status 1; raise ``error`` instead if the user asked for its traceback."""
    if os.environ.get("MPT_TRACEBACK"):
        raise error
    sys.exit(f"{command}: {printable(sentence(error), MAX_TEXT)}")
