"""Shell completion of all commands: ``eval "$(mpt completion bash)"``. Imported only when a shell asks.

Click has the scripts of the shells and the form of their questions; the answers follow from the settings' classes, the
files in ``conf/`` and the texts of ``--help``.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from click import Command
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from mpt.commands import help, page
from mpt.commands.schemas import THEORY_COMMANDS, TICKET_COMMANDS, EvalSettings, PageSettings, PredictSettings
from mpt.commands.spelling import option_names
from mpt.files import CONF, HOME
from mpt.run.settings import FinetuneSettings, Settings, dials

_PLAIN = ("--help", "--version", "--traceback")
# lines of Click's scripts, and what stands in their place: no space after ``prune=``, files after ``data.root=``, and
# values with a comma. A test says when Click has changed them.
BASH = {"COMPREPLY+=($value)": "COMPREPLY+=($value)\n            [[ $value == *= ]] && compopt -o nospace"}
ZSH = {
    "compadd -U -V unsorted -a completions": """local -a end
        [[ $completions[1] == *= ]] && end=(-S '')
        compadd -U "${end[@]}" -V unsorted -a completions""",
    "_path_files -f": "compset -P '*='; _path_files -f",
}
FISH = {
    'string split "," $completion': 'string split -m 1 "," $completion',
    "__fish_complete_directories $metadata[2]": "__fish_complete_directories (commandline -ct)",
    "__fish_complete_path $metadata[2]": """set -l word (commandline -ct);
            set -l option (string match -r '^[^=/]*=' -- $word);
            string replace -r '^' "$option" -- (__fish_complete_path (string replace -r '^[^=/]*=' '' -- $word))""",
}


@dataclass(frozen=True)
class About:
    """What follows a command: first words, options of a settings' class, flags, and ``file`` or ``dir``."""

    first: Sequence[str] = ()
    schema: type | None = None
    flags: Sequence[str] = _PLAIN
    path: str = ""
    under: dict[str, Any] = field(default_factory=dict)  # first word -> its settings' class


def _sweeps() -> list[str]:
    return sorted(path.stem for path in (HOME / "sweeps").glob("*.yaml"))


_RUN = ("-m", "--dry-run", "--cfg", "--config-dir", "--config-name", *_PLAIN)
_FILE = ("--config-dir", "--json", *_PLAIN)
COMMANDS: dict[str, Callable[[], About]] = {
    "mpt": lambda: About(("new", "completion")),
    "mpt-train": lambda: About(schema=Settings, flags=_RUN),
    "mpt-finetune": lambda: About(schema=FinetuneSettings, flags=_RUN, path="file"),
    "mpt-eval": lambda: About(schema=EvalSettings, flags=_FILE, path="file"),
    "mpt-predict": lambda: About(schema=PredictSettings, flags=_FILE, path="file"),
    "mpt-ticket": lambda: About(tuple(TICKET_COMMANDS), flags=_FILE, path="file", under=TICKET_COMMANDS),
    "mpt-theory": lambda: About(tuple(THEORY_COMMANDS), flags=("-o", *_FILE), path="file", under=THEORY_COMMANDS),
    "mpt-report": lambda: About(schema=PageSettings, path="dir"),
    "mpt-status": lambda: About(path="dir"),
    "mpt-wandb": lambda: About(("sync",), path="dir"),
    "mpt-dashboard": lambda: About(_sweeps()),
    "mpt-results": lambda: About(flags=(), path="file"),  # argparse knows its flags
    "mpt-plot": lambda: About(flags=(), path="file"),
    "mpt-verdicts": lambda: About(flags=(), path="file"),
}
_TEXTS = {"mpt-train": "train", "mpt-finetune": "finetune", "mpt-eval": "evaluate", "mpt-theory": "theory"}
_TEXTS |= {"mpt-predict": "predict", "mpt-ticket": "ticket", "mpt-report": "report"}
_AFTER = {"new": ("method", "model"), "completion": ("bash", "zsh", "fish")}  # of mpt


