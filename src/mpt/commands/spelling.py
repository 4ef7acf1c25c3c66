"""Refuse slips of a command line before Hydra composes it: Hydra's sentences are about its grammar, and come late."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from mpt.files import CONF, HOME
from mpt.run.settings import Settings, dials, group_class

DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"  # what word processors make of a hyphen
_KEY = re.compile(r"(\+{0,2}|~)([A-Za-z_]\w*)(\.\w+)?([\w.]*)")  # 2: the option, or its group; 3: the option in it
_CONFIGURATION = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp")
_PLACE = re.compile(r"file://([^]'\",]+)")
_PACKAGE = re.compile(r"pkg://(\w+)")
_OPENED = re.compile(r"\++hydra\.(\w+)(?:\.(\w+))?")
_HYDRA = (  # what Hydra has; it takes others in silence
    *("callbacks", "env", "help", "hydra_help", "hydra_logging", "job", "job_logging", "launcher", "mode"),
    *("output_subdir", "overrides", "run", "runtime", "searchpath", "sweep", "sweeper", "verbose"),
)
_FOLDERS = {"run": (None, "dir"), "sweep": (None, "dir", "subdir")}
_SCALAR = re.compile(r"[-+]?([\d._]+(e[-+]?\d+)?|nan|inf)|true|false|\{.*", re.IGNORECASE)
_LEAST = {"hydra.launcher.n_jobs": "-1 for all cores, or at least 1"}  # numbers that must not be 0, and which may be
_LEAST |= dict.fromkeys(("hydra.sweeper.n_trials", "hydra.sweeper.n_jobs"), "at least 1")
_UNUSED = {  # options of Hydra that a run of mpt does not follow
    "hydra.job.chdir": "mpt writes into the run's directory from where it was started",
    "hydra.sweep.subdir": "the settings name the directory of each run of a sweep",
}


def check_flag(flag: str, value: str | None, known: Sequence[str], *, schema: type, command: str) -> None:
    """Raise ValueError for an argument that begins with a dash and is none of the flags ``known``.

    Args:
        flag: the argument; what follows ``=`` in it is its value.
        value: the next argument, if there is one.
        known: the flags that the command has.
        schema: its settings.
        command: its name.
    """
    name, equals, given = flag.partition("=")
    if name in known and not equals:
        return
    if equals or (value and not value.startswith(tuple(DASHES)) and "=" not in value):
        given, written = given or value or "", flag if equals else f"{flag} {value}"
    else:
        written = flag
    from mpt.commands.synonyms import advice, nearest  # here and below: a command without a slip has no use for it

    word, options = name.strip(DASHES), option_names(schema)
    option = word.lower().replace("-", "_")
    if option in options:
        raise ValueError(f"options have no dashes: write {option}={given or 'VALUE'}, not {written}")
    if name in known:
        raise ValueError(f"{name} takes no equals sign: write {name}{f' {given}' if name in _CONFIGURATION else ''}")
    if near := nearest(name, known, cutoff=0.75):
        raise ValueError(f"there is no flag {name}: did you mean {near}?")
    hint = advice(word, options, value=given) if word else ""
    raise ValueError(f"there is no flag {name}: {hint or f'{command} --help lists the options, as in name=value'}")


def check_spelling(
    flags: Sequence[str], overrides: Sequence[str], schema: type = Settings, *, command: str = "mpt-train"
) -> None:
    """Raise ValueError for an option that ``schema`` does not have, such as ``prun=0.5``, or that has no value.

    Hydra checks the rest: ``model.x``, ``hydra.x``, and every option if a flag or ``hydra.searchpath`` names the user's
    configuration files.
    """
    _check_forms(overrides, schema, command)
    if any(flag.partition("=")[0] in _CONFIGURATION for flag in flags):
        return
    if any(override.startswith("hydra.searchpath=") for override in overrides):
        return
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} if schema.__name__ in _RUNS else set()
    options = {f.name: group_class(f) for f in fields(schema) if f.metadata["of"] != "input"}
    top = {*options, *groups} | ({"sweeps"} if groups else set())
    switches = {name for name, f in dials(schema) if str(f.type).startswith("bool")}
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+") in switches and value.isdecimal() and value not in ("0", "1"):
            raise ValueError(f"{key} must be true or false, got {value}")
        if not (plain := _KEY.fullmatch(key)):
            continue
        spelt, known = plain[2], top
        if spelt in top and plain[3] and (nested := options.get(spelt)):
            spelt, known = spelt + plain[3], {f"{spelt}.{f.name}" for f in fields(nested)}
        misplaced = spelt in ("model", "method") and plain[3] and plain[3][1:] in {*options} - {"dense"}
        if spelt not in known or misplaced:
            from mpt.commands.synonyms import advice

            hint = (
                f"write {plain[3][1:]}={value}"
                if misplaced
                else advice(key.lstrip("+~"), option_names(schema), value=value)
            )
            raise ValueError(f"there is no option {key.lstrip('+~')}: {_then(hint)}--help lists them")
        _check_known(override, plain[1], plain[2] + (plain[3] or ""), options)


_RUNS = ("Settings", "FinetuneSettings")


def _then(hint: str) -> str:
    """The hint and what separates it from further words; empty if there is none."""
    return hint and (f"{hint} " if hint.endswith("?") else f"{hint}; ")


def _check_forms(overrides: Sequence[str], schema: type, command: str) -> None:
    """Raise ValueError for arguments that are not of the form ``name=value``."""
    for place, override in enumerate(overrides):
        key, equals, value = override.partition("=")
        if key != key.strip() or " " in key or key in ("", "+", "~"):
            following = [] if value or not equals else [*overrides[place + 1 : place + 2]]
            written = " ".join([override, *following])
            raise ValueError(f"an option is written name=value, without spaces: got {written!r}")
        if not equals and not key.startswith("~"):
            _refuse_word(key, overrides[place + 1 :], schema, command)
        if equals and not value.strip():
            raise ValueError(f"{key} has no value: write {key}=VALUE, without spaces")
        if key == "hydra.searchpath" and (gone := [p for p in _PLACE.findall(value) if not Path(p).is_dir()]):
            raise ValueError(f"{key} names {gone[0]}: there is no such folder")
        if key == "hydra.searchpath" and (
            gone := [p for p in _PACKAGE.findall(value) if p not in sys.modules and not find_spec(p)]
        ):
            raise ValueError(f"{key} names {gone[0]}: there is no such package")
        opened = _OPENED.match(key)
        if opened and (opened[1] not in _HYDRA or opened[2] not in _FOLDERS.get(opened[1], (opened[2],))):
            raise ValueError(f"there is no option {key.lstrip('+')}: --help lists them")
        if key in _LEAST and re.fullmatch(r"0|-\d+", value) and not (value == "-1" and "-1" in _LEAST[key]):
            raise ValueError(f"{key} must be {_LEAST[key]}, got {value}")
        if key in _UNUSED and value.lower() not in ("false", "null", "."):
            raise ValueError(f"{key} has no effect, because {_UNUSED[key]}: leave it out")


def _refuse_word(word: str, following: Sequence[str], schema: type, command: str) -> NoReturn:
    """Raise ValueError for an argument without ``=``, with what it may be."""
    from mpt.commands.synonyms import advice, nearest

    options = option_names(schema)
    key, colon, value = word.partition(":")
    if colon and key in options:
        raise ValueError(f"an option is written with an equals sign: write {key}={value}")
    if word in options:
        value = following[1] if following[:1] == ["="] and len(following) > 1 else "VALUE"
        raise ValueError(
            f"{word} has no value: write {word}={value}{', without spaces' if following[:1] == ['='] else ''}"
        )
    if Path(word).suffix == ".safetensors" or Path(word).is_file():
        raise ValueError(
            f"{command} takes no file, got {word}: mpt-finetune trains the weights of a ticket, mpt-eval measures it"
        )
    for folder in [*sorted(path for path in CONF.iterdir() if path.is_dir()), HOME / "sweeps"]:
        if folder.name in {*options, "sweeps"} and (folder / f"{word}.yaml").is_file():
            raise ValueError(f"{word} is a choice of {folder.name}: write {folder.name}={word}")
    networks = {path.stem.removeprefix("cifar_"): path.stem for path in (CONF / "model").glob("*.yaml")}
    if "model" in options and (near := networks.get(nearest(word.removeprefix("cifar_"), list(networks)) or "")):
        raise ValueError(
            f"{word} has no equals sign: for a network write model={near} or model=torchvision model.name={word}"
        )
    hint = advice(word, options, value="VALUE")
    raise ValueError(f"{word} has no equals sign: {_then(hint)}options are written name=value")


def _check_known(override: str, sign: str, name: str, options: dict[str, type | None]) -> None:
    """Raise ValueError for ``+prune=0.5``, ``~model``, ``model=1`` and ``model=[conv2,conv4]``."""
    value = override.partition("=")[2]
    group, _, inner = name.partition(".")
    if sign == "~":
        raise ValueError(f"{override} would remove an option, which every run needs: give {name} another value instead")
    if name in ("model", "method", "recipe", "sweeps") or options.get(name):
        if value.startswith("[") and name != "logger":
            several = value.strip("[] ")
            raise ValueError(
                f"{name} takes one choice, got {value}: mpt-train -m {name}={several} runs one after the other"
            )
        if name == "logger" and re.match(r"\[.*(\[|\{|\bnull\b|\b\d+\b)", value):
            raise ValueError(f"logger takes names of choices, as in logger=[wandb,tensorboard], got {value}")
        if (value == "null" and name != "recipe") or _SCALAR.fullmatch(value):
            raise ValueError(f"{name} takes the name of a choice, got {value}: --help lists the choices")
    if sign == "+" and group in options and group not in (("model", "method") if inner else ()):
        raise ValueError(f"{name} has a value already: write {name}={value}, without +")


def option_names(schema: type) -> set[str]:
    """The dotted names of all options of a command, those of its groups and of method=biprop too."""
    names = {name for name, f in dials(schema) if f.metadata["of"] != "input"} | {f.name for f in fields(schema)}
    if schema.__name__ in _RUNS:
        names |= {"hydra.run.dir", *(["sweeps"] if schema is Settings else [])}
        method = (CONF / "method" / "biprop.yaml").read_text()
        names |= {f"method.{name}" for name in re.findall(r"^(\w+):", method, re.M) if name not in ("name", "target")}
    return {name for name in names if not name.endswith((".name", "_target_", "_checksum", "_digest"))} | {"model.name"}
