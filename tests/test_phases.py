"""The line of a terminal that names the phases of a command."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import weakref

import numpy as np
import pytest
from PIL import Image

from mpt import phases
from tests.console import SMALL, command, on_terminal, terminal


@contextlib.contextmanager
def on(stream):
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        yield


def in_order(words, text):
    """Assert that all ``words`` are in ``text``, each after the one before."""
    at = 0
    for word in words:
        found = text.find(word, at)
        assert found >= 0, f"no {word!r} after {text[max(0, at - 200) : at]!r}"
        at = found + len(word)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in "abcd":
            (root / split / name).mkdir(parents=True)
            for number in range(20):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


@pytest.mark.slow
def test_every_phase_of_a_run_and_of_an_evaluation_shows_on_a_terminal(tmp_path, pictures, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = [word for word in SMALL if not word.startswith("data") and word != "epochs=3"]
    run = on_terminal(
        *("train", *small, "epochs=2", "data=image_folder", f"data.root={pictures}", "hydra.run.dir=run"),
        cwd=tmp_path,
    )
    in_order(
        (
            "importing",
            "reading the options",
            "importing torch",
            "building the network",
            "reading the data image_folder",
            "decoding 80 pictures",
            "0 of 80",
            "building the network",
            "directory   ",
            "preparing the first step",
            "epoch 1 of 2: measuring the accuracy",
            "epoch 1 of 2: saving",
            "epoch   1/2",
            "epoch 2 of 2: measuring the accuracy",
            "writing the ticket",
            "measuring the ticket on 80 test images",
            "accuracy  ",
        ),
        run,
    )
    assert "poch 0" not in run
    evaluation = on_terminal("eval", "run/ticket.safetensors", f"data.root={pictures}", cwd=tmp_path)
    in_order(("importing torch", "reading the ticket", "reading the data", "measuring 80 test", "accuracy"), evaluation)
    quiet = on_terminal("train", *SMALL, "epochs=1", "trainer.progress=false", "hydra.run.dir=quiet", cwd=tmp_path)
    assert "measuring" not in quiet
    assert quiet.endswith("data=synthetic\r\n")


def test_nothing_of_it_is_written_to_a_pipe(tmp_path):
    done = command("train", *SMALL, "epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    assert not done.stderr
    assert "\x1b" not in done.stdout
    assert "importing" not in done.stdout


def test_a_printed_line_stands_above_unbroken_and_the_line_is_gone_at_the_end():
    long = "word " * 60 + "[red]end"
    with terminal(columns=60) as (stream, written), on(stream):
        with phases.shown("thinking " * 20):
            print(long)
            print("to stderr", file=sys.stderr)
        print("after")
    assert long in written()
    assert written().rindex("\x1b[2K") < written().index("after")
    assert written().count("\x1b[?25h") == 1  # the cursor is there again
    frames = re.findall(r"\x1b\[2K([^\r\n\x1b]*think[^\r\n\x1b]*)", written())
    assert frames
    assert all(len(frame) < 60 for frame in frames)


def test_an_inner_phase_gives_way_to_the_one_around_it():
    with terminal() as (stream, written), on(stream), phases.shown("outer"):
        assert phases.is_shown()
        with phases.shown("inner"):
            pass
        assert list(phases.track("ab", "counting", 2)) == ["a", "b"]
    assert not phases.is_shown()
    in_order(("outer", "inner", "outer", "counting: 0 of 2", "outer"), written())


def test_a_count_shows_by_itself_where_no_command_speaks():
    with terminal() as (stream, written), on(stream):
        for _ in phases.track(range(3), "counting", 3):
            assert phases.is_shown()
        assert not phases.is_shown()
        assert list(phases.track(range(3), "never", 3, wanted=False)) == [0, 1, 2]
    assert "counting: 0 of 3" in written()
    assert "never" not in written()


def test_an_error_ends_the_line():
    with terminal() as (stream, written), on(stream), pytest.raises(ValueError), phases.shown("failing"):
        raise ValueError
    assert not phases.is_shown()
    assert "failing" in written()


def test_a_forked_child_has_the_streams_from_before_the_line():
    with terminal() as (stream, written), on(stream), phases.shown("parent"):
        child = os.fork()
        if child == 0:
            os._exit(not (sys.stdout is stream and not phases.is_shown()))
        assert os.waitpid(child, 0)[1] == 0
        assert phases.is_shown()
    assert "parent" in written()


def test_a_run_for_which_a_sweep_speaks_tells_nothing_and_names_its_notes(tmp_path, capsys):
    with phases.silent():
        phases.tell("told")
        phases.note("strange", tmp_path / "run")
        with terminal() as (stream, written), on(stream), phases.shown("a run"):
            assert not phases.is_shown()
    phases.note("strange", tmp_path / "run")
    phases.tell("told")
    assert capsys.readouterr().out == "note      run: strange\nnote      strange\ntold\n"
    assert not written()


def test_other_things_are_drawn_above_the_line():
    with terminal() as (stream, written), on(stream), phases.shown("below"):
        with phases.drawn_above(lambda: "a table"):
            phases.say("still below")
        phases.say("alone")
    in_order(("a table", "still below", "alone"), written())


def test_the_collector_of_circles_leaves_what_is_imported_alone():
    with phases.importing():
        assert not gc.isenabled()
        kept = [[] for _ in range(1000)]
        circle = Circle()
    assert gc.isenabled()
    oldest = gc.get_objects(generation=2)
    assert len({id(item) for item in kept} & {id(item) for item in oldest}) == len(kept)
    left = weakref.ref(circle)
    del circle, oldest
    gc.collect()
    assert left() is None  # it looks at them, if seldom: a network that a notebook made before is not kept for ever
    gc.disable()
    try:
        with phases.importing("reading"):
            pass
        assert not gc.isenabled()  # as the caller had it
    finally:
        gc.enable()


class Circle:
    def __init__(self):
        self.own = self