def answers(
    command: str, words: Sequence[str], word: str, *, function: Callable[[list[str]], None] | None = None
) -> list[CompletionItem[str]]:
    """What ``word``, which follows ``words`` after the name ``command``, may become.

    Args:
        command: its name.
        words: that are complete.
        word: that is not; may be empty.
        function: the command itself, where argparse reads its arguments.
    """
    about = COMMANDS[command]()
    if "--help" in words and command in _TEXTS:
        return _starting(page.topics(getattr(help, _TEXTS[command])()), word)
    schema = about.under.get(words[0]) if words else None
    schema = schema or about.schema
    if "=" in word and schema is not None:
        return _values(schema, *word.split("=", 1))
    if word.startswith("-"):
        return _starting(about.flags or _flags_of(function), word)
    if about.first and not words:
        return _starting(about.first, word)
    if command == "mpt" and len(words) == 1:
        return _starting(_AFTER.get(words[0], ()), word)
    if words and words[-1] == "--figure":
        return _starting(_figures(), word)
    options = _starting([f"{name}=" for name in sorted(option_names(schema))], word) if schema else []
    files = [CompletionItem("", type=about.path)] if about.path and (not word or not options) else []
    return files or options


def script(shell: str, *, variable: str) -> str:
    """What ``shell`` evaluates to complete all commands, which it asks by the environment ``variable``.

    Raises:
        ValueError: there is no script for this shell.
    """
    if shell not in SHELLS:
        raise ValueError(f"name a shell: mpt completion {'|'.join(SHELLS)}, got {shell or 'nothing'}")
    return "\n".join(_shell(shell, name, variable).source() for name in COMMANDS)


def answer(command: str, function: Callable[[list[str]], None], *, variable: str) -> str:
    """The answer of ``command`` to the question in the environment ``variable``; empty to one of another kind."""
    shell, _, what = os.environ[variable].partition("_")
    return _shell(shell, command, variable, function).complete() if shell in SHELLS and what == "complete" else ""


class _Answers(ShellComplete):
    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[Any]]:
        return answers(self.prog_name, args, incomplete, function=self.ctx_args.get("function"))


def _altered(template: str, lines: dict[str, str]) -> str:
    for line, ours in lines.items():
        template = template.replace(line, ours)
    return template


class _Bash(_Answers, BashComplete):
    """Bash takes ``=`` for a word of its own, and completes what follows it."""

    source_template = _altered(BashComplete.source_template, BASH)

    def get_completion_args(self) -> tuple[list[str], str]:
        args, word = super().get_completion_args()
        glued: list[str] = []
        for part in [*args, word]:
            if glued and (part == "=" or glued[-1].endswith("=")):
                glued[-1] += part
            else:
                glued.append(part)
        return glued[:-1], glued[-1]

    def format_completion(self, item: CompletionItem[Any]) -> str:
        name, equals, value = item.value.partition("=")
        return f"{item.type},{value if value else name + equals}"


class _Zsh(_Answers, ZshComplete):
    source_template = _altered(ZshComplete.source_template, ZSH)


class _Fish(_Answers, FishComplete):
    source_template = _altered(FishComplete.source_template, FISH)


SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def _shell(
    shell: str, command: str, variable: str, function: Callable[[list[str]], None] | None = None
) -> ShellComplete:
    return SHELLS[shell](Command(command), {"function": function}, command, variable)


def _starting(candidates: Sequence[str], word: str) -> list[CompletionItem[str]]:
    return [CompletionItem(candidate) for candidate in candidates if candidate.startswith(word)]


def _values(schema: type, name: str, given: str) -> list[CompletionItem[str]]:
    """The values of the option ``name``, after the last comma of ``given``; files where they are not known."""
    before, comma, last = given.rpartition(",")
    known = [value for value in _known_values(schema, name) if value.startswith(last)]
    if not known:
        return [CompletionItem("", type="file")]
    return [CompletionItem(f"{name}={before}{comma}{value}") for value in known]


def _known_values(schema: type, name: str) -> list[str]:
    folder = HOME / "sweeps" if name == "sweeps" else CONF / name
    if name and "." not in name and folder.is_dir():
        return sorted(path.stem for path in folder.glob("*.yaml"))
    for key, f in dials(schema):
        if key == name:
            if str(f.type).startswith("bool"):
                return ["true", "false"]
            valid = f.metadata["valid"]
            words = re.split(", | or ", valid.words) if valid else []
            with contextlib.suppress(Exception):  # of a check that expects numbers
                return words if len(words) > 1 and all(valid.accepts(value) for value in words) else []
    return []


def _flags_of(command: Callable[[list[str]], None] | None) -> list[str]:
    """The flags of a command that argparse reads."""
    if command is None:
        return []
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        command(["--help"])
    return sorted(set(re.findall(r"--[a-z][a-z-]*", text.getvalue().partition("examples:")[0])))


def _figures() -> list[str]:
    from mpt.analysis.figures import FIGURES
    from mpt.analysis.papers import TABLES

    return [*FIGURES, *TABLES]
