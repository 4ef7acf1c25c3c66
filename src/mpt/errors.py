"""Errors for people: one sentence that says what is wrong, why, and what to do; and an exit status."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mpt.causes import is_out_of_memory, place_in_own_code
from mpt.processes import is_first
from mpt.schema import MAX_TEXT, printable
from mpt.signals import Interrupted, cause, description, handled, unwind

_WORDS: list[tuple[str, str]] = [  # what Hydra and OmegaConf say, and what we say instead: {key} is the option
    (r"Value '(?P<v>.*?)%' of type", r"{key} must be a number, got {v}%: write the fraction, as in 0.8 for 80 %"),
    (r"Value '(?P<v>.*)' of type '\w+' could not be converted to Float", r"{key} must be a number, got {v}"),
    (
        r"Value '(?P<v>.*)' of type '\w+' could not be converted to Integer",
        r"{key} must be a whole number, got {v}",
    ),
    (r"Value '(?P<v>.*)' is not a valid bool", r"{key} must be true or false, got {v}"),
    (r"Config group override must be a string", r"sweeps, recipe and each group take the name of a choice, as text"),
    (
        r"In '(?P<v>[^']+)': ConfigTypeError[\s\S]*with ListConfig",
        r"{v}.yaml is a list: write names and values, as in a: 1",
    ),
    (
        r"is not a ListConfig|Cannot merge \w+ with ListConfig",
        r"{key} is a list: write it in brackets, as in {key}=[{given}]",
    ),
    (r"Invalid type assigned: NoneType", r"{key} is a list whose entries may not be null: leave null out"),
    (r"Cannot convert '\w+' to string: '(?P<v>.*)'", r"{key} must be text, got {v}"),
    (r"is not Optional|Incompatible value 'None'", r"{key} needs a value, which may not be null"),
    (r"Invalid value assigned|Cannot merge", r"{key} takes another kind of value: --help shows its default"),
    (
        r"Could not override '(?P<v>method|model)\.(?P<w>[^']+)'",
        r"there is no option {v}.{w} in the chosen {v}: leave it out, or write +{v}.{w}=VALUE if the {v} takes it, as "
        r"networks of timm take img_size; --help lists the options",
    ),
    (
        r"Could not override '(?P<v>[^']+)'|Key '(?P<w>[^']+)' (?:is )?not in",
        r"there is no option {key}: --help lists them",
    ),
    (r"Multiple values for (?P<v>[\w/]+)\. ", r"{v} has a choice already: write {v}=CHOICE, without +"),
    (r"Could not delete [^']*'(?P<v>[^']+)'", r"{v} cannot be removed, because it is not there: leave ~{v} out"),
    (r"An item is already at '(?P<v>[^']+)'", r"{v} has a value already: write {v}=VALUE, without +"),
    (r"Could not load '(?P<v>\w+)/(?P<w>[^']+)'", r"{v} has no choice '{w}': --help lists the choices"),
    (
        r"override (?P<k>[\w.]+)=\S+\s+Invalid value '(?P<v>.*)', expected one of \[(?P<w>.*)\]",
        r"{k} must be one of {w}, got {v}",
    ),
    (r"config group '(?P<v>[^']+)' does not exist", r"{v} is no group of choices: --help lists them"),
    (r"Additional config directory '(?P<v>[^']+)' not found", r"--config-dir {v}: there is no such folder"),
    (r"Cannot find primary config '(?P<v>[^']+)'", r"--config-name {v}: there is no file {v}.yaml in --config-dir"),
    (
        r"Primary config (?:module|directory) '(?P<v>[^']+)'|config-path",
        r"--config-path: name your folder with --config-dir instead",
    ),
    (
        r"Environment variable '(?P<v>[^']+)' not found",
        r"{key} refers to the environment variable {v}, which is not set",
    ),
    (r"Interpolation key '(?P<v>[^']+)' not found", r"{key} refers to ${{{v}}}, which is no option"),
    (r"Unsupported interpolation type (?P<v>\S+)", r"{key} refers to ${{{v}:...}}, which is unknown"),
    (r"Recursive interpolation|RecursionError", r"{key} refers to itself: give it a value"),
    (r"raised while resolving interpolation: (?P<v>.*)", r"{v}"),
    (r"[Ii]nterpolation", r"{key} has a reference ${{...}} without a value: write the value itself"),
]


_REMEDIES = {
    errno.ENOENT: "check its name",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "name another place",
    errno.EISDIR: "name a file in it",
    errno.EEXIST: "it is there already: name another place",
    errno.ENOTDIR: "a part of this path is a file: name another place",
    errno.ENOSPC: "free some space and repeat the command, which goes on where it stopped",
    errno.EDQUOT: "free some space and repeat the command, which goes on where it stopped",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or name another place",
    errno.ELOOP: "it is a link to itself: name another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


class ToldElsewhereError(ValueError):
    """Another process of this run tells the user why it ended: this one ends with the same ``status``, in silence."""

    def __init__(self, text: str, *, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


def is_mendable(error: BaseException) -> bool:
    """True if the user can mend ``error``: a ValueError, an OSError, one of Hydra, OmegaConf, YAML or own code."""
    return _has_sentence(error) or (isinstance(error, (Exception, SystemExit)) and place_in_own_code(error) is not None)


def _has_sentence(error: BaseException) -> bool:
    ours = isinstance(error, (ValueError, OSError)) or _package(error) in ("hydra", "omegaconf", "yaml")
    return ours or is_out_of_memory(error) or _is_too_deep(error)


def _is_too_deep(error: BaseException) -> bool:
    """True for a file of configuration that is nested so deep, or refers to itself, that its reader gave up."""
    frames = traceback.walk_tb(error.__traceback__) if isinstance(error, RecursionError) else ()
    names = [str(frame.f_globals.get("__name__")) for frame, _ in frames]
    return any(name.startswith(("yaml.", "omegaconf.")) for name in names[-50:])


def _package(error: BaseException) -> str:
    """Name of the package that defines the class of ``error``, which need not be imported to know it."""
    return type(error).__module__.partition(".")[0]


def sentence(error: Any) -> str:
    """What went wrong, as one line of text."""
    if isinstance(error, FileNotFoundError) and not error.filename and _is_folder_gone():
        return "the folder in which the command was started is gone: change to another (cd)"
    if isinstance(error, OSError) and error.strerror:
        remedy = _REMEDIES.get(error.errno or 0, "")
        return f"{error.filename or 'the output, or a file'}: {error.strerror}{remedy and f': {remedy}'}"
    if is_out_of_memory(error):
        asked = re.search(r"tried to allocate ([\d.,]+ ?\w+)|allocate ([\d.,]+ \w+) for", str(error), re.IGNORECASE)
        more = f" ({asked[1] or asked[2]} more were needed)" if asked else ""
        remedy = "lower batch, width or the size of the images; a search can raise optim.accumulate"
        return f"the memory is full{more}: {remedy}"
    if _is_too_deep(error):
        return "a configuration file or an option is nested too deep, or holds itself: write it without"
    if not _has_sentence(error) and (place := place_in_own_code(error)):
        return f"{place}: {_of_own_code(error)}: mend it there; --traceback shows how it was called"
    if isinstance(error, UnicodeDecodeError):
        places = (frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__))
        file = next((there["full_path"] for there in places if "full_path" in there), "a file of text")  # Hydra's name
        return f"{file} is not UTF-8: save it as UTF-8 (it has the byte 0x{error.object[error.start]:02x})"
    package, text = _package(error), str(error) or type(error).__name__
    if package in ("hydra", "omegaconf"):
        return _of_composition(error)
    if package == "yaml":
        return f"a configuration file is not valid YAML: {_one_line(text)}"
    return _one_line(text)


def _is_folder_gone() -> bool:
    with contextlib.suppress(FileNotFoundError):
        return not Path.cwd()
    return True


def _of_own_code(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "it ends the program (sys.exit), which is not for code that mpt calls"
    return f"{type(error).__name__}{': ' if str(error) else ''}{_one_line(str(error))}"


def _one_line(text: str) -> str:
    return " ".join(dict.fromkeys(line for line in map(str.strip, text.splitlines()) if line))  # each once, in order


def _of_composition(error: Any) -> str:
    """The sentence for an error of Hydra or OmegaConf, in words of options instead of configurations and overrides."""
    if getattr(error, "missing_cfg_file", None) and error.options:
        return _no_choice(*str(error.missing_cfg_file).partition("/")[::2], sorted(error.options))
    if type(error).__name__ == "OverrideParseException":
        return _unreadable(error.override, str(error))
    text = f"{error}\n{error.__cause__ or ''}"
    if several := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'", text):
        return f"{several[1]} holds several values: give one; mpt-train -m runs a search with each of several"
    key = re.search(r"full_key: (\S+?)(?P<entry>\[\d+\])?$", text, re.M)
    given = re.search(r"override ~?\+*([\w.]+)=(.*)", text)
    for pattern, words in _WORDS:
        if match := re.search(pattern, text):
            found = {name: value or "" for name, value in match.groupdict().items()}
            found["key"] = key[1] if key else given[1] if given else found.get("v") or "a value"
            if key and key["entry"] and "must be" in words:
                found["key"] = f"each entry of {key[1]}"
            found["given"] = given[2] if given else "a,b"
            return words.format(**found)
    return _one_line(
        re.sub(r"(?m)^\s*(full_key|object_type|reference_type|To append|Set the env|See https).*$", "", text)
    )


def _no_choice(group: str, choice: str, options: Sequence[str]) -> str:
    import difflib

    group, _, rest = f"{group}/{choice}".rpartition("/") if group == "hydra" else (group, "", choice)
    near = difflib.get_close_matches(rest.lower(), options, n=1) or [o for o in options if o.endswith(rest.lower())]
    hint = f"did you mean {near[0]}? It has" if near else "take one of"
    more = "; for torchvision's networks write model=torchvision model.name=NAME" if group == "model" else ""
    return f"{group} has no choice {rest!r}: {hint} {', '.join(options)}{more}"


def _unreadable(override: str, text: str) -> str:
    """The sentence for an argument that Hydra's grammar refuses."""
    key, _, value = override.lstrip("+~").partition("=")
    opened = [override.count(a) != override.count(b) for a, b in ("[]", "{}", "()")]
    if any(opened):
        reason = "a bracket is not closed, or not opened"
    elif override.count('"') % 2 or override.count("'") % 2:
        reason = "a quote is not closed"
    elif value.endswith(","):
        reason = "it ends with a comma"
    elif function := re.search(r"(Unknown function '\w+'|while evaluating '[^']*')", text):
        reason = function[1].replace("Unknown function", "there is no function").replace("while evaluating", "it calls")
    elif strange := [c for c in override if not (c.isascii() and (c.isalnum() or c in "_./-=+,:$%*@?| \\[]{}"))]:
        reason = f"the character {strange[0]!r} must stand in quotes"
    else:
        reason = "it has more than name=value"
    return f"{override} cannot be read, because {reason}: write {key}=VALUE, or text as \"{key}='TEXT'\""


