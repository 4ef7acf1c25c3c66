from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

import mpt
from mpt.causes import is_out_of_memory, place_in_own_code


def raised(function):
    """The error that ``function`` raises, without the frames of this file."""
    with pytest.raises((Exception, SystemExit)) as caught:
        function()
    error = caught.value
    while error.__traceback__ and error.__traceback__.tb_frame.f_code.co_filename == __file__:
        error.__traceback__ = error.__traceback__.tb_next
    return error


def test_a_mistake_of_mpt_below_code_of_the_users_is_not_blamed_on_them(tmp_path):
    own = {}
    exec(compile("def call(function):\n    function()", tmp_path / "own_code.py", "exec"), own)
    for mistake in ("assert False", "[][1]", "raise SystemExit(1)"):
        ours = {}
        exec(compile(f"def function():\n    {mistake}", Path(mpt.__file__).with_name("x.py"), "exec"), ours)
        assert place_in_own_code(raised(partial(own["call"], ours["function"]))) is None
    assert place_in_own_code(raised(lambda: own["call"](1))) == "line 2 of own_code.py, in call"


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_an_installed_package_is_not_code_of_the_users(tmp_path, folder):
    installed = {}
    exec(compile("def call():\n    [][1]", tmp_path / folder / "package.py", "exec"), installed)
    error = raised(installed["call"])
    error.__traceback__ = error.__traceback__.tb_next  # without this file
    assert place_in_own_code(error) is None


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("required rank 4 tensor to use channels_last memory format"), False),
    ],
)
def test_want_of_memory_is_told_from_a_memory_format(error, lacks):
    assert is_out_of_memory(error) == lacks
