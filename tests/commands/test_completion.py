"""Shell completion: the answers, and real shells that ask for them."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import termios

import pytest
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from mpt.commands.command import VARIABLE
from mpt.commands.completion import BASH, COMMANDS, FISH, SHELLS, ZSH, answers, script
from tests.console import COMMANDS as FOLDER
from tests.console import SCRIPTS

bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
ENVIRONMENT = {**os.environ, "PATH": f"{FOLDER}:{os.environ['PATH']}", "PS1": "$ ", "TERM": "dumb"}


def values(command, *words):
    return [item.value for item in answers(command, words[:-1], words[-1])]


def test_every_command_has_a_completion():
    assert set(COMMANDS) == set(SCRIPTS)
    for shell in SHELLS:
        assert all(f"_{name.replace('-', '_')}_completion" in script(shell, variable=VARIABLE) for name in SCRIPTS), (
            shell
        )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("mpt-train", "pru"), ["prune="]),
        (("mpt-train", "model=conv"), ["model=conv2", "model=conv4", "model=conv6", "model=conv8"]),
        (("mpt-train", "-m", "prune=0.5", "model=conv2,vgg"), ["model=conv2,vgg_small"]),
        (("mpt-train", "trainer.progress="), ["trainer.progress=true", "trainer.progress=false"]),
        (("mpt-train", "data.augment=a"), ["data.augment=augmix"]),
        (("mpt-train", "method.score_gr"), ["method.score_grad="]),
        (("mpt-train", "--dr"), ["--dry-run"]),
        (("mpt-train", "--help", "optim.le"), []),
        (("mpt-train", "--help", "optim.n"), ["optim.name", "optim.nesterov"]),
        (("mpt-eval", "x.safetensors", "engine=li"), ["engine=lists"]),
        (("mpt-ticket", "ex"), ["export"]),
        (("mpt-ticket", "export", "x", "weights=int"), ["weights=int8", "weights=int4", "weights=int2"]),
        (("mpt-theory", "construct", "x", "form=r"), ["form=real"]),
        (("mpt-plot", "runs", "--figure", "fig"), ["fig1", "fig2", "fig3", "fig4", "fig5"]),
        (("mpt-dashboard", "fig2"), ["fig2"]),
        (("mpt", "new", "m"), ["method", "model"]),
        (("mpt", "c"), ["completion"]),
    ],
)
def test_answers(words, expected):
    assert values(*words) == expected


def test_files_and_folders_are_left_to_the_shell():
    assert [item.type for item in answers("mpt-eval", [], "")] == ["file"]
    assert [item.type for item in answers("mpt-status", [], "ru")] == ["dir"]
    assert [item.type for item in answers("mpt-train", [], "data.root=pic")] == ["file"]


@pytest.mark.parametrize(
    ("complete", "lines"), [(BashComplete, BASH), (ZshComplete, ZSH), (FishComplete, FISH)], ids=["bash", "zsh", "fish"]
)
def test_the_scripts_of_click_still_have_the_lines_that_we_alter(complete, lines):
    assert [line for line in lines if complete.source_template.count(line) != 1] == []


def test_an_unknown_shell_is_refused():
    with pytest.raises(ValueError, match=r"mpt completion bash\|zsh\|fish, got csh"):
        script("csh", variable=VARIABLE)


def test_a_command_answers_without_torch_or_hydra():
    code = """
import os, sys
os.environ |= {"_MPT_COMPLETE": "bash_complete", "COMP_WORDS": "mpt-train\\npru", "COMP_CWORD": "1"}
from mpt.commands.cli import train
train()
sys.exit(bool({"torch", "hydra", "pandas"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "plain,prune=\n")


def test_no_command_imports_click_unless_a_shell_asks():
    code = "import sys; from mpt.commands import cli, results; sys.exit('click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@bash
def test_bash_registers_a_function_for_every_command():
    done = subprocess.run(
        ["bash", "--norc", "-c", 'eval "$(mpt completion bash)"; complete -p'],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    assert {line.split()[-1] for line in done.stdout.splitlines()} == set(SCRIPTS)


TYPED = {  # a line -> what it becomes; \t is the tabulator key
    "mpt-train model=vgg\t trainer.prog\tfa\t": "mpt-train model=vgg_small trainer.progress=false",
    "mpt-train -m model=conv2,vgg\t": "mpt-train -m model=conv2,vgg_small",
    "mpt-train --help optim.ne\t": "mpt-train --help optim.nesterov",
    "mpt-train data.root=pic\t": "mpt-train data.root=pictures",
    "mpt-train data.root=pictures/tr\t": "mpt-train data.root=pictures/train",
    "mpt-eval pictures/ti\t": "mpt-eval pictures/ticket.safetensors",
    "mpt-status pictures/tr\t": "mpt-status pictures/train",
    "mpt-plot --publ\t": "mpt-plot --published",
    "mpt-ticket exp\tx weights=fl\t": "mpt-ticket export x weights=float",
}
SHELL = {  # how it starts without a user's settings, and how it learns to complete
    "bash": (["--norc", "--noprofile", "-i"], "bind 'set enable-bracketed-paste off'; eval \"$(mpt completion bash)\""),
    "zsh": (["-f", "-i"], 'autoload -U compinit; compinit -u -D; eval "$(mpt completion zsh)"'),
    "fish": (["--no-config", "-i"], "mpt completion fish | source"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "shell",
    [
        pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"needs {name}"))
        for name in SHELL
    ],
)
def test_a_line_is_completed_at_the_tabulator(shell, tmp_path):
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    (tmp_path / "pictures" / "ticket.safetensors").touch()
    options, start = SHELL[shell]
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execvpe(shell, [shell, *options], ENVIRONMENT | home)
    termios.tcsetwinsize(terminal, (50, 200))
    lines = [f"{line}\x01echo \x05 >> said\n" for line in TYPED]  # at the beginning of the line, and at its end
    os.write(terminal, (start + "\n" + "".join(lines) + "exit\n").encode())
    seen = b""
    try:
        while part := os.read(terminal, 65536):
            seen += part
    except OSError:  # the shell has ended
        pass
    os.waitpid(child, 0)
    os.close(terminal)
    assert (tmp_path / "said").exists(), seen
    said = [line.rstrip("/") for line in (tmp_path / "said").read_text().splitlines()]  # of which zsh drops some
    assert said == list(TYPED.values()), seen
