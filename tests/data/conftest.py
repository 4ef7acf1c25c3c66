"""Small folders of pictures with the layout of ImageNet and of users' own image folders."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

COLOURS = {"ant": (200, 60, 60), "bee": (60, 200, 60), "cat": (60, 60, 200)}


def make_pictures(root, *, train=37, val=11, sides=(20, 40), seed=0):
    """Write ``train`` and ``val`` noisy pictures of three colours below ``root``, with sides drawn from ``sides``."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            name = list(COLOURS)[i % 3]
            pixels = rng.normal(COLOURS[name], 50, (*rng.integers(*sides, 2), 3)).clip(0, 255).astype(np.uint8)
            (root / split / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / split / name / f"{i:03}.png")
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of 37 training and 11 test pictures; tests must not write to it."""
    return make_pictures(tmp_path_factory.mktemp("pictures"))
