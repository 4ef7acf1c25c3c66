"""The layer table people read: what is searched, what it costs in bits, and what is not searched."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mpt.search.conversion import Conversion
from mpt.search.layers import one_selection, some, ticket_layers, unwrapped
from mpt.search.methods import own_prune


@dataclass(frozen=True)
class LayerRow:
    """One searched layer."""

    name: str
    shape: tuple[int, ...]
    num_weights: int
    num_kept: int
    gain: float
    bits: int  # 0 for a weight tied to that of an earlier layer: it is stored once
    binary_input: bool  # sees only -1 and +1, before zero padding
    prune: float | None = None  # the layer's own, by the method's prune_layers
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
    """Searched layers and all other parameters of a network; ``str()`` is the printed table."""

    method: str
    layers: tuple[LayerRow, ...]
    parameters: tuple[ParameterRow, ...]
    dropped: tuple[str, ...]

    @property
    def num_weights(self) -> int:
        """Weights of all searched layers, tied ones once."""
        return sum(row.num_weights for row in self.layers if not row.tied)

    @property
    def num_kept(self) -> int:
        """Weights kept in all searched layers, tied ones once."""
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
                _what(row),
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
            "  ".join(
                _aligned(cell, width, column) for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in [head, *rows]
        ]
        if any(row.binary_input for row in self.layers):
            real = [row.name for row in self.layers if not row.binary_input]
            lines.append(f"real inputs in spite of binary activations: {some(real)}" if real else "all inputs are +-1")
        if self.dropped:
            lines.append(f"dropped: {some(list(self.dropped))}")
        return "\n".join(line.rstrip() for line in lines)


def layer_table(net: nn.Module) -> LayerTable:
    """Every searched layer of ``net`` with shape, kept, gain, bits and input, and every other parameter with its state.

    Bits of a searched layer: one a weight for the mask, and for each kept weight one for its sign, or 32 where the
    kept weights do not have one magnitude (edge-popup's real weights); 32 for the gain.
    """
    net = unwrapped(net)
    conversion: Conversion | None = getattr(net, "conversion", None)
    binary = conversion.binary_inputs if conversion else ()
    layers, searched, first = [], set(), dict[int, str]()
    with one_selection(net):
        for name, layer in ticket_layers(net).items():
            owner = first.setdefault(id(layer.weight), name)
            made = layer.current()
            n, kept = layer.weight.numel(), int(made.mask.sum())
            magnitudes = made.ticket_weight[made.mask].abs()
            bits = n + (kept + 32 if bool((magnitudes == magnitudes[0]).all()) else 32 * kept)
            tied, own = None if owner == name else owner, own_prune(layer.method.prune_layers, name)
            shape, seen = tuple(layer.weight.shape), name in binary
            layers.append(LayerRow(name, shape, n, kept, float(made.gain), 0 if tied else bits, seen, own, tied))
            searched |= {id(layer.weight), id(layer.scores)}
    parameters = [
        ParameterRow(name, tuple(p.shape), p.numel(), "trained" if p.requires_grad else "frozen", 32 * p.numel())
        for name, p in net.named_parameters()
        if id(p) not in searched
    ]
    method = type(conversion.method).__name__ if conversion else "plain"
    return LayerTable(method, tuple(layers), tuple(parameters), conversion.dropped if conversion else ())


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in (0, 1, 6, 7) else cell.rjust(width)


def _what(row: LayerRow) -> str:
    if row.tied:
        return f"tied to {row.tied}"
    return "searched" if row.prune is None else f"searched, prune {row.prune:g}"
