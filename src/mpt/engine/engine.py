"""``mpt.compile``: a ticket as machine code for this processor.

    run = mpt.compile("ticket.safetensors")
    logits = run(images)            # (N, C, H, W) float32, NumPy or torch -> (N, classes) of the same kind

The ticket's network becomes a list of operations (:mod:`mpt.engine.trace`, :mod:`mpt.engine.fuse`), these get their
places in memory (:mod:`mpt.engine.layout`), and the steps become LLVM IR (:mod:`mpt.engine.program`) whose products
read lists (:mod:`mpt.engine.lists`) or are written out (:mod:`mpt.engine.unrolled`); with binary activations they are
sums of bytes (:mod:`mpt.engine.lanes`). Logits differ from torch's by rounding alone, at most 2e-5 of the
largest. Objects are kept in the user's cache directory (``MPT_CACHE`` sets another): the second time is quick.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mpt.engine import objects, recipe
from mpt.engine.code import Machine
from mpt.engine.fuse import fuse
from mpt.engine.graph import Node, Shape
from mpt.engine.layout import GROUP, LINE
from mpt.engine.program import ENTRY
from mpt.engine.recipe import Recipe
from mpt.engine.trace import trace
from mpt.engine.workers import Workers
from mpt.ticket.ticket import Ticket

Images = TypeVar("Images", np.ndarray, Tensor)
MOST_THREADS = max(64, os.cpu_count() or 1)  # that share a batch


def compile(
    ticket: Ticket | str | os.PathLike[str],
    *,
    unroll: bool = False,
    threads: int | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> Run:
    """Machine code that computes a ticket's logits from its bits.

    Args:
        ticket: a ticket, or the path of its file.
        unroll: write the weights out as instructions instead of reading lists of them: 1.1 to 3 times as fast, and
            the first time takes a second for every 1,000,000 kept weights on x86-64 with Linux and AVX2, for every
            100,000 to 200,000 elsewhere.
        threads: how many share the images of a batch; by default as many as torch uses.
        image_size: side of the images, or (height, width); by default what the ticket or its network says.

    Returns:
        ``run(images)``, see :class:`Run`.

    Raises:
        ValueError: the network has an operation that the engine does not know, by name of the layer; the image size is
            not known, or not one that the network takes; an argument of another type.
    """
    if threads is not None and not (_is_count(threads) and threads <= MOST_THREADS):
        raise ValueError(f"threads is the number of threads and must be 1 to {MOST_THREADS}, got {threads!r}")
    if not isinstance(unroll, (bool, np.bool)):
        raise ValueError(f"unroll is True or False, got {unroll!r}")
    if not isinstance(ticket, (Ticket, str, os.PathLike)):
        kind = type(ticket).__name__
        raise ValueError(f"ticket is a Ticket or the path of its file, got {kind}: mpt.Ticket.from_network makes one")
    machine, unroll, threads = Machine.host(), bool(unroll), int(threads or torch.get_num_threads())
    file = None if isinstance(ticket, Ticket) else recipe.key_of_file(Path(ticket))
    known = objects.kept(file, machine) if file else None
    if known is None and not isinstance(ticket, Ticket):
        ticket = Ticket.load(Path(ticket))
    digest = ticket.digest if isinstance(ticket, Ticket) else (known or b"").decode()
    key = recipe.key_of(digest, unroll, image_size)
    found = recipe.kept(key, machine)
    if found is None:
        ticket = ticket if isinstance(ticket, Ticket) else Ticket.load(Path(ticket))
        nodes = operations(ticket, image_size=image_size)
        found = recipe.make(nodes, machine=machine, unroll=unroll, name=repr(ticket).partition("\n")[0])
        objects.keep(key, machine, found[0].to_bytes())
    if file and not known:
        objects.keep(file, machine, digest.encode())
    return Run(*found, machine=machine, threads=threads)


def operations(ticket: Ticket, *, image_size: int | tuple[int, int] | None = None) -> list[Node]:
    """The operations of a ticket: all that the engine reads of it.

    ``Ticket.network()`` holds in each layer's ``weight`` the ticket weight, zero where the mask is.
    """
    net = ticket.network()
    return fuse(trace(net, shape=_shape(net, ticket, image_size)))


def _shape(net: nn.Module, ticket: Ticket, image_size: int | tuple[int, int] | None) -> Shape:
    """Channels, height and width of the images that the ticket is for."""
    said = getattr(net, "image_size", None)
    about = (ticket.header.get("data") or {}) if isinstance(ticket.header.get("data"), dict) else {}
    size = image_size if image_size is not None else said or about.get("image_size")
    if size is None:
        raise ValueError("the ticket's network takes images of any size: pass image_size=, their side in pixels")
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(map(_is_count, sides)):
        raise ValueError(f"image_size is a side, or (height, width), in pixels, got {image_size!r}")
    first = next((layer for layer in net.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))), None)
    channels = getattr(net, "in_channels", None)
    if channels is None:
        if first is None:
            raise ValueError("the ticket's network has no convolution and no linear layer: there is nothing to compile")
        channels = first.in_channels if isinstance(first, nn.Conv2d) else first.in_features // math.prod(sides)
    return int(channels), int(sides[0]), int(sides[1])


def _is_plain(images: Tensor) -> bool:
    return images.device.type == "cpu" and images.dtype == torch.float32 and images.layout == torch.strided


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value > 0)


def parts(images: int, threads: int) -> list[slice]:
    """A batch in parts about as long as each other, ``GROUP`` images at most: as many for each thread."""
    many = min(images, threads * -(-images // (threads * GROUP)))
    return [slice(images * i // many, images * (i + 1) // many) for i in range(many)]


class Run:
    """Compiled operations: ``run(images)``.

    Threads share the images of a batch; each has working memory of its own. It may be called from several threads.

    Attributes:
        shape: (C, H, W) of an image.
        outputs: shape of one image's result: (classes,), or (C, H, W) of a network that returns images.
        threads: how many share a batch.
        name: of the network, for ``repr``.
    """

    def __init__(self, made: Recipe, contents: Sequence[bytes], *, machine: Machine, threads: int = 1) -> None:
        self.shape, self.threads, self.name, self.kind = made.shape, threads, made.name, made.kind
        self.outputs = made.last[:1] if made.last[1:] == (1, 1) else made.last
        self._library = objects.Library(contents, machine)
        self._data, self._bytes = torch.frombuffer(made.linked(self._library), dtype=torch.uint8), made.work + LINE
        pointer = ctypes.c_void_p
        self._function = self._library.function(ENTRY, pointer, pointer, ctypes.c_int64, pointer, pointer)
        self._memory: SimpleQueue[Tensor] = SimpleQueue()
        self._workers = Workers(threads - 1) if threads > 1 else None

    def __repr__(self) -> str:
        sizes = [", ".join(map(str, sizes)) for sizes in (self.shape, self.outputs)]
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"compiled {self.name}\n  {self.kind}, {threads}: images (N, {sizes[0]}) -> logits (N, {sizes[1]})"

    def __call__(self, images: Images) -> Images:
        """Logits of ``images``, (N, C, H, W) float32, a NumPy array or a tensor on the CPU; any N.

        Raises:
            ValueError: ``images`` have another shape or type, or a number that is not finite.
        """
        x = self._checked(images)
        logits = torch.empty(len(x), *self.outputs)
        if self._workers is None or len(x) < 2:
            self._compute(x, logits)
            return logits if isinstance(images, Tensor) else logits.numpy()
        self._workers.share(lambda part: self._compute(x[part], logits[part]), parts(len(x), self.threads))
        return logits if isinstance(images, Tensor) else logits.numpy()

    def _checked(self, images: np.ndarray | Tensor) -> Tensor:
        """``images`` as contiguous float32 in memory. It is quick: of a small image, a network takes 100 us."""
        if isinstance(images, Tensor) and _is_plain(images):
            shape = tuple(images.shape)
        elif isinstance(images, np.ndarray) and images.dtype == np.float32:
            shape = images.shape
        else:
            raise ValueError(self._refused(images))
        if shape[1:] != self.shape or len(shape) != 4:
            raise ValueError(f"{self._wanted()}, got {shape}: {self._advice(shape)}")
        if isinstance(images, Tensor):
            x = images.detach().contiguous()
        else:
            x = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        flat = x.view(-1)
        if not math.isfinite(torch.dot(flat, flat)) and not x.isfinite().all():  # large numbers overflow, too
            first = int((~x.isfinite()).flatten(1).any(dim=1).nonzero()[0])
            raise ValueError(f"images[{first}] has NaN or infinity: check its file and how it was normalized")
        return x

    def _wanted(self) -> str:
        return f"images must be float32 of shape (N, {', '.join(map(str, self.shape))}), normalized as in the search"

    def _refused(self, images: object) -> str:
        """What is wrong with images of another type."""
        if not isinstance(images, (np.ndarray, Tensor)):
            kind = type(images).__name__
            return f"{self._wanted()}, got {kind}: pass an array or a tensor; ticket.classifier() takes pictures"
        if isinstance(images, Tensor) and images.device.type != "cpu":
            return f"{self._wanted()}, on the CPU, and these are on {images.device}: pass images.cpu()"
        if isinstance(images, Tensor) and images.layout != torch.strided:
            kind = str(images.layout).removeprefix("torch.")
            return f"{self._wanted()}, and these are of layout {kind}: pass images.to_dense()"
        kind = str(images.dtype).removeprefix("torch.")
        if "int" in kind or kind == "bool":
            return (
                f"{self._wanted()}, and these are pixels of {kind}: ticket.classifier() takes pictures and normalizes "
                "them, with the mean and std of ticket.header['normalization']"
            )
        how = "images.float()" if isinstance(images, Tensor) else "images.astype('float32')"
        return f"{self._wanted()}, got {kind}: pass {how}"

    def _advice(self, shape: tuple[int, ...]) -> str:
        """What to do with images of another shape."""
        channels, height, width = self.shape
        if shape == self.shape:
            return "pass images[None], a batch of one"
        if len(shape) != 4:
            return "pass a batch of images, in four dimensions"
        if shape[1:] == (height, width, channels):
            return "move the channels before the rows"
        if shape[1] != channels:
            return f"this ticket takes images of {channels} channel{'s' * (channels > 1)}"
        return f"resize them to {height} x {width}, or compile the ticket with image_size="

    def _compute(self, images: Tensor, logits: Tensor) -> None:
        try:
            memory = self._memory.get_nowait()
        except Empty:
            memory = torch.zeros(self._bytes, dtype=torch.uint8)  # in large pages two threads disturb each other
        start = memory.data_ptr() + -memory.data_ptr() % LINE
        self._function(images.data_ptr(), logits.data_ptr(), len(images), start, self._data.data_ptr())
        self._memory.put(memory)
