"""One forward pass, looked at: where the inputs of a network's activations come from and who takes their outputs.

Unlike symbolic tracing this takes any backbone that runs. Torch functions are seen as they are called, and modules by
hooks, so that what a forward calls as a function (``F.relu``) can at least be said by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mpt.search.layers import kind_of, some
from mpt.search.parameters import BATCH_NORMS

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

# torch functions by name: what normalises, what multiplies with weights, what acts without a module to replace
NORMS = {"batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm"}
PRODUCTS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"}
PRODUCTS |= {"matmul", "__matmul__", "mm", "bmm", "addmm", "einsum", "scaled_dot_product_attention"}
FUNCTIONAL = {"relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "gelu", "silu", "hardswish", "hardtanh"}


@dataclass(frozen=True)
class Call:
    """One call of a module: what its input was, and which tensors went in and came out."""

    source: str | None  # the torch function that multiplied with weights, if nothing has normalised since
    shape: tuple[int, ...]
    taken: int  # id of the input
    given: int  # id of the output


class Trace(TorchFunctionMode):
    """One forward pass, looked at: where its activations' inputs come from and who takes their outputs.

    Attributes:
        calls: of each activation module of the ReLU family.
        layers: names of the convolutions and linear layers in the order in which they are called.
        others: activation modules and attention that are not of that family, with their class.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.calls: dict[str, list[Call]] = {}
        self.layers: dict[str, None] = {}
        self.others: list[str] = []
        self._takers: dict[str, list[Call]] = {}  # calls of max-pools and batch-norms
        self._functions: dict[str, str] = {}  # name of a module -> activation that its forward calls as a function
        self._within: list[str] = []  # names of the modules whose forward is running
        self._source: dict[int, str | None] = {}
        self._users: Counter[int] = Counter()
        self._alive: list[Tensor] = []  # so that no id is used twice

    def run(self, inputs: tuple[Tensor, ...]) -> None:
        """The forward pass; activations do not work in place in it."""
        in_place = [module for module in self.net.modules() if getattr(module, "inplace", False) is True]
        hooks: list[Any] = []
        try:
            for module in in_place:
                module.inplace = False  # type: ignore[assignment]
            for name, module in self.net.named_modules():
                hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self._within.append(name)))
                hooks.append(module.register_forward_hook(self._called))
            with self:
                self.net(*inputs)
        finally:
            for module in in_place:
                module.inplace = True  # type: ignore[assignment]
            for hook in hooks:
                hook.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = list(_tensors(out))
        if made:  # not a mere look at a shape
            name, inputs = getattr(func, "__name__", ""), list(_tensors([args, kwargs or {}]))
            sources = [self._source.get(id(x)) for x in inputs]
            source = name if name in PRODUCTS else next((s for s in sources if s), None)
            self._users.update(id(x) for x in inputs)
            for x in made:
                self._source[id(x)] = None if name in NORMS else source
            self._alive += made
            within = self._within[-1]
            if name in FUNCTIONAL and not isinstance(self.net.get_submodule(within), (*RELUS, *NOT_RELUS)):
                self._functions[within] = name
        return out

    def _called(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        name = self._within.pop()
        if isinstance(module, (*RELUS, *MAX_POOLS, *BATCH_NORMS)) and args and isinstance(out, Tensor):
            call = Call(self._source.get(id(args[0])), tuple(args[0].shape), id(args[0]), id(out))
            (self.calls if isinstance(module, RELUS) else self._takers).setdefault(name, []).append(call)
            if isinstance(module, RELUS):
                self._source[id(out)] = None  # it will be a sign
        elif isinstance(module, NOT_RELUS):
            self.others.append(f"{name} ({type(module).__name__})")
        elif kind_of(module):
            self.layers[name] = None

    def behind(self, name: str) -> list[str]:
        """The max-pools and batch-norms that alone take the output of the activation ``name``, one after the other."""
        chain, given = list[str](), [call.given for call in self.calls[name]]
        while len(given) == 1 and self._users[given[0]] == 1:
            taker = next((n for n, calls in self._takers.items() if [call.taken for call in calls] == given), None)
            if taker is None:
                break
            chain.append(taker)
            given = [call.given for call in self._takers[taker]]
        return chain

    def hint(self) -> str:
        """What may be the reason that something could not be rewritten, for an error's sentence."""
        if not self._functions:
            return ""
        shown = [f"{name or 'the backbone itself'} calls {what}" for name, what in self._functions.items()]
        return f" ({some(shown, 3)} as a function, which cannot be replaced: make it a nn.ReLU module)"


def _tensors(x: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dictionaries."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, dict):
        yield from _tensors(list(x.values()))
    elif isinstance(x, (list, tuple)):
        for each in x:
            yield from _tensors(each)