def run_command(name: str, function: Callable[[list[str]], None]) -> None:
    """Run a console command. An error that the user can mend ends as one sentence on stderr and exit status 1.

    A signal, or a reader of our output that leaves, ends it as :class:`mpt.signals.Interrupted`, with one sentence and
    the status 128 + its number. ``--traceback`` among the arguments (or MPT_TRACEBACK in the environment) shows the
    traceback of an error instead.
    """
    arguments = sys.argv[1:]
    if "--traceback" in arguments:
        os.environ["MPT_TRACEBACK"] = "1"
        sys.argv[1:] = arguments = [argument for argument in arguments if argument != "--traceback"]
    with handled(functools.partial(_say_interrupted, name)):
        try:
            function(arguments)
        except BaseException as error:
            ended = cause(error)
            if isinstance(ended, Interrupted):
                _interrupt(name, ended)
            if not isinstance(error, (Exception, SystemExit)) or not is_mendable(error):
                raise
            give_up(name, error)


def _interrupt(name: str, interruption: Interrupted) -> NoReturn:
    """Exit with one sentence that says how to go on, and with the status of the signal."""
    unwind()
    if interruption.signum == signal.SIGPIPE:  # nobody reads our output: nothing must flush it at the end
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _say_interrupted(name, interruption.signum)
    sys.exit(interruption.status)


def _say_interrupted(name: str, signum: int) -> None:
    text = description()
    if text is None:
        text = "" if signum == signal.SIGPIPE else ": repeat the command"  # as in `mpt-ticket info ... | head`
    if text:
        with contextlib.suppress(OSError):
            print(f"{name}: interrupted{text}", file=sys.stderr, flush=True)


def _tell_torchrun(text: str) -> None:
    """Let the block that torchrun prints of a failed process hold our sentence, instead of a link to torch's pages."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": text, "timestamp": int(time.time())}))


def give_up(command: str, error: BaseException) -> NoReturn:
    """Exit with status 1 and, in the first process of a run, one sentence; raise ``error`` if the user asked for it."""
    if os.environ.get("MPT_TRACEBACK", "0") not in ("", "0"):
        raise error
    _tell_torchrun(f"{command}: {printable(sentence(error), MAX_TEXT)}")
    if isinstance(error, ToldElsewhereError) or not is_first():
        sys.exit(getattr(error, "status", 1))
    sys.exit(f"{command}: {printable(sentence(error), MAX_TEXT)}")
