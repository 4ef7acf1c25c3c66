from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import mpt
from mpt.search.failure import advice, blames_inputs

GIVE = r"give example=<one batch as its forward takes it>, a tuple for several arguments"
X = torch.ones(2, 8)


class Net(nn.Module):
    """A layer, and a function behind it."""

    def __init__(self, function):
        super().__init__()
        self.fc, self.function, self.cfg = nn.Linear(8, 4), function, {}

    def forward(self, x, *more):
        return self.function(self, self.fc(x), *more)


def fail(error):
    raise error


def raised(function, *inputs):
    try:
        Net(function)(*inputs)
    except Exception as error:
        return error


@pytest.mark.parametrize("binary_activations", [False, True])
@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda net, x: x * net.cfg["scale"], r"KeyError: 'scale'"),
        (lambda net, x: net.scale * x, r"AttributeError: 'Net' object has no attribute 'scale'"),
        (lambda net, x: x * scale, r"NameError: name 'scale' is not defined"),  # noqa: F821
        (lambda net, x: x / (1 // 0), r"ZeroDivisionError: .* by zero"),
        (lambda net, x: net.cfg.get("scale")(x), r"TypeError: 'NoneType' object is not callable"),
        (lambda net, x: Path("/no such file").read_text(), r"FileNotFoundError: .*"),
        (lambda net, x: fail(RuntimeError("Internal error: no sizes. Please file an issue.")), r"RuntimeError: Int.*"),
        (lambda net, x: fail(NotImplementedError()), r"NotImplementedError"),
    ],
)
def test_an_error_of_the_code_is_named_with_its_class_and_line(function, words, binary_activations):
    sentence = rf"^Net cannot compute with the input \(2, 8\) of torch.float32 \({words}\): correct line \d+ of test_f"
    with pytest.raises(ValueError, match=sentence) as caught:
        mpt.convert(Net(function), mpt.Biprop(prune=0.5), example=X, binary_activations=binary_activations)
    assert "example=" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (lambda net, x: x, (torch.ones(2, 7),)),
        (lambda net, x: x, (X.half(),)),
        (lambda net, x: x, (X, X)),
        (lambda net, x: x.view(3, -1), (X,)),
        (lambda net, x: fail(ValueError("pixels are positive")), (X,)),
        (lambda net, x: fail(AssertionError()), (X,)),
        (lambda net, x: x[5], (X,)),
        (lambda net, x: x.input_ids, (X,)),
        (lambda net, x, more: x * more["scale"], (X, {})),
        (lambda net, x, more: x * more, (X, "x")),
    ],
)
def test_an_error_that_the_example_may_cause_is_answered_by_another_or_the_line(function, inputs):
    with pytest.raises(ValueError, match=rf"^Net cannot .* \([A-Z]\w+Error.*\): {GIVE}, or correct line \d+ of test_f"):
        mpt.convert(Net(function), mpt.Biprop(prune=0.5), example=inputs)


def test_without_a_line_of_the_users_own_the_advice_is_of_the_example_or_of_a_forward_alone():
    torch_only = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(ValueError, match=rf"^Sequential .* \(RuntimeError: mat1 and mat2 .*\): {GIVE}$"):
        mpt.convert(torch_only, mpt.Biprop(prune=0.5), example=X)
    error = KeyError("no traceback")
    assert advice(error, (X,)) == "find the cause by a forward of the backbone alone"
    assert not blames_inputs(error, (X,))


@dataclass(frozen=True, kw_only=True)
class Median(mpt.Biprop):
    """A formula that takes single precision alone."""

    def ticket_weight(self, weight, mask, gain):
        return weight * mask * weight.abs().quantile(0.5)


def test_an_error_of_a_method_s_formula_is_not_answered_by_another_example():
    message = r"^Net cannot .* \(RuntimeError: quantile.*\): correct line \d+ of test_failure.py, in ticket_weight$"
    with pytest.raises(ValueError, match=message):
        mpt.convert(Net(lambda net, x: x).bfloat16(), Median(prune=0.5), example=X.bfloat16())


def test_an_input_that_mpt_guessed_is_not_called_the_example():
    fail = dataclass(frozen=True, kw_only=True)(type("Own", (mpt.Biprop,), {"gain": lambda self, w, m: 1 / 0}))
    with pytest.raises(
        ValueError, match=r"^Net cannot compute with the input \(2, 8\) of torch.float32 \(ZeroDivision"
    ):
        mpt.convert(Net(lambda net, x: x), fail(prune=0.5))


def test_want_of_memory_is_passed_on_and_a_memory_format_is_none():
    for error, kind in ((MemoryError(), MemoryError), (RuntimeError("channels_last memory format"), ValueError)):
        with pytest.raises(kind):
            mpt.convert(Net(lambda net, x, error=error: fail(error)), mpt.Biprop(prune=0.5), example=X)
