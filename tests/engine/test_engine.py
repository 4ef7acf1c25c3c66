"""Compiled tickets against torch: every backbone, every batch size, and what is refused."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import mpt
from mpt.engine.engine import MOST_THREADS, operations, parts
from mpt.engine.layout import GROUP
from tests.engine import graphs, networks
from tests.engine.networks import assert_same, compiled, make_ternary, ticket, with_statistics

B = mpt.backbones
BACKBONES = {
    "conv2": (lambda: B.conv2(width=0.1), 32),
    "conv4": (lambda: B.conv4(width=0.1), 32),
    "conv6": (lambda: B.conv6(width=0.1), 32),
    "conv8": (lambda: B.conv8(width=0.1), 32),
    "mlp": (lambda: B.mlp(hidden=(30, 20)), 28),
    "mlp of a few pixels": (lambda: B.mlp(hidden=(30,), image_size=3), 3),
    "vgg_small": (lambda: B.vgg_small(width=0.1), 32),
    "cifar_resnet18": (lambda: B.cifar_resnet18(width=0.1), 32),
    "cifar_resnet20 odd": (lambda: B.cifar_resnet20(width=0.2), 33),
    "cifar_resnet34": (lambda: B.cifar_resnet34(width=0.1), 16),
    "cifar_resnet50 odd": (lambda: B.cifar_resnet50(width=0.1), 19),
    "cifar_resnet110": (lambda: B.cifar_resnet110(width=0.2), 8),
    "wide_resnet18_2": (lambda: B.wide_resnet18_2(width=0.1), 16),
    "wide_resnet34 odd": (lambda: B.wide_resnet34(width=0.05), 45),
}
QUICK = ("conv2", "conv8", "mlp", "mlp of a few pixels", "vgg_small", "cifar_resnet18")
TORCHVISION = {"resnet18": 32, "resnext50_32x4d": 64, "squeezenet1_0": 63}
LARGE = {  # torchvision's, with random weights: side and fraction of zeros by lists, and unrolled
    "resnet18": [(224, 0.95, False), (224, 0.98, True), (32, 0.9, False), (97, 0.98, True), (160, 0.9, False)],
    "resnet34": [(224, 0.95, False), (65, 0.98, True)],
    "resnet50": [(224, 0.95, False), (64, 0.99, True)],
    "wide_resnet50_2": [(224, 0.98, False), (224, 0.998, True), (32, 0.99, False)],
    "vgg11": [(224, 0.99, False), (64, 0.999, True)],
    "vgg11_bn": [(224, 0.99, False), (224, 0.999, True), (32, 0.99, False)],
    "vgg16_bn": [(224, 0.99, False), (32, 0.998, True)],
}


@functools.cache
def found_in(name):
    return ticket(BACKBONES[name][0]())


@pytest.mark.parametrize("unroll", [False, True], ids=["lists", "unrolled"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in BACKBONES])
def test_logits_are_those_of_torch(name, unroll):
    found = found_in(name)
    run = mpt.compile(found, unroll=unroll, threads=1, image_size=BACKBONES[name][1])
    assert_same(run, mpt.to_dense(found.network()))


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_logits_of_a_torchvision_ticket_are_those_of_torch(name):
    found = ticket(B.torchvision(name=name), prune=0.9)
    run = mpt.compile(found, threads=1, image_size=TORCHVISION[name])
    assert_same(run, mpt.to_dense(found.network()), batches=(1, 17))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "prune", "unroll"),
    [(name, *case) for name, cases in LARGE.items() for case in cases],
    ids=lambda value: {True: "unrolled", False: "lists"}[value] if isinstance(value, bool) else str(value),
)
def test_logits_of_large_networks_are_those_of_torch(name, side, prune, unroll):
    with torch.device("meta"):
        net = B.torchvision(name=name)
    net = networks.sparse(net, prune=prune)
    assert_same(compiled(net, (3, side, side), unroll=unroll), net, batches=(1, 17) if side < 64 else (1,))


@pytest.mark.parametrize("lanes", [4, 8, None])
@pytest.mark.parametrize("seed", range(6))
def test_logits_of_random_networks_are_those_of_torch(seed, lanes):
    _check_random(seed, lanes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, 150))
def test_logits_of_many_random_networks_are_those_of_torch(seed):
    _check_random(seed, (4, 8, None)[seed % 3])


def _check_random(seed, lanes):
    rng = np.random.default_rng(seed)
    prune = float(rng.choice([0.0, 0.5, 0.9, 0.99]))
    net = with_statistics(make_ternary(networks.Random(rng), rng, prune=prune))
    shape = (net.channels, net.side, net.side)
    assert_same(compiled(net, shape, lanes=lanes, unroll=bool(rng.random() < 0.5)), net)


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 160))])
def test_logits_and_signs_of_random_graphs_are_those_of_torch(seed):
    assert not graphs.compare(seed, ((None, 8, None, 4)[seed % 4], bool(seed // 2 % 2)))


@pytest.mark.parametrize("lanes", [4, 8, None])
@pytest.mark.parametrize(
    ("sides", "kernel", "padding"), [((5, 5), (3, 1), 0), ((9, 1), (3, 1), 0), ((1, 1), 3, (2, 1))]
)
def test_an_image_and_what_a_convolution_makes_of_it_may_differ_in_how_many_fill_a_vector(
    sides, kernel, padding, lanes
):
    body = [nn.MaxPool2d(1), nn.Conv2d(6, 7, kernel, padding=padding), nn.Flatten(), nn.LazyLinear(4)]
    with torch.no_grad():
        (net := nn.Sequential(*body))(torch.zeros(1, 6, *sides))
    make_ternary(net, np.random.default_rng(0), prune=0.5)
    assert_same(compiled(net, (6, *sides), lanes=lanes), net)


@pytest.mark.parametrize("unroll", [False, True], ids=["lists", "unrolled"])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_compute_the_same(threads, unroll):
    found = ticket(B.cifar_resnet20(width=0.5))
    images = torch.randn(64, 3, 32, 32)
    one = mpt.compile(found, threads=1, image_size=32, unroll=unroll)(images)
    run = mpt.compile(found, threads=threads, image_size=32, unroll=unroll)
    first = run(images)
    assert float((first - one).abs().max()) <= networks.BOUND * float(one.abs().max())
    for _ in range(5):
        assert torch.equal(run(images), first)


def test_a_compiled_ticket_may_be_called_from_several_threads():
    found = ticket(B.conv4(width=0.2))
    run, images = mpt.compile(found, threads=2), torch.randn(20, 3, 32, 32)
    wanted = run(images)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(logits, wanted) for logits in pool.map(run, [images] * 20))


def test_layers_with_real_weights_are_computed_densely():
    rng = np.random.default_rng(0)
    net = with_statistics(networks.Random(rng)).eval()
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.weight.data *= torch.rand_like(layer.weight) > rng.choice([0.0, 0.8])
    assert_same(compiled(net, (net.channels, net.side, net.side)), net)
    net = nn.Sequential(
        nn.Conv2d(6, 12, 3, groups=2), nn.ReLU(), nn.Conv2d(12, 7, 1), nn.Flatten(), nn.Linear(7 * 36, 10)
    )
    for unroll in (False, True):
        assert_same(compiled(net, (6, 8, 8), unroll=unroll), net.eval())


@pytest.mark.slow
def test_a_left_out_layer_and_an_edge_popup_ticket_compile():
    for options in ({"dense": ("classifier.4",)}, {"method": mpt.EdgePopup}):
        found = ticket(B.conv2(width=0.1, image_size=8), **options)
        assert_same(mpt.compile(found), mpt.to_dense(found.network()))


def test_tied_layers_compile():
    layer = nn.Conv2d(4, 4, 3, padding=1)
    net = nn.Sequential(layer, nn.ReLU(), layer, nn.Flatten(), nn.Linear(4 * 36, 3))
    make_ternary(net, np.random.default_rng(0), prune=0.5)
    assert_same(compiled(net, (4, 6, 6)), net)


def test_an_output_without_a_kept_weight_is_its_shift():
    net = nn.Sequential(nn.Conv2d(3, 40, 3, padding=1), nn.Flatten(), nn.Linear(40 * 25, 30))
    make_ternary(net, np.random.default_rng(0), prune=0.5)
    net[0].weight.data[[0, 27, 28, 39]] = 0
    net[2].weight.data[20:] = 0
    for unroll in (False, True):
        assert_same(compiled(net, (3, 5, 5), unroll=unroll), net)


def test_the_largest_logit_is_torchs_on_ten_thousand_pictures():
    found = ticket(B.conv2(width=0.05, image_size=8), prune=0.8)
    run, dense = mpt.compile(found), mpt.to_dense(found.network())
    images = torch.randn(10_000, 3, 8, 8)
    with torch.no_grad():
        wanted = dense(images)
    top = wanted.topk(2).values
    close = top[:, 0] - top[:, 1] <= 2e-5 * wanted.abs().max()
    assert bool(((run(images).argmax(1) == wanted.argmax(1)) | close).all())


def test_numpy_gives_numpy_and_torch_gives_torch():
    run = mpt.compile(ticket(B.mlp(hidden=(8,), image_size=4)))
    images = torch.randn(3, 1, 4, 4)
    assert isinstance(run(images), torch.Tensor)
    assert isinstance(run(images.numpy()), np.ndarray)
    assert np.array_equal(run(images.numpy()), run(images).numpy())
    assert run(images[:0]).shape == (0, 10)
    strange = images.expand(3, 1, 4, 4).transpose(2, 3)  # not contiguous
    assert torch.equal(run(strange), run(strange.contiguous()))


def test_a_path_compiles_like_its_ticket(tmp_path):
    found, images = ticket(B.mlp(hidden=(8,), image_size=4)), torch.randn(3, 1, 4, 4)
    found.save(tmp_path / "ticket")
    assert torch.equal(mpt.compile(str(tmp_path / "ticket"))(images), mpt.compile(found)(images))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 1, 4, 4, dtype=torch.float64), r"float64: pass images.float\(\)"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16), "bfloat16"),
        (np.zeros((1, 1, 4, 4)), "float64: pass images.astype"),
        (np.zeros((1, 1, 4, 4), np.uint8), r"uint8: ticket.classifier\(\) takes pictures and normalizes them"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), "uint8: ticket.classifier"),
        (torch.zeros(1, 1, 4, 5), "resize them to 4 x 4, or compile the ticket with image_size="),
        (torch.zeros(1, 3, 4, 4), "this ticket takes images of 1 channel$"),
        (torch.zeros(1, 4, 4, 1), "channels before the rows"),
        (torch.zeros(1, 4, 4), r"pass images\[None\]"),
        (torch.zeros(4, 4), "four dimensions"),
        (np.zeros((), np.float32), "four dimensions"),
        (torch.cat([torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), float("nan"))]), r"images\[1\] has NaN"),
        (torch.full((1, 1, 4, 4), float("inf")), "infinity"),
        (torch.zeros(1, 1, 4, 4, device="meta"), "on the CPU"),
        (torch.zeros(1, 1, 4, 4).to_sparse(), r"layout sparse_coo: pass images.to_dense\(\)"),
        ([[1.0]], "list"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_one_sentence(images, message):
    run = mpt.compile(ticket(B.mlp(hidden=(8,), image_size=4)))
    with pytest.raises(ValueError, match=message) as error:
        run(images)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ticket": None}, "got NoneType"),
        ({"ticket": nn.Linear(2, 2)}, "got Linear: mpt.Ticket.from_network"),
        ({"threads": "2"}, f"1 to {MOST_THREADS}, got '2'"),
        ({"threads": 0}, f"1 to {MOST_THREADS}, got 0"),
        ({"threads": 10**6}, f"1 to {MOST_THREADS}, got 1000000"),
        ({"threads": True}, f"1 to {MOST_THREADS}, got True"),
        ({"unroll": None}, "True or False, got None"),
        ({"unroll": "yes"}, "True or False, got 'yes'"),
        ({"image_size": True}, "in pixels, got True"),
        ({"image_size": 3.5}, "in pixels, got 3.5"),
        ({"image_size": "4"}, "in pixels, got '4'"),
        ({"image_size": (4, 4, 4)}, "in pixels"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_one_sentence(arguments, message):
    arguments = {"ticket": ticket(B.mlp(hidden=(8,), image_size=4)), **arguments}
    with pytest.raises(ValueError, match=message) as error:
        mpt.compile(**arguments)
    assert "\n" not in str(error.value)


def test_what_is_compiled_says_what_it_is():
    found = ticket(B.mlp(hidden=(8,), image_size=4))
    lines = repr(mpt.compile(found, unroll=True, threads=np.int64(2), image_size=np.int32(4))).splitlines()
    assert lines[0] == f"compiled {repr(found).splitlines()[0]}"
    assert lines[1].startswith("  unrolled, vectors of ")
    assert lines[1].endswith(", 2 threads: images (N, 1, 4, 4) -> logits (N, 10)")
    assert len(lines) == 2


def test_an_unknown_image_size_is_asked_for():
    found = ticket(B.cifar_resnet20(width=0.25))
    with pytest.raises(ValueError, match="image_size="):
        mpt.compile(found)
    with pytest.raises(ValueError, match="in pixels"):
        mpt.compile(found, image_size=0)
    with pytest.raises(ValueError, match="threads"):
        mpt.compile(found, image_size=32, threads=0)


def test_an_image_size_that_does_not_fit_is_refused_by_layer():
    with pytest.raises(ValueError, match=r"classifier\.0"):
        mpt.compile(ticket(B.conv2(width=0.1)), image_size=16)


def test_operations_read_the_ticket_weights():
    found = ticket(B.conv2(width=0.1, image_size=8), prune=0.9)
    convs = [node.conv for node in operations(found) if node.conv is not None]
    assert sum(int(np.count_nonzero(conv.signs)) for conv in convs) == found.num_kept


@pytest.mark.slow
def test_the_engine_loads_with_its_first_use():
    code = "import sys, mpt; assert 'torch' not in sys.modules; mpt.Ticket; sys.exit('llvmlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


def test_threads_share_a_batch_evenly():
    for threads, n in itertools.product((2, 3, 5), range(1, 130)):
        sizes = [part.stop - part.start for part in parts(n, threads)]
        assert sum(sizes) == n
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= GROUP
        assert len(sizes) == n or len(sizes) % threads == 0
    assert parts(64, 2) == [slice(16 * i, 16 * i + 16) for i in range(4)]
