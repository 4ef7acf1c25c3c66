"""Whether the size of a batch suits the images, the processes and the network of a run."""

from __future__ import annotations

import copy

import torch
from torch import nn

from mpt.data import ImageData
from mpt.search.parameters import BATCH_NORMS
from mpt.words import count


def check_batch(batch: int, *, images: int | None, processes: int, parts: int) -> None:
    """ValueError unless ``batch`` suits the training images, the processes and the parts of a step.

    Args:
        batch: images of a step, over all processes.
        images: for training; None if nobody has counted them yet.
        processes: of the run.
        parts: into which each process splits its images of a step (``optim.accumulate``).
    """
    if images is not None and batch > images:
        raise ValueError(
            f"batch is the number of images per step and must be at most {images}, as there are no more for training, "
            f"got {batch}"
        )
    if batch % (processes * parts):
        raise ValueError(
            f"batch is the global batch and must be divisible by {count(processes, 'process')}"
            f"{f' times optim.accumulate={parts}' if parts > 1 else ''}, got {batch}"
        )


def check_last_batch(net: nn.Module, data: ImageData, *, batch: int, processes: int) -> None:
    """ValueError if an epoch ends with one image per process and the batch-norm of ``net`` cannot train on one.

    ``batch`` is the number of images that all processes together take in a step, or in one part of a step.
    """
    images = len(data.train) % batch or batch
    if images // processes > 1 or not any(isinstance(module, BATCH_NORMS) for module in net.modules()):
        return
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy.deepcopy(net).train()(torch.zeros(1, data.channels, data.image_size, data.image_size))
    except ValueError as error:
        raise ValueError(
            f"batch={batch} leaves {images} of {len(data.train)} training images for an epoch's last step, one per "
            "process, on which batch-norm cannot train: choose another batch"
        ) from error
