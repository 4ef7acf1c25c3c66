"""A trace of one forward pass: where the inputs of a network's activations come from, and what uses their outputs.

Unlike symbolic tracing this works for any backbone that runs. A mode of torch intercepts functions, hooks intercept
modules, so an error can at least name an activation that a forward calls as a function (``F.relu``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mpt.causes import is_out_of_memory
from mpt.search.failure import advice
from mpt.search.layers import kind_of
from mpt.search.parameters import BATCH_NORMS
from mpt.words import first_names

RELUS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
_OTHERS = (
    "GELU",
    "SiLU",
    "Mish",
    "ELU",
    "CELU",
    "SELU",
    "Hardswish",
    "Hardtanh",
    "Softplus",
    "Softsign",
    "Tanh",
    "GLU",
)
NOT_RELUS: tuple[type[nn.Module], ...] = (nn.MultiheadAttention, *(getattr(nn, name) for name in _OTHERS))

# names of torch functions: those that normalise, multiply by weights, or are activations without a module to replace
NORMS = {"batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm"}
PRODUCTS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"}
PRODUCTS |= {"matmul", "__matmul__", "mm", "bmm", "addmm", "einsum", "scaled_dot_product_attention"}
FUNCTIONAL = {"relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "gelu", "silu", "hardswish", "hardtanh"}


@dataclass(frozen=True)
class Call:
    """One call of a module: the source of its input, and the identities of input and output."""

    source: str | None  # the torch function that multiplied by weights, unless something has normalised since
    shape: tuple[int, ...]
    input_id: int
    output_id: int


class Trace(TorchFunctionMode):
    """Records one forward pass of ``net``.

    Attributes:
        calls: the calls of each activation module of the ReLU family, by name.
        layers: names of the convolutions and linear layers, in the order of their first calls.
        unsupported: names and classes of attention and of activation modules outside that family.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.calls: dict[str, list[Call]] = {}
        self.layers: dict[str, None] = {}
        self.unsupported: list[str] = []
        self._consumers: dict[str, list[Call]] = {}  # calls of max-pools and batch-norms
        self._functions: dict[str, str] = {}  # name of a module -> activation that its forward calls as a function
        self._running: list[str] = []  # names of the modules whose forward is running
        self._source: dict[int, str | None] = {}  # id of a tensor -> as Call.source
        self._uses: Counter[int] = Counter()  # id of a tensor -> functions that use it
        self._alive: list[Tensor] = []  # keeps tensors alive, so that no id is used twice

    def run(self, inputs: tuple[Tensor, ...]) -> None:
        """Run the forward pass, with in-place activations switched to out of place."""
        in_place = [module for module in self.net.modules() if getattr(module, "inplace", False) is True]
        hooks: list[Any] = []
        try:
            for module in in_place:
                module.inplace = False  # type: ignore[assignment]
            for name, module in self.net.named_modules():
                hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self._running.append(name)))
                hooks.append(module.register_forward_hook(self._after_call))
            with self:
                run(self.net, inputs)
        finally:
            for module in in_place:
                module.inplace = True  # type: ignore[assignment]
            for hook in hooks:
                hook.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        outputs = list(tensors_in(out))
        if outputs:  # not just a question about a shape
            name, inputs = getattr(func, "__name__", ""), list(tensors_in([args, kwargs or {}]))
            sources = [self._source.get(id(x)) for x in inputs]
            source = name if name in PRODUCTS else next((s for s in sources if s), None)
            self._uses.update(id(x) for x in inputs)
            for x in outputs:
                self._source[id(x)] = None if name in NORMS else source
            self._alive += outputs
            caller = self._running[-1]
            if name in FUNCTIONAL and not isinstance(self.net.get_submodule(caller), (*RELUS, *NOT_RELUS)):
                self._functions[caller] = name
        return out

    def _after_call(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        name = self._running.pop()
        if isinstance(module, (*RELUS, *MAX_POOLS, *BATCH_NORMS)) and args and isinstance(out, Tensor):
            call = Call(self._source.get(id(args[0])), tuple(args[0].shape), id(args[0]), id(out))
            (self.calls if isinstance(module, RELUS) else self._consumers).setdefault(name, []).append(call)
            if isinstance(module, RELUS):
                self._source[id(out)] = None  # it will become a sign
        elif isinstance(module, NOT_RELUS):
            self.unsupported.append(f"{name} ({type(module).__name__})")
        elif kind_of(module):
            self.layers[name] = None

    def behind(self, name: str) -> list[str]:
        """The chain of max-pools and batch-norms behind the activation ``name``: each alone uses the output before."""
        chain, outputs = list[str](), [call.output_id for call in self.calls[name]]
        while len(outputs) == 1 and self._uses[outputs[0]] == 1:
            inputs_of = {name: [call.input_id for call in calls] for name, calls in self._consumers.items()}
            consumer = next((name for name, inputs in inputs_of.items() if inputs == outputs), None)
            if consumer is None:
                break
            chain.append(consumer)
            outputs = [call.output_id for call in self._consumers[consumer]]
        return chain

    def hint(self) -> str:
        """A possible reason why something could not be rewritten, as part of an error's sentence."""
        if not self._functions:
            return ""
        calls = [f"{name or 'the backbone itself'} calls {function}" for name, function in self._functions.items()]
        return f" ({first_names(calls, 3)} as a function, which cannot be replaced: make it a nn.ReLU module)"


def tensors_in(x: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples, dictionaries and dataclasses, in order; each of these is read once."""
    waiting, seen = [x], set[int]()
    while waiting:
        each = waiting.pop()
        if isinstance(each, Tensor):
            yield each
        elif id(each) not in seen and (parts := _parts(each)):
            seen.add(id(each))
            waiting.extend(reversed(parts))


def _parts(x: Any) -> Sequence[Any]:
    if isinstance(x, (list, tuple)):
        return x
    if isinstance(x, dict):
        return list(x.values())
    if isinstance(x, SimpleNamespace):
        return list(vars(x).values())
    return [getattr(x, f.name, None) for f in fields(x)] if is_dataclass(x) and not isinstance(x, type) else ()


def numbers_in(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors of ``output``, dense and real: the parts of complex and nested ones."""
    for x in tensors_in([list(x.unbind()) if x.is_nested else x for x in tensors_in(output)]):
        x = x if x.layout == torch.strided else x.to_dense()
        x = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
        if x.is_floating_point():
            yield x


class ForwardError(ValueError):
    """A network fails for what it was given."""


def run(net: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """``net(*inputs)``; ForwardError if it fails, but for want of memory."""
    try:
        return net(*inputs)
    except Exception as error:  # whatever a backbone raises
        if is_out_of_memory(error):
            raise
        shapes = [f"{'nested' if x.is_nested else tuple(x.shape)} of {x.dtype}" for x in tensors_in(list(inputs))]
        given = f"the input{'s' * (len(shapes) > 1)} {', '.join(shapes)}" if shapes else "inputs without a tensor"
        kind, reason = type(error).__name__, reason_of(error)
        raise ForwardError(
            f"{type(net).__name__} cannot compute with {given} "
            f"({kind if reason == kind else f'{kind}: {reason}'}): {advice(error, inputs)}"
        ) from error


def reason_of(error: Exception) -> str:
    """The first line of what ``error`` says, or its class."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
