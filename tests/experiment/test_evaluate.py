from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mpt.data import Images, load
from mpt.experiment.evaluate import accuracy, measurements


@pytest.fixture(scope="module")
def data():
    return load("synthetic", image_size=8, num_classes=7, num_images=210)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 7)).eval()


def expected(net, data):
    """Top-1, top-5, calibration error and accuracy of each class, in NumPy, an image at a time."""
    pixels = data.test.pixels.numpy() / 255
    images = (pixels - np.reshape(data.mean, (1, -1, 1, 1))) / np.reshape(data.std, (1, -1, 1, 1))
    with torch.no_grad():
        logits = net(torch.tensor(images, dtype=torch.float32)).double().numpy()
    labels = data.test.labels.numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    right = logits.argmax(axis=1) == labels
    top5 = [label in np.argsort(-row)[:5] for row, label in zip(logits, labels, strict=True)]
    confidence, error = probabilities.max(axis=1), 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return right.mean(), np.mean(top5), error, [right[labels == label].mean() for label in range(7)]


def test_every_measure_follows_its_definition(data, net):
    acc, top5, error, per_class = expected(net, data)
    values = measurements(net, data.test, data=data, batch=10)
    assert 0 < acc < top5 < 1  # the numbers say something
    assert (values["acc"], values["acc_top5"]) == pytest.approx((acc, top5), abs=1e-6)
    assert values["calibration_error"] == pytest.approx(error, abs=1e-5)
    assert [row["acc"] for row in values["per_class"]] == pytest.approx(per_class, abs=1e-6)
    assert sum(row["num_images"] for row in values["per_class"]) == values["num_images"] == len(data.test)
    assert accuracy(net, data.test, data=data, batch=33) == pytest.approx(values["acc"], abs=1e-7)


def test_small_logits_are_not_mistaken_for_probabilities(data):
    class Small(nn.Module):
        def forward(self, images):
            return torch.nn.functional.one_hot(torch.zeros(len(images), dtype=torch.long), 7) * 0.5

    values = measurements(Small(), data.test, data=data, batch=10)
    confidence = np.exp(0.5) / (np.exp(0.5) + 6)
    assert values["calibration_error"] == pytest.approx(abs(1 / 7 - confidence), abs=0.02)


def test_a_class_without_an_image_and_fewer_than_five_classes_give_none(data, net):
    some = data.test.labels < 3
    values = measurements(net, Images(data.test.pixels[some], data.test.labels[some]), data=data, batch=10)
    assert [row["acc"] is None for row in values["per_class"]] == [False] * 3 + [True] * 4
    four = load("synthetic", image_size=8, num_classes=4, num_images=40)
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    assert measurements(tiny, four.test, data=four, batch=10)["acc_top5"] is None
