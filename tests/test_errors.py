from __future__ import annotations

import json
import subprocess
import sys
from unittest import mock

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mpt.errors import give_up, is_mendable, run_command, sentence
from tests.console import compose


def raised(function):
    """The exception that ``function`` raises."""
    with pytest.raises((Exception, SystemExit)) as caught:
        function()
    return caught.value


def test_a_user_can_mend_errors_of_values_files_hydra_omegaconf_and_yaml_and_no_others():
    assert is_mendable(ValueError("x"))
    assert is_mendable(FileNotFoundError("x"))
    for function, kind in (
        (lambda: compose("prun=1"), HydraException),
        (lambda: OmegaConf.to_container(OmegaConf.create({"a": "${b}"}), resolve=True), OmegaConfBaseException),
        (lambda: yaml.safe_load("a: ["), yaml.YAMLError),
    ):
        error = raised(function)
        assert isinstance(error, kind)
        assert is_mendable(error)
    for error in (RuntimeError("x"), KeyError("x"), TypeError("x"), AssertionError("x"), KeyboardInterrupt()):
        assert not is_mendable(error)


def test_errors_of_hydra_omegaconf_and_yaml_are_known_without_importing_them():
    code = "import sys, mpt.errors; sys.exit(bool({'hydra', 'omegaconf', 'yaml'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


OWN = {  # what the file own_code.py of a user holds, and the sentence of an error in it
    "def build():\n    return {}['key']": "line 2 of own_code.py, in build: KeyError: 'key': mend it there; --trace",
    "def build():\n    raise RuntimeError": "line 2 of own_code.py, in build: RuntimeError: mend it there; --trace",
    "import json\ndef build():\n    json.loads(None)": "line 3 of own_code.py, in build: TypeError: the JSON object",
    "import sys\ndef build():\n    sys.exit()": "line 3 of own_code.py, in build: it ends the program (sys.exit)",
    "def build():\n    raise ValueError('norm must be above 0')": "norm must be above 0",
}


@pytest.mark.parametrize("code", OWN)
def test_an_error_in_code_of_the_users_own_is_named_with_its_line(tmp_path, capsys, monkeypatch, code):
    file = tmp_path / "own_code.py"
    file.write_text(code)
    own = {}
    exec(compile(code, file, "exec"), own)
    monkeypatch.setattr(sys, "argv", ["mpt-x"])
    with pytest.raises(SystemExit) as ended:
        run_command("mpt-x", lambda arguments: own["build"]())
    assert str(ended.value).startswith(f"mpt-x: {OWN[code]}")
    assert "\n" not in str(ended.value)


def test_an_error_in_code_of_mpt_is_none_that_the_user_can_mend():
    error = raised(lambda: json.loads(None))
    error.__traceback__ = error.__traceback__.tb_next.tb_next  # without this file
    assert not is_mendable(error)


def test_a_folder_that_was_removed_under_the_command_is_named_as_the_cause(tmp_path, monkeypatch):
    error = raised(lambda: (_ for _ in ()).throw(FileNotFoundError(2, "No such file or directory")))
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    assert "the output, or a file" in sentence(error)
    (tmp_path / "gone").rmdir()
    assert sentence(error) == "the folder in which the command was started is gone: change to another (cd)"


def test_no_traceback_is_asked_for_by_0(monkeypatch):
    monkeypatch.setenv("MPT_TRACEBACK", "0")
    with pytest.raises(SystemExit, match="mpt-x: wrong"):
        give_up("mpt-x", ValueError("wrong"))


def test_a_file_that_is_not_utf_8_is_named_as_such():
    assert sentence(raised(lambda: b"\xff".decode())).startswith("a file of text is not UTF-8: save it as UTF-8")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model=nope", "model has no choice 'nope': take one of cifar_resnet110, "),
        ("+nope=1", "there is no option nope: take one of "),
        ("optim.nope=1", "there is no option optim.nope: --help lists them"),
        ("epochs=two", "epochs must be a whole number, got two"),
    ],
)
def test_an_error_of_hydra_becomes_one_line_that_says_what_to_do(override, words):
    text = sentence(raised(lambda: compose(override)))
    assert text.startswith(words)
    assert "\n" not in text
    assert "full_key" not in text


def test_a_sentence_names_the_file_of_an_os_error_and_the_class_of_an_empty_one(tmp_path):
    path = tmp_path / "x"
    assert sentence(raised(path.read_text)) == f"{path}: No such file or directory: check its name"
    assert sentence(ValueError()) == "ValueError"
    assert sentence(ValueError("one\n  two\none")) == "one two"


def run(error, *arguments):
    """Run a command that raises ``error``; return the ``SystemExit`` and the arguments that it got."""
    seen = []

    def function(given):
        seen.extend(given)
        raise error

    with mock.patch.object(sys, "argv", ["mpt-x", *arguments]), pytest.raises(SystemExit) as caught:
        run_command("mpt-x", function)
    return caught.value, seen


def test_a_command_ends_with_one_sentence_or_with_the_status_of_an_interrupt(monkeypatch):
    monkeypatch.delenv("MPT_TRACEBACK", raising=False)
    exit_, arguments = run(ValueError("width must be above 0"), "width=0")
    assert (exit_.code, arguments) == ("mpt-x: width must be above 0", ["width=0"])
    assert run(KeyboardInterrupt())[0].code == 130


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    monkeypatch.delenv("MPT_TRACEBACK", raising=False)
    with mock.patch.object(sys, "argv", ["mpt-x"]), pytest.raises(TypeError):
        run_command("mpt-x", sentence.__get__(1))  # called with an argument too many


def test_a_flag_shows_the_traceback_and_is_hidden_from_the_command(monkeypatch):
    monkeypatch.setenv("MPT_TRACEBACK", "")  # restored afterwards
    seen = []

    def function(arguments):
        seen.extend(arguments)
        raise ValueError("x")

    with (
        mock.patch.object(sys, "argv", ["mpt-x", "--traceback", "a=1"]),
        pytest.raises(ValueError, match=r"^x$"),
    ):
        run_command("mpt-x", function)
    assert seen == ["a=1"]


def test_torchrun_is_told_the_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    with pytest.raises(SystemExit):
        give_up("mpt-x", ValueError("prune is too large"))
    assert json.loads((tmp_path / "error.json").read_text())["message"] == "mpt-x: prune is too large"


def test_a_reader_that_goes_away_ends_a_command_without_a_traceback():
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "mpt.commands.cli", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate()
    assert (process.returncode, errors) == (141, b"")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            MemoryError("Unable to allocate 3.2 TiB for an array"),
            r"the memory is full (3.2 TiB more were needed): lower",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes"),
            "80 bytes",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), "2.00 GiB more were needed"),
    ],
)
def test_a_full_memory_is_one_sentence(error, words):
    assert is_mendable(error)
    assert words in sentence(error)
