from __future__ import annotations

import hashlib
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch
import torchvision

from mpt import data


def test_digits_are_complete_and_split_in_proportion():
    digits = data.load("digits")
    assert len(digits.train) + len(digits.test) == 1797
    assert digits.train.pixels.shape[1:] == (1, 8, 8)
    assert digits.test.labels.bincount().min() >= 34
    both = torch.cat([digits.train.pixels, digits.test.pixels]).flatten(1).float()
    assert torch.cdist(digits.test.pixels.flatten(1).float(), digits.train.pixels.flatten(1).float()).min() > 0
    assert both.max() == 255
    assert data.load("digits", image_size=16).image_size == 16


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """CIFAR-10 in torchvision's layout, with 4 pictures per file and matching checksums."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = {}

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels[name] = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
    cifar10 = torchvision.datasets.CIFAR10
    train = [write(f"data_batch_{i}", {"data": pixels[f"data_batch_{i}"], "labels": [0, 1, 2, 3]}) for i in range(1, 6)]
    monkeypatch.setattr(cifar10, "train_list", train)
    monkeypatch.setattr(
        cifar10, "test_list", [write("test_batch", {"data": pixels["test_batch"], "labels": [3, 2, 1, 0]})]
    )
    names = write("batches.meta", {"label_names": ["airplane", "automobile", "bird", "cat"]})
    monkeypatch.setattr(cifar10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": names[1]})
    return tmp_path, pixels


def test_cifar10_is_read_from_torchvisions_files(cifar):
    root, pixels = cifar
    read = data.load("cifar10", root=root, download=False)
    assert read.train.pixels.shape == (20, 3, 32, 32)
    assert np.array_equal(read.test.pixels.numpy().reshape(4, 3072), pixels["test_batch"])
    assert read.test.labels.tolist() == [3, 2, 1, 0]
    assert read.class_names == ("airplane", "automobile", "bird", "cat")
    assert read.mean == (0.491, 0.482, 0.447)


def test_a_local_archive_is_unpacked_instead_of_downloaded(cifar, monkeypatch, capsys):
    root, _ = cifar
    archive = root / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / "cifar-10-batches-py", "cifar-10-batches-py")
    (root / "cifar-10-batches-py").rename(root / "away")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(data.load("cifar10", root=root).train) == 20


def test_mnist_is_read_from_torchvisions_files(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", 6), ("t10k", 3)):
        pixels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, n, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, n) + bytes(range(n)))
    read = data.load("mnist", root=tmp_path, download=False)
    assert read.train.pixels.shape == (6, 1, 28, 28)
    assert np.array_equal(read.test.pixels[:, 0], pixels)
    assert read.num_classes == 10
    assert not read.flip


def test_damaged_files_are_refused_with_the_reason(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{part}-ubyte").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"the files of mnist in .* are damaged"):
        data.load("mnist", root=tmp_path, download=False)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_with_downloads_off_the_error_for_missing_files_names_the_alternatives(name, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=rf"{name} was not found in .*download is off.*data\.root=.*image_folder"
    ):
        data.load(name, root=tmp_path / "none", download=False)


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_a_download_is_announced_and_its_failure_names_the_alternatives(name, tmp_path, monkeypatch, capsys):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(OSError, match=r"could not be downloaded .*data\.root=.*image_folder"):
        data.load(name, root=tmp_path)
    assert "downloading about" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "nope"}, "data must be one of digits, cifar10"),
        ({"name": "digits", "image_size": 0}, "image_size"),
        ({"name": "digits", "root": "x"}, r"data\.root has an effect only with data that are read from files: leave"),
        ({"name": "synthetic", "root": "x"}, r"data\.root has an effect only with data that are read from files"),
        ({"name": "cifar10", "root": "x", "stream": False}, r"data\.stream has an effect only with data=image_folder"),
        ({"name": "digits", "mean": [0.1, 0.2]}, r"data\.mean needs 1 number,"),
        ({"name": "digits", "std": [0.0]}, r"data\.std needs 1 number of at least 0\.0001"),
        (
            {"name": "digits", "crop": 9},
            r"data\.crop is a padding in pixels and must be in \[0, 8\], the image's side, got 9",
        ),
        ({"name": "synthetic", "num_classes": 1}, "synthetic images need"),
    ],
)
def test_wrong_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        data.load(**options)


def test_synthetic_images_have_the_requested_shape_and_are_always_the_same():
    one, again = (data.load("synthetic", num_classes=4, num_images=50, channels=2, image_size=9) for _ in range(2))
    assert one.train.pixels.shape == (50, 2, 9, 9)
    assert one.num_classes == 4
    assert torch.equal(one.train.pixels, again.train.pixels)


@pytest.mark.parametrize(
    ("name", "archive"), [("cifar10", "cifar-10-python.tar.gz"), ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz")]
)
def test_a_damaged_archive_is_named(name, archive, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    (tmp_path / archive).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / archive).write_bytes(b"junk")
    with pytest.raises(OSError, match=r"gz is damaged and could not be downloaded again"):
        data.load(name, root=tmp_path)
