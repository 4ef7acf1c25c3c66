"""The layer table for readers: which layers are searched, how many bits they take, and which parameters are not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mpt.search.checks import own_prune
from mpt.search.conversion import Conversion
from mpt.search.layers import TicketLayer, one_selection, searched_tensors, ticket_layers
from mpt.search.wrapped import unwrap
from mpt.words import first_names


@dataclass(frozen=True)
class LayerRow:
    """One searched layer."""

    name: str
    shape: tuple[int, ...]
    num_weights: int
    num_kept: int
    gain: float  # the mean, where the method has several
    bits: int  # 0 if the weight is tied to an earlier layer's: it is stored once
    binary_input: bool  # sees only -1 and +1, before zero padding
    prune: float | None = None  # the layer's own fraction removed, from the method's prune_layers
    tied: str | None = None  # name of that earlier layer


@dataclass(frozen=True)
class ParameterRow:
    """One parameter that is not searched."""

    name: str
    shape: tuple[int, ...]
    num_weights: int
    state: str  # frozen or trained
    bits: int


@dataclass(frozen=True)
class LayerTable:
    """Searched layers and all other parameters of a network; ``str()`` prints the table."""

    method: str
    layers: tuple[LayerRow, ...]
    parameters: tuple[ParameterRow, ...]
    dropped: tuple[str, ...]

    @property
    def num_weights(self) -> int:
        """Weights of all searched layers; tied ones count once."""
        return sum(row.num_weights for row in self.layers if not row.tied)

    @property
    def num_kept(self) -> int:
        """Weights kept in all searched layers; tied ones count once."""
        return sum(row.num_kept for row in self.layers if not row.tied)

    def __str__(self) -> str:
        head = ("layer", "shape", "weights", "kept", "gain", "bits", "input", "")
        rows = [
            (
                row.name,
                _shape(row.shape),
                f"{row.num_weights:,}",
                f"{row.num_kept:,}",
                f"{row.gain:.4g}",
                f"{row.bits:,}",
                "+-1" if row.binary_input else "real",
                _state(row),
            )
            for row in self.layers
        ]
        if self.layers:
            rows.append(
                (
                    "all searched layers",
                    "",
                    f"{self.num_weights:,}",
                    f"{self.num_kept:,}",
                    "",
                    f"{sum(r.bits for r in self.layers):,}",
                    "",
                    "",
                )
            )
        rows += [
            (row.name, _shape(row.shape), f"{row.num_weights:,}", "", "", f"{row.bits:,}", "", row.state)
            for row in self.parameters
        ]
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
        lines = [
            "  ".join(_align(cell, width, column) for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
            for row in [head, *rows]
        ]
        if any(row.binary_input for row in self.layers):
            real = [row.name for row in self.layers if not row.binary_input]
            lines.append(
                f"real inputs in spite of binary activations: {first_names(real)}" if real else "all inputs are +-1"
            )
        if self.dropped:
            lines.append(f"dropped: {first_names(list(self.dropped))}")
        return "\n".join(line.rstrip() for line in lines)


def layer_table(net: nn.Module) -> LayerTable:
    """Every searched layer of ``net`` with shape, kept, gain, bits and input, and every other parameter with its state.

    Bits of a searched layer: one per weight for the mask, one per kept weight for its sign, and 32 per gain. If kept
    weights that share a gain differ in magnitude (edge-popup's real weights): one per weight and 32 per kept weight.
    """
    net = unwrap(net)
    conversion: Conversion | None = getattr(net, "conversion", None)
    binary = conversion.binary_inputs if conversion else ()
    layers, owners = list[LayerRow](), dict[int, str]()  # owners by the identity of the weight
    with one_selection(net):
        for name, layer in ticket_layers(net).items():
            owner = owners.setdefault(id(layer.weight), name)
            layers.append(_layer_row(name, layer, owner=owner, binary_input=name in binary))
    searched = searched_tensors(net)
    parameters = [
        ParameterRow(name, tuple(p.shape), p.numel(), "trained" if p.requires_grad else "frozen", 32 * p.numel())
        for name, p in net.named_parameters()
        if id(p) not in searched
    ]
    method = type(conversion.method).__name__ if conversion else "plain"
    return LayerTable(method, tuple(layers), tuple(parameters), conversion.dropped if conversion else ())


def _layer_row(name: str, layer: TicketLayer, *, owner: str, binary_input: bool) -> LayerRow:
    """The row of one layer; ``owner`` is the name of the first layer that has its weight."""
    ticket = layer.ticket()
    n, kept, magnitudes = layer.weight.numel(), int(ticket.mask.sum()), ticket.magnitudes()
    bits = n + (32 * kept if magnitudes is None else kept + 32 * magnitudes.numel())
    return LayerRow(
        name,
        shape=tuple(layer.weight.shape),
        num_weights=n,
        num_kept=kept,
        gain=ticket.mean_gain,
        bits=bits if owner == name else 0,
        binary_input=binary_input,
        prune=own_prune(layer.method.prune_layers, name),
        tied=None if owner == name else owner,
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in (0, 1, 6, 7) else cell.rjust(width)


def _state(row: LayerRow) -> str:
    if row.tied:
        return f"tied to {row.tied}"
    return "searched" if row.prune is None else f"searched, prune {row.prune:g}"
