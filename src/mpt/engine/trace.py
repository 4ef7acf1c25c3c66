"""One symbolic forward of a network (torch.fx) -> the operations of :mod:`mpt.engine.graph`.

What the tables of :mod:`mpt.engine.rules` do not list is refused with the name of the layer: an engine that went back
to torch for it would be slow without saying so.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from mpt.engine import rules
from mpt.engine.graph import Builder, Node, Shape, used


class _Proxy(fx.Proxy):
    """A value of the symbolic forward that records ``z += x`` as a change of ``z``, not as a new tensor."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Tracer(fx.Tracer):
    """Modules that the table lists are not looked into, derived classes included."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return rules.of_module(m) is not None or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def trace(net: nn.Module, *, shape: Shape) -> list[Node]:
    """The operations of ``net`` in evaluation mode on images of ``shape`` (C, H, W), in the order of its forward.

    The first is the input, the last the output. The ``weight`` of a convolution or linear layer is read as it is.

    Raises:
        ValueError: the forward depends on its input's values, or has an operation that the engine does not know.
    """
    try:
        graph = _Tracer().trace(net.eval())
    except Exception as error:  # a forward may raise whatever it likes when it meets a proxy
        raise ValueError(f"the engine cannot follow the forward of {type(net).__name__}: {error}") from error
    builder, values, memory = Builder(shape), dict[fx.Node, Any](), _Memory()
    for item in graph.nodes:
        memory.check(item, values)
        if item.op == "output":
            break
        before = values[item.args[0]] if _is_in_place(net, item) else None
        values[item] = result = _translate(net, builder, item, values)
        if isinstance(before, Node):  # later readers of the tensor, whatever they call it, see what it was changed to
            values = memory.change(before, result, values)
        elif isinstance(result, Node) and (result.kind == "flatten" or item.target is operator.getitem):
            memory.share(result, result.inputs[0])
    last = _value(item.args[0], values)
    if not isinstance(last, Node):
        raise ValueError("the engine runs networks with one output, and this one returns several")
    return used(builder.nodes, last)


class _Memory:
    """Which values of the forward are one memory in torch: a tensor, and views of other shapes of it."""

    def __init__(self) -> None:
        self.owners: dict[int, Node] = {}  # of the memory of a view
        self.stale: dict[int, str] = {}  # values whose memory was changed through another, and by which layer

    def share(self, view: Node, of: Node) -> None:
        self.owners[id(view)] = self._owner(of)

    def _owner(self, value: Node) -> Node:
        return self.owners.get(id(value), value)

    def change(self, before: Node, result: Node, values: dict[fx.Node, Any]) -> dict[fx.Node, Any]:
        """The values after ``before`` was changed in place to ``result``."""
        owner = self._owner(before)
        others = [value for value in values.values() if isinstance(value, Node) and value not in (before, result)]
        self.stale |= {id(value): result.name for value in others if self._owner(value) is owner}
        self.share(result, owner)
        return {known: result if value is before else value for known, value in values.items()}

    def check(self, item: fx.Node, values: dict[fx.Node, Any]) -> None:
        """Raise ValueError if ``item`` reads a value that the engine has as it was before a change."""
        for source in item.all_input_nodes:
            if (name := self.stale.get(id(values[source]))) is not None:
                raise rules.unknown(name, "a change in place of a tensor that is read in another shape later")


def _value(argument: Any, values: dict[fx.Node, Any]) -> Any:
    """An fx argument with its nodes replaced by what they stand for."""
    return fx.node.map_aggregate(argument, lambda part: values[part] if isinstance(part, fx.Node) else part)


def _translate(net: nn.Module, builder: Builder, item: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """The node, or the plain Python value, that ``item`` stands for."""
    name = str(item.target) if item.op == "call_module" else item.name
    if item.op == "placeholder":
        if builder.nodes:
            raise ValueError(f"the engine runs networks with one input, and this one also takes {name}")
        return builder.add(Node("input", name, [], builder.shape))
    args, kwargs = _value(item.args, values), _value(item.kwargs, values)
    rule, what = None, str(getattr(item.target, "__name__", item.target))
    if item.op == "call_module":
        module = net.get_submodule(name)
        rule, what, args = rules.of_module(module), type(module).__name__, (*args, module)
    elif item.op == "call_method":
        rule = rules.METHODS.get(what)
    elif item.op == "call_function":
        rule = rules.FUNCTIONS.get(item.target)
    if rule is None:
        raise rules.unknown(name, what)
    try:
        return rule(builder, name, *args, **kwargs)
    except (TypeError, AttributeError) as error:  # called with what the rule does not take
        raise rules.unknown(name, f"{what} called like this, {error},") from error


def _is_in_place(net: nn.Module, item: fx.Node) -> bool:
    if not item.args or not isinstance(item.args[0], fx.Node):
        return False
    if item.op == "call_module":
        return bool(getattr(net.get_submodule(str(item.target)), "inplace", False))
    by_name = item.op == "call_method" and str(item.target).endswith("_")
    by_argument = bool(item.kwargs.get("inplace")) or (item.target is F.relu and item.args[1:2] == (True,))
    return by_name or by_argument or item.target in (operator.iadd, torch.relu_)
