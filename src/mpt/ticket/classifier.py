"""A ticket that classifies pictures: from files, PIL images, arrays or tensors to class names and probabilities.

    classify = Ticket.load(path).classifier()
    classify("cat.jpg")[0].label

A picture of any size goes the way of the test images of the ticket's data set, so that the accuracy over a folder is
the accuracy that ``mpt-eval`` measures, picture by picture:

    image folders     PIL resizes the shorter side, then the centre is cropped (for ImageNet: 7/8 of the shorter side)
    other data sets   torch resizes the shorter side (bilinear, antialiased), then the centre is cropped

Then the mean is subtracted and the result divided by the standard deviation, both from the ticket's header, by the
loader that evaluation uses. This room imports the data room for these functions, which are the only ones of their kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mpt.causes import is_out_of_memory
from mpt.data.facts import FOLDERS
from mpt.data.images import ImageData, Images
from mpt.data.loader import Loader
from mpt.data.pictures import convert, decode, fit_central_crop, fit_square, middle_box

MODES = {1: "L", 3: "RGB"}  # channels -> PIL's mode


@dataclass(frozen=True)
class Prediction:
    """What a ticket sees in one picture.

    Attributes:
        label: name of the most probable class.
        index: of that class.
        probabilities: of all classes, in the order of the header's ``class_names``; they sum to 1.
    """

    label: str
    index: int
    probabilities: tuple[float, ...]

    @property
    def probability(self) -> float:
        """Probability of the most probable class."""
        return self.probabilities[self.index]


class Classifier:
    """Classifies pictures; :meth:`mpt.Ticket.classifier` builds one.

    Args:
        net: the ticket's network.
        header: of the ticket, with ``normalization``, ``data`` and ``class_names``.
        image: channels and side of the images that the network takes.
        batch: pictures per forward.
        device: where the network computes.

    Raises:
        ValueError: the header has no normalization, or one for another number of channels.
    """

    def __init__(
        self, net: nn.Module, header: dict[str, Any], *, image: tuple[int, int], batch: int, device: torch.device | str
    ) -> None:
        if "normalization" not in header:
            raise ValueError("the ticket does not say how images are normalised: it cannot classify pictures by itself")
        if not isinstance(batch, int) or batch < 1:
            raise ValueError(f"batch is the number of pictures per forward and must be at least 1, got {batch!r}")
        try:
            net.to(device)
        except (RuntimeError, TypeError, AssertionError) as error:
            first = str(error).partition("\n")[0]
            raise ValueError(f"device={device!r} cannot be used, take device='cpu': {first}") from error
        self.channels, self.side = image
        self.mean, self.std = (tuple(header["normalization"][key]) for key in ("mean", "std"))
        if len(self.mean) != self.channels or self.channels not in MODES:
            raise ValueError(
                f"pictures have 1 or 3 channels, and the ticket takes {self.channels}: use ticket.network()"
            )
        data = header.get("data", {})
        self.folder = data.get("name") in FOLDERS
        self.resized_crop = data.get("resized_crop", data.get("name") == "imagenet")
        self.class_names = tuple(header.get("class_names", ()))
        self.net, self.batch, self.device = net.to(device).eval(), batch, torch.device(device)

    def __repr__(self) -> str:
        names = ", ".join(repr(name[:20]) for name in self.class_names[:4])
        more = ", ..." * (len(self.class_names) > 4)
        kind = f"{self.channels} channel{'s' * (self.channels > 1)}, {self.side} x {self.side} pixels"
        classes = f"{len(self.class_names)} classes ({names}{more})" if names else "classes without names"
        return f"Classifier by {type(self.net).__name__} on {self.device}\n  pictures -> {kind} -> {classes}"

    def __call__(self, pictures: Any) -> list[Prediction]:
        """Classify one picture or several.

        Args:
            pictures: a path, a PIL image, an array (H, W, C), or (H, W) if grey, a tensor (C, H, W), or a sequence of
                these; or an array (N, H, W, C) or a tensor (N, C, H, W). Arrays and tensors are uint8, or floating
                point in [0, 1].

        Returns:
            One prediction for each picture, in order.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a picture that cannot be read, or of another number of channels, type or range.
        """
        return list(self.predict(pictures))

    def predict(self, pictures: Any) -> Iterator[Prediction]:
        """The predictions of :meth:`__call__` one by one, a batch of pictures in memory at a time."""
        one_by_one = iter(_separate(pictures))
        while part := [self.prepare(picture) for picture in islice(one_by_one, self.batch)]:
            yield from self._classify(np.stack(part))

    def prepare(self, picture: Any) -> np.ndarray:
        """One picture as the network's data set has it before normalisation: uint8 (side, side, C)."""
        image = self._open(picture)
        if not self.folder:
            pixels = _resize(np.asarray(image), self.side)
        elif self.resized_crop:
            pixels = fit_central_crop(image, self.side)
        else:
            pixels = fit_square(image, self.side)
        return pixels.reshape(self.side, self.side, self.channels)

    def _open(self, picture: Any) -> Image.Image:
        mode = MODES[self.channels]
        if isinstance(picture, (str, os.PathLike)):
            if not Path(picture).is_file():
                raise FileNotFoundError(f"there is no picture at {picture}")
            return decode(Path(picture), mode=mode)
        if isinstance(picture, Image.Image):
            return convert(picture, mode=mode, name="the picture")
        pixels = _pixels(picture)
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[:, :, 0]
        if pixels.ndim != (2 if self.channels == 1 else 3) or pixels.shape[2:] not in ((), (3,)) or not pixels.size:
            kind = "(H, W, 3)" if self.channels == 3 else "(H, W) or (H, W, 1)"
            raise ValueError(f"the ticket takes pictures of {self.channels} channels, {kind}, got {pixels.shape}")
        return Image.fromarray(pixels)

    @torch.inference_mode()
    def _classify(self, pixels: np.ndarray) -> Iterator[Prediction]:
        """Predictions for uint8 (B, side, side, C)."""
        images = Images(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.zeros(len(pixels), dtype=torch.long))
        data = ImageData("pictures", images, images, self.class_names, self.mean, self.std, crop=0, flip=False)
        loader = Loader(images, data=data, batch=self.batch, train=False, device=self.device, channels_last=True)
        try:
            logits = torch.cat([self.net(part.images) for part in loader])
        except RuntimeError:
            self._check_side()
            raise  # one picture fits
        names = self.class_names or tuple(map(str, range(logits.shape[-1])))
        if logits.shape != (len(pixels), len(names)):
            shape = tuple(logits.shape)
            raise ValueError(f"the network's output {shape} is not one number for each of {len(names)} classes")
        rows = logits.double().softmax(dim=1).tolist()
        indices = logits.argmax(dim=1).tolist()
        return iter([Prediction(names[i], i, tuple(row)) for i, row in zip(indices, rows, strict=True)])

    def _check_side(self) -> None:
        try:
            self.net(torch.zeros(1, self.channels, self.side, self.side, device=self.device))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"the ticket's network cannot take images of {self.side}x{self.side} pixels, the size that its header "
                f"names ({str(error).strip().splitlines()[0]}): take the original file"
            ) from error


