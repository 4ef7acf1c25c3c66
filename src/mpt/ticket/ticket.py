"""The result: a file of bits, and the network that it is.

ticket = Ticket.from_network(net);  ticket.save(path)
ticket = Ticket.load(path);         net = ticket.network()
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpt import backbones
from mpt.files import version
from mpt.search.binarize import apply_signs
from mpt.search.conversion import Conversion, Signs
from mpt.search.convert import add_ticket_layers, plain_layers
from mpt.search.layers import TicketLayer, one_selection, ticket_layers, unwrap
from mpt.search.methods import Biprop, Dense, EdgePopup, Method, own_prune
from mpt.search.parameters import child, strip
from mpt.search.table import LayerRow, LayerTable, ParameterRow
from mpt.ticket import format as files
from mpt.ticket.format import unpack_bits
from mpt.ticket.pack import other_state, pack_layer, tied_row

_METHODS: dict[str, type[Method]] = {"Biprop": Biprop, "EdgePopup": EdgePopup, "Dense": Dense}


@dataclass(frozen=True)
class Ticket:
    """Packed masks, signs and gains of all searched layers, every other parameter, and a header that says what it is.

    Attributes:
        header: plain JSON: ``format mpt backbone method seed layers others`` and whatever ``about`` was given.
        tensors: as in the file, see :mod:`mpt.ticket.format`.
    """

    header: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def from_network(cls, net: nn.Module, **about: Any) -> Ticket:
        """The ticket of a converted network as its scores are now.

        Args:
            net: a network from :func:`mpt.convert`, or what ``torch.compile`` or data parallelism made of it.
            about: further header entries, plain JSON (``data``, ``class_names``, ``normalization``, ``parameters``).
        """
        net = unwrap(net)
        conversion: Conversion = getattr(net, "conversion", Conversion(Dense(), None))
        tensors: dict[str, Tensor] = {}
        layers: list[dict[str, Any]] = []
        others, searched = [], set()
        first: dict[int, str] = {}  # by the identity of the weight: the first layer that has it
        if conversion.epoch is not None and conversion.epoch < conversion.method.ramp_epochs:
            raise ValueError(
                f"the network is in epoch {conversion.epoch + 1} of the {conversion.method.ramp_epochs} in which the "
                "fraction removed still rises to prune: what it keeps now is no ticket yet, train on"
            )
        with one_selection(net):
            for name, layer in ticket_layers(net).items():
                owner = first.setdefault(id(layer.weight), name)
                row = pack_layer(name, layer, tensors) if owner == name else tied_row(layers, name, owner)
                layers.append(row | {"binary_input": name in conversion.binary_inputs})
                searched |= {id(layer.weight), id(layer.scores), id(layer.threshold)}
        for name, value, trained in other_state(net, searched):
            tensors[name] = value
            others.append({"name": name, "shape": list(value.shape), "trained": trained})
        header = {
            "format": files.FORMAT,
            "mpt": version(),
            "backbone": getattr(net, "origin", None),
            "method": {"name": type(conversion.method).__name__, **asdict(conversion.method)},
            "seed": conversion.seed,
            "binary_activations": conversion.signs.as_dict() if conversion.signs else None,
            "layers": layers,
            "others": others,
            **about,
        }
        return cls(header, tensors)

    @classmethod
    def load(cls, path: str | Path) -> Ticket:
        """Read and check a ticket file; FileNotFoundError or ValueError with the reason if it is not whole."""
        return cls(*files.read(path))

    def save(self, path: str | Path) -> None:
        """Write the ticket file atomically."""
        files.write(path, self.header, self.tensors)

    @property
    def digest(self) -> str:
        """What identifies the ticket: a hash of everything in it."""
        return files.digest_of(self.header, self.tensors)

    def network(self, backbone: nn.Module | None = None) -> nn.Module:
        """The network that the ticket is, in evaluation mode, on the CPU, float32.

        Its ticket layers hold +-gain as weights and the mask (0 or 1) as scores.

        Args:
            backbone: the plain network, left as it is, if it is not one that ``mpt.backbones`` can build.

        Raises:
            ValueError: the ticket is for another backbone, or the backbone is needed and was not given.
        """
        net, signs = copy.deepcopy(unwrap(backbone)) if backbone is not None else self._build(), self._signs()
        if signs is not None:
            apply_signs(signs, net)
        self._check_backbone(net)
        names = {layer["name"] for layer in self.header["layers"]}
        method = self._method()
        if names:
            add_ticket_layers(net, method, left_out=[name for name in plain_layers(net) if name not in names])
            strip(net, keep={other["name"] for other in self.header["others"]})
        with torch.no_grad():
            for row in self.header["layers"]:
                layer = net.get_submodule(row["name"])
                assert isinstance(layer, TicketLayer)
                layer.num_kept = row["kept"]
                layer.weight.copy_(self.weight(row["name"]))
                layer.scores.copy_(self.mask(row["name"]))
        self._load_others(net)
        binary = tuple(row["name"] for row in self.header["layers"] if row.get("binary_input"))
        net.conversion = Conversion(method, self.header["seed"], signs=signs, binary_inputs=binary, from_file=True)  # type: ignore[assignment]
        return net.eval()

    def mask(self, layer: str) -> Tensor:
        """Mask of one layer, bool, shape of its weight."""
        row = self._row(layer)
        bits = unpack_bits(self.tensors[f"{files.stored_as(row)}.mask"].numpy(), n=math.prod(row["shape"]))
        return torch.from_numpy(bits).view(row["shape"])

    def weight(self, layer: str) -> Tensor:
        """Ticket weight of one layer, float32: +-gain (or the real weight) where kept, else 0."""
        row, mask = self._row(layer), self.mask(layer)
        weight = torch.zeros(row["shape"])
        weight[mask] = self._kept_values(row)
        return weight

    def table(self) -> LayerTable:
        """The layer table of :func:`mpt.layer_table`, from the file alone; bits are those of the packed tensors."""
        layers = tuple(
            LayerRow(
                row["name"],
                tuple(row["shape"]),
                math.prod(row["shape"]),
                row["kept"],
                float(self._kept_values(row).double().abs().mean()),
                self._layer_bits(row["name"]),
                bool(row.get("binary_input")),
                own_prune(self.header["method"].get("prune_layers"), row["name"]),
                row.get("tied"),
            )
            for row in self.header["layers"]
        )
        others = tuple(
            ParameterRow(
                row["name"],
                tuple(row["shape"]),
                math.prod(row["shape"]),
                {True: "trained", False: "frozen", None: "buffer"}[row["trained"]],
                8 * self.tensors[row["name"]].nbytes,
            )
            for row in self.header["others"]
        )
        return LayerTable(self.header["method"]["name"], layers, others, ())

    @property
    def num_weights(self) -> int:
        """Weights of all searched layers, tied ones once; of a dense baseline, of all its parameters."""
        return sum(math.prod(row["shape"]) for row in self.stored_layers() or self._parameters())

    @property
    def num_kept(self) -> int:
        """Weights kept in all searched layers, tied ones once; of a dense baseline, all."""
        return sum(row["kept"] for row in self.stored_layers()) if self.header["layers"] else self.num_weights

    def stored_layers(self) -> list[dict[str, Any]]:
        """The header's rows of the layers whose tensors are in the file: all but those tied to an earlier one."""
        return [row for row in self.header["layers"] if "tied" not in row]

    @property
    def density(self) -> float:
        """Fraction of the weights that is kept."""
        return self.num_kept / self.num_weights

    def layer_prune(self, layer: str) -> float:
        """Fraction removed that the search was given for the layer of this name."""
        method = self.header["method"]
        own = own_prune(method.get("prune_layers"), layer)
        return float(method["prune"] if own is None else own)

    @property
    def bits(self) -> int:
        """Bits of all tensors, without the header."""
        return sum(8 * tensor.nbytes for tensor in self.tensors.values())

    def _row(self, layer: str) -> dict[str, Any]:
        for row in self.header["layers"]:
            if row["name"] == layer:
                return dict(row)
        raise ValueError(f"the ticket has no searched layer {layer!r}")

    def _parameters(self) -> list[dict[str, Any]]:
        return [row for row in self.header["others"] if row["trained"] is not None]

    def _kept_values(self, row: dict[str, Any]) -> Tensor:
        name = files.stored_as(row)
        if row["form"] == "real":
            return self.tensors[f"{name}.values"]
        positive = torch.from_numpy(unpack_bits(self.tensors[f"{name}.signs"].numpy(), n=row["kept"]))
        gain = self.tensors[f"{name}.gain"]
        return torch.where(positive, gain, -gain)

    def _layer_bits(self, name: str) -> int:
        parts = (self.tensors.get(f"{name}.{part}") for part in ("mask", "signs", "gain", "values"))
        return sum(8 * tensor.nbytes for tensor in parts if tensor is not None)

    def _method(self) -> Method:
        """The method of the header, where it is one of mpt's; else edge-popup, whose formula b = m w always holds."""
        choices = dict(self.header["method"])
        method = _METHODS.get(choices.pop("name"))
        try:
            return method(**choices) if method else EdgePopup(prune=choices.get("prune", 0.0))
        except TypeError as error:
            raise ValueError(f"the ticket's method cannot be read: {error}") from error

    def _signs(self) -> Signs | None:
        """What of the plain backbone is rewritten for binary activations, if anything."""
        plain = self.header.get("binary_activations")
        return Signs.from_dict(plain) if plain is not None else None

    def _build(self) -> nn.Module:
        if self.header["backbone"] is None:
            raise ValueError("the ticket does not say how its backbone is built: pass the plain network as backbone=")
        return backbones.build(self.header["backbone"])

    def _check_backbone(self, net: nn.Module) -> None:
        layers = plain_layers(net)
        for row in self.header["layers"]:
            layer = layers.get(row["name"])
            if layer is None:
                raise ValueError(f"the ticket is for another backbone: this one has no layer {row['name']!r}")
            if list(layer.weight.shape) != row["shape"]:
                raise ValueError(
                    f"the ticket is for another backbone: layer {row['name']!r} is {row['shape']} in the ticket "
                    f"and {list(layer.weight.shape)} in this one"
                )
        known = {row["name"] for row in self.header["layers"]} | {row["name"] for row in self.header["others"]}
        for name in layers:
            if name not in known and child(name, "weight") not in known:
                raise ValueError(f"the ticket is for another backbone: the ticket has no layer {name!r}")

    def _load_others(self, net: nn.Module) -> None:
        searched = {id(p) for layer in ticket_layers(net).values() for p in (layer.weight, layer.scores)}
        stored = {row["name"] for row in self.header["others"]}
        targets = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        targets = {name: value for name, value in targets.items() if id(value) not in searched}
        needed = {name for name, _, _ in other_state(net, searched)}
        if needed != stored:
            name = sorted(needed ^ stored)[0]
            where = "the backbone" if name in needed else "the ticket"
            raise ValueError(f"the ticket is for another backbone: only {where} has {name!r}")
        with torch.no_grad():
            for row in self.header["others"]:
                target = targets[row["name"]]
                if list(target.shape) != row["shape"]:
                    raise ValueError(
                        f"the ticket is for another backbone: {row['name']} is {row['shape']} in the ticket "
                        f"and {list(target.shape)} in this one"
                    )
                target.copy_(self.tensors[row["name"]])
                if row["trained"] is not None:
                    target.requires_grad_(row["trained"])
