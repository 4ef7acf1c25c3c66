from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import mpt
from mpt import backbones
from mpt.data import Loader, load
from mpt.ticket.classifier import Prediction, _resize

SIZES = [(12, 12), (20, 13), (9, 31), (8, 8), (64, 48)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """An image folder of two classes with pictures of several sizes and kinds."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split in ("train", "test", "val"):
        for label, name in enumerate(("cat", "dög")):
            (root / split / name).mkdir(parents=True)
            for i, (height, width) in enumerate(SIZES):
                pixels = random.integers(0, 200 + 50 * label, (height, width, 3), dtype=np.uint8)
                mode, ending = [("RGB", "png"), ("L", "png"), ("P", "gif"), ("RGBA", "png"), ("RGB", "jpg")][i]
                Image.fromarray(pixels).convert(mode).save(root / split / name / f"{i}.{ending}")
    return root


def picture_at(path):
    with Image.open(path) as picture:
        picture.load()
    return picture


def ticket_for(data, **described):
    backbone = backbones.conv2(
        width=0.25, image_size=data.image_size, in_channels=data.channels, num_classes=data.num_classes
    )
    return mpt.Ticket.from_network(
        mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0),
        class_names=list(data.class_names),
        normalization={"mean": list(data.mean), "std": list(data.std)},
        data={"image_size": data.image_size, "channels": data.channels, **described},
    )


def expected(ticket, data):
    """Logits of all test images by the loader of evaluation."""
    net = ticket.network()
    with torch.no_grad():
        return torch.cat(
            [net(b.images) for b in Loader(data.test, data=data, batch=3, train=False, channels_last=True)]
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"name": "image_folder"}, {"name": "imagenet"}, {"name": "image_folder", "resized_crop": True}]
)
def test_pictures_of_a_folder_are_classified_as_evaluation_classifies_them_one_by_one(root, tmp_path, options):
    data = load(**options, root=root, image_size=8, cache=tmp_path, progress=False)
    ticket = ticket_for(data, **options)
    split = "test" if options["name"] == "image_folder" else "val"
    paths = [path for name in data.class_names for path in sorted((root / split / name).iterdir())]
    classify = ticket.classifier(batch=4)
    found, logits = classify(paths), expected(ticket, data)
    assert [p.index for p in found] == logits.argmax(dim=1).tolist()
    assert len({p.probabilities for p in found}) == len(paths)
    assert np.allclose([p.probabilities for p in found], logits.double().softmax(dim=1), atol=1e-6)
    assert [p.label for p in found] == [data.class_names[p.index] for p in found]
    assert all(p.probability == max(p.probabilities) and sum(p.probabilities) == pytest.approx(1) for p in found)
    opened = [picture_at(path) for path in paths]
    assert [p.index for p in classify(opened)] == [p.index for p in found]
    arrays = [np.asarray(picture_at(path).convert("RGB")) for path in paths]
    assert classify(arrays) == classify(opened)
    assert list(classify.predict(iter(arrays))) == classify(arrays)


@pytest.mark.slow
@pytest.mark.parametrize("image_size", [None, 11])
def test_test_images_are_classified_as_evaluation_classifies_them_in_every_form(image_size):
    data, native = load("digits", image_size=image_size), load("digits")
    ticket = ticket_for(data, name="digits")
    logits, classify = expected(ticket, data), ticket.classifier(batch=500)
    pixels = native.test.pixels
    forms = {
        "tensor": pixels,
        "float tensor": pixels.float() / 255,
        "float array": pixels.permute(0, 2, 3, 1).float().numpy() / 255,
        "float64 arrays": [image.double().numpy()[0] / 255 for image in pixels],
        "array": pixels.permute(0, 2, 3, 1).numpy(),
        "arrays": [image.numpy()[0] for image in pixels],
        "pictures": [Image.fromarray(image.numpy()[0]) for image in pixels],
        "colour pictures": [Image.fromarray(image.numpy()[0]).convert("RGB") for image in pixels],
    }
    for form in forms.values():
        found = classify(form)
        assert [p.index for p in found] == logits.argmax(dim=1).tolist()
        assert np.allclose([p.probabilities for p in found], logits.double().softmax(dim=1), atol=1e-6)


def test_one_picture_of_any_form_gives_a_list_of_one(root):
    data = load("synthetic", image_size=8, num_classes=3)
    classify = ticket_for(data, name="synthetic").classifier()
    path = root / "test" / "cat" / "1.png"
    grey = np.asarray(picture_at(path))
    rgb = np.asarray(picture_at(path).convert("RGB"))
    tensor = torch.from_numpy(rgb.copy()).permute(2, 0, 1)
    results = [
        classify(one) for one in (path, str(path), picture_at(path), rgb, rgb[None], tensor, tensor[None], [path])
    ]
    assert all(result == results[0] for result in results)
    assert len(results[0]) == 1
    assert isinstance(results[0][0], Prediction)
    assert classify([]) == []
    assert results[0][0].label in ("0", "1", "2")
    with pytest.raises(ValueError, match=r"takes pictures of 3 channels, \(H, W, 3\), got \(20, 13\)"):
        classify(grey)


@pytest.mark.parametrize("side", [1, 16])
def test_a_header_with_another_size_than_the_network_takes_is_named(side):
    data = load("synthetic", image_size=8, num_classes=3)
    ticket = ticket_for(data, name="synthetic")
    ticket.header["data"]["image_size"] = side
    with pytest.raises(ValueError, match=f"cannot take images of {side}x{side} pixels, the size that its header names"):
        ticket.classifier()(np.zeros((20, 20, 3), np.uint8))


def test_what_is_no_picture_is_refused(root, tmp_path):
    data = load("synthetic", image_size=8, num_classes=3)
    ticket = ticket_for(data, name="synthetic")
    classify = ticket.classifier()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    cases = [
        ("complex128", np.zeros((8, 8, 3), complex)),
        ("must lie in", np.full((8, 8, 3), 1.01, np.float32)),
        ("must lie in", torch.randn(3, 8, 8)),
        ("must lie in", torch.full((3, 8, 8), torch.nan)),
        (r"got \(8, 8, 4\)", np.zeros((8, 8, 4), np.uint8)),
        (r"got \(0, 8, 3\)", np.zeros((0, 8, 3), np.uint8)),
        ("got int", [3]),
        ("got int", 3),
        ("uint8 or in .0, 1., got int64", [np.zeros((8, 8, 3), np.int64)]),
        ("is not a readable picture", tmp_path / "broken.png"),
        ("more than 8 bits per channel", Image.new("I", (8, 8))),
    ]
    for sentence, pictures in cases:
        with pytest.raises(ValueError, match=sentence):
            classify(pictures)
    with pytest.raises(FileNotFoundError, match="there is no picture at"):
        classify(tmp_path / "none.png")
    with pytest.raises(ValueError, match="batch is the number of pictures per forward"):
        ticket.classifier(batch=0)
    del ticket.header["normalization"]
    with pytest.raises(ValueError, match="does not say how images are normalised"):
        ticket.classifier()


def test_a_network_of_other_outputs_than_classes_is_refused():
    data = load("synthetic", image_size=8, num_classes=3)
    ticket = ticket_for(data, name="synthetic")
    ticket.header["class_names"] = ["a", "b"]
    with pytest.raises(ValueError, match="is not one number for each of 2 classes"):
        ticket.classifier()(np.zeros((8, 8, 3), np.uint8))
    del ticket.header["class_names"]
    assert ticket.classifier()(np.zeros((8, 8, 3), np.uint8))[0].label in ("0", "1", "2")


def test_its_repr_says_network_size_and_classes():
    data = load("digits")
    lines = repr(ticket_for(data, name="digits").classifier()).splitlines()
    assert lines == [
        "Classifier by Conv on cpu",
        "  pictures -> 1 channel, 8 x 8 pixels -> 10 classes ('0', '1', '2', '3', ...)",
    ]


@pytest.mark.parametrize("shape", [(1, 400_000), (400_000, 1)])
def test_of_an_array_that_is_a_line_the_middle_is_resized(shape):
    pixels = np.full((*shape, 3), 7, dtype=np.uint8)
    assert _resize(pixels, 8).tolist() == [[[7] * 3] * 8] * 8