def _separate(pictures: Any) -> Iterable[Any]:
    """The single pictures of what :class:`Classifier` is given."""
    if isinstance(pictures, (str, os.PathLike, Image.Image)):
        return [pictures]
    if isinstance(pictures, (np.ndarray, Tensor)):
        return pictures if pictures.ndim == 4 else [pictures]
    if not isinstance(pictures, Iterable):
        raise ValueError(f"pictures are paths, PIL images, arrays or tensors, got {type(pictures).__name__}")
    return pictures


def _pixels(picture: Any) -> np.ndarray:
    """A uint8 array, (H, W, C) or (H, W), of an array like that or a tensor (C, H, W), of uint8 or in [0, 1]."""
    if isinstance(picture, Tensor):
        tensor = picture.detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor  # NumPy has no bfloat16
        picture = (tensor.permute(1, 2, 0) if tensor.ndim == 3 else tensor).numpy()
    if isinstance(picture, np.ndarray) and np.issubdtype(picture.dtype, np.floating):
        if not ((picture >= 0) & (picture <= 1)).all():  # also refuses nan
            raise ValueError("floating-point pictures must lie in [0, 1]: give pictures that are not normalised")
        picture = (picture * 255).round().astype(np.uint8)
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        kind = picture.dtype if isinstance(picture, np.ndarray) else type(picture).__name__
        raise ValueError(
            f"a picture is a path, a PIL image, or an array or tensor of uint8 or in [0, 1], got {kind}: convert it"
        )
    return np.ascontiguousarray(picture)


def _resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8 (H, W, ...) -> (side, side, C), as :mod:`mpt.data.images` resizes a data set; the centre if not square."""
    if box := middle_box((pixels.shape[1], pixels.shape[0]), side):
        pixels = pixels[box[1] : box[3], box[0] : box[2]]
    height, width = pixels.shape[:2]
    if (height, width) == (side, side):
        return pixels
    scale = side / min(height, width)
    size = max(side, round(height * scale)), max(side, round(width * scale))
    planes = torch.from_numpy(pixels.reshape(height, width, -1).copy()).permute(2, 0, 1)[None].float()
    resized = F.interpolate(planes, size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return resized[0, :, top : top + side, left : left + side].permute(1, 2, 0).numpy()
