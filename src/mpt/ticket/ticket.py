"""The result of a search: a file of bits, and the network that it stands for.

ticket = Ticket.from_network(net);  ticket.save(path)
ticket = Ticket.load(path);         net = ticket.network()
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mpt.files import version
from mpt.schema import printable
from mpt.search.checks import own_prune
from mpt.search.conversion import Conversion
from mpt.search.initializers import random_weight
from mpt.search.methods import Dense
from mpt.search.table import LayerTable
from mpt.search.wrapped import unwrap
from mpt.ticket import format as files
from mpt.ticket import hub
from mpt.ticket.check import FORMAT
from mpt.ticket.layer import StoredLayer, StoredState
from mpt.ticket.network import build_backbone, build_network
from mpt.ticket.pack import origin_of_signs, other_state, pack_layers, refuse_unfinished, tensors_of
from mpt.ticket.pattern import searched_part

if TYPE_CHECKING:
    from mpt.ticket.classifier import Classifier


@dataclass(frozen=True)
class Ticket:
    """Packed masks, signs and gains of all searched layers, every other parameter, and a header that describes them.

    Attributes:
        header: plain JSON: ``format mpt backbone method seed signs layers others`` and whatever ``about`` added.
            ``signs`` is ``seed`` where the signs of all kept weights are those that ``seed`` draws, else ``stored``.
            ``pattern`` has the shares of a pattern that ``seed`` draws (:attr:`mpt.Method.pattern`).
        tensors: as in the file, see :mod:`mpt.ticket.format`.
    """

    header: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def from_network(cls, net: nn.Module, **about: Any) -> Ticket:
        """The ticket of a converted network with its current scores.

        Args:
            net: a network from :func:`mpt.convert`, perhaps wrapped by ``torch.compile`` or data parallelism.
            about: further header entries, plain JSON (``data``, ``class_names``, ``normalization``, ``parameters``).

        Raises:
            ValueError: the network is in an epoch, as of a ramp, in which it keeps more than the ticket will.
        """
        net = unwrap(net)
        conversion: Conversion = getattr(net, "conversion", Conversion(Dense(), None))
        refuse_unfinished(conversion)
        layers, searched = pack_layers(net, conversion)
        others, search = other_state(net, searched), conversion.as_dict()
        header = {
            "format": FORMAT if any(layer.has_channel_gains or layer.coats for layer in layers) else files.PLAIN,
            "mpt": version(),
            "backbone": getattr(net, "origin", None),
            **search,
            "seed": conversion.seed,
            "signs": origin_of_signs(layers, seed=conversion.seed, init=search["method"].get("init")),
            "binary_activations": conversion.signs.as_dict() if conversion.signs else None,
            **({"reads": list(conversion.reads)} if conversion.reads else {}),
            "layers": [layer.row() for layer in layers],
            "others": [state.row() for state in others],
            **about,
        }
        return cls(header, tensors_of(layers, others))

    @classmethod
    def load(cls, path: str | Path) -> Ticket:
        """Read and check a file, or ``hf://user/name@revision``; OSError or ValueError with the reason if it fails."""
        if str(path).startswith(hub.SCHEME):
            return cls(*hub.read(str(path)))
        return cls(*files.read(path))

    def push_to_hub(self, name: str, **options: Any) -> str:
        """Upload the ticket with a model card and return its address; options as in :func:`mpt.ticket.hub.push`."""
        return hub.push(self, name, **options)

    def save(self, path: str | Path, *, format: int = FORMAT) -> None:
        """Write the ticket file, whole or not at all.

        Args:
            path: of the file.
            format: 3, or 2 for readers older than mpt 0.2; the digest is the same.

        Raises:
            ValueError: format 2 for a ticket with a gain for each channel, or with several masks; or ``path`` is a
                folder.
            OSError: ``path`` is in no folder, or cannot be written.
        """
        files.write(path, self.header, self.tensors, format=format)

    def __repr__(self) -> str:
        target = (self.header["backbone"] or {}).get("target", "your own backbone").removeprefix("mpt.backbones.")
        method, seed, classes = self.header["method"]["name"], self.header["seed"], self.header.get("class_names", ())
        kept = f"{self.num_kept:,} of {self.num_weights:,} weights kept ({100 * self.density:.2f} %)"
        named = f"{len(classes)} classes, " if classes else ""
        return (
            f"Ticket of {target[:60]!r}, method {method[:60]!r}, seed {seed}\n"
            f"  {kept} in {len(self.layers)} layers\n"
            f"  {named}digest {self.digest}"
        )

    def _repr_html_(self) -> str:
        from mpt.ticket import html

        first = self.layers[0].weight() if self.layers else None
        return html.render(repr(self), self.table().layers, first, image=self.image_shape)

    @property
    def digest(self) -> str:
        """A hash of the whole content, which identifies the ticket."""
        return files.digest_of(self.header, self.tensors)

    @cached_property
    def layers(self) -> tuple[StoredLayer, ...]:
        """The searched layers in the file's order; empty for a dense baseline."""
        return tuple(StoredLayer.from_row(row, self.tensors) for row in self.header["layers"])

    @cached_property
    def others(self) -> tuple[StoredState, ...]:
        """Every other parameter and buffer."""
        return tuple(StoredState.from_row(row, self.tensors) for row in self.header["others"])

    def stored_layers(self) -> tuple[StoredLayer, ...]:
        """The layers with tensors of their own in the file: all but those tied to an earlier one."""
        return tuple(layer for layer in self.layers if not layer.tied)

    def layer(self, name: str) -> StoredLayer:
        """The searched layer of this name; ValueError if the ticket has none."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ValueError(f"the ticket has no searched layer {name!r}")

    def mask(self, layer: str) -> Tensor:
        """Mask of one layer, bool, of the shape of its weight."""
        return self.layer(layer).mask()

    def weight(self, layer: str) -> Tensor:
        """Ticket weight of one layer, float32: +-gain (or the real weight) where kept, else 0."""
        return self.layer(layer).weight()

    def with_layers(self, layers: Mapping[str, StoredLayer]) -> Ticket:
        """A copy in which ``layers``, by the names that hold the tensors, take the place of the ticket's own."""
        new = [
            replace(layers[old.stored_as], name=old.name, tied=old.tied, binary_input=old.binary_input)
            for old in self.layers
        ]
        signs = origin_of_signs(new, seed=self.header["seed"], init=self.header["method"].get("init"))
        header = self.header | {"layers": [layer.row() for layer in new], "signs": signs}
        return Ticket(header, tensors_of(new, list(self.others)))

    def network(self, backbone: nn.Module | None = None) -> nn.Module:
        """Build the ticket's network, in evaluation mode, on the CPU, in float32.

        Its ticket layers hold +-gain as weights and the mask (0 or 1) as scores. In evaluation a layer computes its
        ticket weight once (:mod:`mpt.ticket.keeping`), so that a forward costs as much as one of :func:`mpt.to_dense`.

        Args:
            backbone: the plain network, which stays as it is; needed where ``mpt.backbones`` cannot build it.

        Raises:
            ValueError: the ticket is for another backbone, or the backbone is needed and missing.
        """
        return build_network(self.header, self.layers, self.others, backbone=backbone)

    def backbone(self) -> nn.Module:
        """The plain network that the header names, untrained; ValueError if ``mpt.backbones`` cannot build it."""
        return build_backbone(self.header, self.layers, self.others)

    def classifier(
        self, *, backbone: nn.Module | None = None, batch: int = 64, device: torch.device | str = "cpu"
    ) -> Classifier:
        """What classifies pictures with this ticket, by the transform and the class names of its header.

        Args:
            backbone: see :meth:`network`.
            batch: pictures per forward.
            device: where the network computes.

        Raises:
            ValueError: the header does not say how images are normalised; see also :meth:`network`.
        """
        from mpt.ticket.classifier import Classifier  # brings PIL and the data room, which a file alone does not need

        net = self.network(backbone)
        return Classifier(net, self.header, image=self.image_shape, batch=batch, device=device)

    def table(self) -> LayerTable:
        """The layer table of :func:`mpt.layer_table`, from the file alone; it counts the bits of the packed tensors.

        Names are escaped, and cut after 200 characters.
        """
        prunes = self.header["method"].get("prune_layers")
        layers = tuple(layer.table_row(prune=own_prune(prunes, layer.name)) for layer in self.layers)
        others = tuple(state.table_row() for state in self.others)
        return LayerTable(printable(self.header["method"]["name"]), layers, others, ())

    @property
    def num_weights(self) -> int:
        """Weights of all searched layers, tied ones once; of a dense baseline, all parameters."""
        if self.layers:
            return sum(layer.num_weights for layer in self.stored_layers())
        return sum(state.value.numel() for state in self.others if state.trained is not None)

    @property
    def num_kept(self) -> int:
        """Weights kept in all searched layers, tied ones once; of a dense baseline, all."""
        return sum(layer.kept for layer in self.stored_layers()) if self.layers else self.num_weights

    @property
    def density(self) -> float:
        """Fraction of the weights that is kept."""
        return self.num_kept / self.num_weights

    @property
    def bits(self) -> int:
        """Bits of all tensors with plain masks and signs (a bit each), without the header."""
        return sum(8 * tensor.nbytes for tensor in self.tensors.values())

    @cached_property
    def file_bits(self) -> int:
        """Bits of the file that :meth:`save` writes: masks, signs, gains, every other tensor, and the header."""
        return 8 * len(files.encode(self.header, self.tensors))

    @property
    def entropy_bits(self) -> float:
        """The information in the searched layers, in bits: see :meth:`mpt.ticket.layer.StoredLayer.entropy_bits`.

        Signs count only in layers whose signs are not the seed's, and masks only where the seed's pattern, if there is
        one, leaves them open. Of a dense baseline, 32 for each parameter.
        """
        if not self.layers:
            return 32.0 * self.num_weights
        seed, init = self.header["seed"], self.header["method"].get("init")
        return sum(
            layer.entropy_bits(
                seed_signs=layer.has_seed_signs(seed=seed, init=init), searched=searched_part(layer, self.header)
            )
            for layer in self.stored_layers()
        )

    @property
    def weight_seed(self) -> int | None:
        """The seed of the random weights among which the ticket was found.

        None if there is no seed, or if the header says that the signs are not the seed's: fine-tuning changed them, or
        the method drew weights again during the search. Files of mpt 0.1.0 do not say; there the seed counts.
        """
        seed: int | None = self.header["seed"]
        return seed if self.header.get("signs", "seed") == "seed" else None

    @property
    def image_shape(self) -> tuple[int, int]:
        """Channels and side of the images that the network takes, as far as the header says (else 3 and 32)."""
        data, built = self.header.get("data", {}), (self.header["backbone"] or {}).get("arguments", {})
        built = built["of"]["arguments"] if "of" in built else built  # a network that mpt.construct expanded
        channels = data.get("channels") or built.get("in_channels") or 3
        return channels, data.get("image_size") or built.get("image_size") or 32

    def layer_prune(self, layer: str) -> float:
        """Fraction that the search removed of the layer of this name."""
        method = self.header["method"]
        own = own_prune(method.get("prune_layers"), layer)
        return float(method["prune"] if own is None else own)

    def random_weight(self, layer: StoredLayer, *, seed: int, stream: str) -> Tensor:
        """Random weights for ``layer``, drawn as the ticket's were (Kaiming normal where the header does not say).

        Args:
            layer: one of this ticket.
            seed: of the draw.
            stream: name of the random stream; the search drew from the one named like the layer.
        """
        method = self.header["method"]
        return random_weight(
            torch.Size(layer.shape),
            seed=seed,
            layer=stream,
            init=method.get("init") or "kaiming_normal",
            scale_fan=method.get("scale_fan") or "none",
            prune=self.layer_prune(layer.stored_as),
        )
