from __future__ import annotations

import numpy as np
import pytest
import torch

from mpt import data

NAMES = ("fog", "gaussian_noise", "spatter")
COUNT, SIDE = 4, 8


@pytest.fixture
def root(tmp_path):
    """Three corruptions of four images at five severities, in the layout of the public files."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (5 * COUNT, SIDE, SIDE, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.tile(np.arange(COUNT, dtype=np.uint8), 5))
    return tmp_path


def test_each_corruption_and_severity_has_its_images_and_the_standard_ones_come_first(root):
    splits = list(data.corruptions(root))
    order = ("gaussian_noise", "fog", "spatter")
    assert [(name, severity) for name, severity, _ in splits] == [(n, s) for n in order for s in range(1, 6)]
    for name, severity, images in splits:
        stored = np.load(root / f"{name}.npy")[(severity - 1) * COUNT : severity * COUNT]
        assert images.pixels.shape == (COUNT, 3, SIDE, SIDE)
        assert np.array_equal(images.pixels.permute(0, 2, 3, 1), stored)
        assert images.labels.tolist() == list(range(COUNT))
        assert images.labels.dtype == torch.int64


def test_pixels_stay_in_their_file_and_writing_to_them_does_not_change_it(root):
    before = (root / "fog.npy").read_bytes()
    for _, _, images in data.corruptions(root):
        images.pixels.zero_()
    assert (root / "fog.npy").read_bytes() == before


def without_labels(root):
    (root / "labels.npy").unlink()


def only_labels(root):
    for name in NAMES:
        (root / f"{name}.npy").unlink()


def truncated(root):
    path = root / "fog.npy"
    path.write_bytes(path.read_bytes()[:-100])


def not_an_array(root):
    (root / "fog.npy").write_bytes(b"junk")


def empty(root):
    (root / "fog.npy").write_bytes(b"")


def fewer_images(root):
    np.save(root / "fog.npy", np.zeros((5 * COUNT - 1, SIDE, SIDE, 3), dtype=np.uint8))


def floats(root):
    np.save(root / "fog.npy", np.zeros((5 * COUNT, SIDE, SIDE, 3), dtype=np.float32))


def channels_first(root):
    np.save(root / "fog.npy", np.zeros((5 * COUNT, 3, SIDE, SIDE), dtype=np.uint8))


def odd_labels(root):
    np.save(root / "labels.npy", np.zeros(5 * COUNT + 1, dtype=np.uint8))


def float_labels(root):
    np.save(root / "labels.npy", np.zeros(5 * COUNT))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without_labels, r"there is no labels\.npy in .*CIFAR-10-C or CIFAR-100-C"),
        (only_labels, r"holds labels\.npy but no <corruption>\.npy"),
        (truncated, r"fog\.npy is damaged: download it again"),
        (not_an_array, r"fog\.npy is damaged: download it again"),
        (empty, r"fog\.npy is damaged: download it again"),
        (
            fewer_images,
            r"fog\.npy must hold one square RGB image for each of 20 labels, .* got uint8 \(19, 8, 8, 3\)",
        ),
        (floats, r"fog\.npy must hold .*, got float32"),
        (channels_first, r"fog\.npy must hold .*, got uint8 \(20, 3, 8, 8\)"),
        (odd_labels, r"labels\.npy must hold the classes of the test images 5 times, .* got uint8 \(21,\)"),
        (float_labels, r"labels\.npy must hold .*, got float64"),
    ],
)
def test_wrong_files_are_refused_before_any_images_are_returned(root, change, sentence):
    change(root)
    with pytest.raises((OSError, ValueError), match=sentence):
        data.corruptions(root)


def test_labels_below_0_are_refused(tmp_path):
    np.save(tmp_path / "labels.npy", np.array([-1] * 5))
    np.save(tmp_path / "fog.npy", np.zeros((5, 4, 4, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="holds the label -1"):
        list(data.corruptions(tmp_path))
