"""Every recipe against the papers' tables, transcribed here by hand, and two real steps of each."""

from __future__ import annotations

import json
import math
import re
import shlex

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mpt import backbones, data
from mpt.experiment.build import build_backbone, build_method, convert
from mpt.experiment.train import run
from mpt.files import CONF
from tests.console import compose

FILES = {path.stem: path.read_text() for path in (CONF / "recipe").glob("*_*.yaml")}
OPTIM, RUN = ("name", "lr", "momentum", "weight_decay"), ("batch", "epochs")

# Diffenderfer & Kailkhura 2021: tables 5, 6 and 7; appendix A.1 for the dense line; the initialisation of A.1 and A.2.
#                          model              optimizer lr       momentum decay      batch epochs init
TABLES = {
    "mpt_conv_1_32": ("conv6", "sgd", 0.1, 0.9, 1e-4, 128, 250, "kaiming_normal"),
    "mpt_conv_1_1": ("conv6", "adam", 0.1, None, 1e-4, 128, 250, "kaiming_normal"),
    "mpt_conv_dense": ("conv6", "adam", 3e-4, None, 0.0, 60, 100, "kaiming_normal"),
    "mpt_resnet18_1_32": ("cifar_resnet18", "sgd", 0.1, 0.9, 5e-4, 256, 250, "kaiming_normal"),
    "mpt_resnet18_1_32_bn": ("cifar_resnet18", "sgd", 0.1, 0.9, 5e-4, 256, 250, "kaiming_normal"),
    "mpt_vgg_small_1_1": ("vgg_small", "adam", 3.63e-3, None, 1e-4, 128, 600, "kaiming_normal"),
    "mpt_vgg_small_1_1_bn": ("vgg_small", "adam", 3.63e-3, None, 1e-4, 128, 600, "kaiming_normal"),
    "mpt_wrn50_1_32": ("wide_resnet50_2", "sgd", 0.256, 0.875, 3.051757812e-5, 256, 120, "signed_constant"),
    "mpt_wrn50_1_32_bn": ("wide_resnet50_2", "sgd", 0.256, 0.875, 3.051757812e-5, 256, 120, "signed_constant"),
    "mpt_wrn34_1_1": ("wide_resnet34", "adam", 2.56e-4, None, 3.051757812e-5, 256, 250, "kaiming_normal"),
    "mpt_wrn34_1_1_bn": ("wide_resnet34", "adam", 2.56e-4, None, 3.051757812e-5, 256, 250, "kaiming_normal"),
    # Efficient Multi-Prize Lottery Tickets: "the default hyperparameter setting from the original MPT paper"
    "efficient_power": ("conv6", "sgd", 0.1, 0.9, 1e-4, 128, 250, "kaiming_normal"),
    "efficient_resnet18": ("cifar_resnet18", "sgd", 0.1, 0.9, 5e-4, 256, 250, "kaiming_normal"),
    "efficient_threshold": ("cifar_resnet18", "sgd", 0.1, 0.9, 5e-4, 256, 250, "kaiming_normal"),
}
# In no table: ours, as their headers say
OURS = {
    "mpt_vgg_small_1_32": ("vgg_small", "sgd", 0.1, 0.9, 5e-4, 256, 250, "kaiming_normal"),
    "mpt_vgg_small_dense": ("vgg_small", "sgd", 0.05, 0.9, 5e-4, 256, 250, "kaiming_normal"),
    "mpt_resnet18_dense": ("cifar_resnet18", "sgd", 0.1, 0.9, 5e-4, 256, 250, "kaiming_normal"),
    "fast_conv": ("conv6", "sgd", 0.1, 0.9, 1e-4, 32, 6, "kaiming_normal"),
    "best_conv": ("conv6", "sgd", 0.1, 0.9, 1e-4, 32, 6, "kaiming_normal"),
    "fast_conv_1_1": ("conv6", "adam", 0.001, None, 1e-4, 32, 6, "kaiming_normal"),
    "fast_resnet18": ("cifar_resnet18", "sgd", 0.1, 0.9, 5e-4, 32, 6, "kaiming_normal"),
    "best_resnet18": ("cifar_resnet18", "sgd", 0.1, 0.9, 5e-4, 32, 6, "kaiming_normal"),
    "mpt_resnet34_dense": ("resnet34", "sgd", 0.1, 0.9, 1e-4, 256, 90, "kaiming_normal"),
}
# prune (the number in brackets of tables 1 to 4 and 8 to 11) and what else tells the rows apart
ROWS = {
    "mpt_resnet18_1_32": {"prune": 0.8},
    "fast_resnet18": {"prune": 0.8},
    "best_resnet18": {"prune": 0.8, "learn_batchnorm": True},
    "mpt_resnet18_1_32_bn": {"prune": 0.8, "learn_batchnorm": True},
    "mpt_vgg_small_1_1": {"prune": 0.75, "width": 1.25, "binary_activations": True},
    "mpt_vgg_small_1_1_bn": {"prune": 0.75, "width": 1.25, "binary_activations": True, "learn_batchnorm": True},
    "mpt_wrn50_1_32": {"prune": 0.8, "label_smoothing": 0.1},
    "mpt_wrn50_1_32_bn": {"prune": 0.8, "label_smoothing": 0.1, "learn_batchnorm": True},
    "mpt_wrn34_1_1": {"prune": 0.6, "label_smoothing": 0.1, "binary_activations": True},
    "mpt_wrn34_1_1_bn": {"prune": 0.6, "label_smoothing": 0.1, "binary_activations": True, "learn_batchnorm": True},
    "mpt_conv_1_1": {"prune": 0.5, "binary_activations": True},
    "fast_conv_1_1": {"prune": 0.5, "binary_activations": True},
    "mpt_vgg_small_1_32": {"prune": 0.95},
    "efficient_resnet18": {"prune": 0.8},
    "efficient_threshold": {"prune": 0.8},
}
DEFAULTS = {"width": 1.0, "binary_activations": False, "learn_batchnorm": False, "label_smoothing": 0.0}
SELECTIONS = {"efficient_power": "global", "efficient_resnet18": "global", "efficient_threshold": "calibrated"}
IMAGENET = ("mpt_wrn50", "mpt_wrn34", "mpt_resnet34")


def compose_recipe(recipe, *overrides):
    return compose(f"recipe={recipe}", *(["data.root=x"] if recipe.startswith(IMAGENET) else []), *overrides)


def test_every_recipe_file_is_in_the_tables_of_this_test():
    assert set(FILES) == set(TABLES) | set(OURS)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(TABLES | OURS))
def test_a_recipe_resolves_to_its_row_of_the_table(recipe):
    settings = compose_recipe(recipe)
    optim, dense = settings.optim, recipe.endswith("dense")
    method = build_method(settings.method, prune=settings.prune)
    row = (
        settings.model.name,
        *(getattr(optim, key) for key in OPTIM),
        *(getattr(settings, key) for key in RUN),
        method.init,
    )
    model, name, lr, momentum, *others = (TABLES | OURS)[recipe]
    assert row == (model, name, lr, optim.momentum if momentum is None else momentum, *others)
    assert optim.nesterov is (recipe in ("fast_conv", "best_conv", "fast_resnet18", "best_resnet18"))
    assert settings.data.crop == (0 if recipe.startswith(("fast_", "best_")) else None)
    expected = DEFAULTS | ({"prune": 0.0} if dense else {}) | ROWS.get(recipe, {})
    assert {key: getattr(settings, key) for key in expected} == expected
    assert settings.method.name == ("dense" if dense else "biprop")
    assert settings.method.arguments.get("gains", "layer") == ("learned" if recipe == "best_conv" else "layer")
    assert settings.method.arguments.get("selection", "layerwise") == SELECTIONS.get(recipe, "layerwise")
    imagenet = recipe.startswith(IMAGENET)
    assert settings.data.name == ("imagenet" if imagenet else "cifar10")
    assert optim.schedule == ("multi_step" if recipe == "mpt_resnet34_dense" else "cosine")
    assert optim.warmup == (5 if imagenet and recipe in TABLES else 0)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(name for name, row in TABLES.items() if not name.endswith("dense")))
@pytest.mark.parametrize("protocol", ["paper", "published"])
def test_a_protocol_changes_a_recipe_where_paper_and_published_code_differ(recipe, protocol):
    settings, table = compose_recipe(recipe, f"protocol={protocol}"), TABLES[recipe]
    never_passed = protocol == "published" and table[1] == "adam"
    assert settings.optim.weight_decay == (0.0 if never_passed else table[4])
    unscaled = table[-1] == "signed_constant" or protocol == "paper"
    assert settings.method.arguments["scale_fan"] == ("none" if unscaled else "published")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(FILES))
def test_a_header_says_paper_and_table_expected_accuracy_cost_and_a_command_that_composes(recipe):
    header = [line for line in FILES[recipe].splitlines() if line.startswith("#")]
    text = " ".join(line.lstrip("# ") for line in header)
    assert "Diffenderfer & Kailkhura 2021" in text or "Efficient Multi-Prize Lottery Tickets (Cheng et al.)" in text
    assert re.search(r"tables? \d|figures? \d|appendix", text) or "Ours" in text
    assert ("Ours" in text) == (recipe in OURS)
    assert "Expected: " in text
    assert "Not measured." in text or "Measured: " in text
    command = shlex.split(re.search(r"mpt-train (.*)", header[-1])[1])
    assert command[0] == f"recipe={recipe}"
    compose(*command)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(FILES))
def test_the_cost_in_a_header_is_counted_right(recipe):
    text = " ".join(line.lstrip("# ") for line in FILES[recipe].splitlines() if line.startswith("#"))
    petaflop, gigaflop, hours = (
        float(re.search(pattern, text)[1].replace(",", ""))
        for pattern in (r"Cost: ([\d.,]+) PFLOP", r"([\d.]+) GFLOP a forward", r"([\d.]+) h at 10 TFLOP/s")
    )
    settings = compose_recipe(recipe)
    train, test, size, classes = (
        (1_281_167, 50_000, 224, 1000) if recipe.startswith(IMAGENET) else (50_000, 10_000, 32, 10)
    )
    build = getattr(backbones, settings.model.target.rpartition(".")[2])
    arguments = {"name": settings.model.name} if build is backbones.torchvision else {"width": settings.width}
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build(num_classes=classes, **arguments).eval()(torch.empty(1, 3, size, size))
    forward = counter.get_total_flops()
    assert gigaflop == pytest.approx(forward / 1e9, rel=0.01)
    assert petaflop == pytest.approx(forward * (3 * train + test) * settings.epochs / 1e15, rel=0.01)
    assert hours == pytest.approx(petaflop * 1e15 / 1e13 / 3600, rel=0.2)


@pytest.mark.parametrize(
    "recipe", [name if "conv_" in name else pytest.param(name, marks=pytest.mark.slow) for name in sorted(FILES)]
)
def test_two_real_steps_of_a_recipe_change_the_trained_parameters(tmp_path, recipe):
    width = "1" if recipe.startswith(("mpt_wrn50", "mpt_resnet34")) else "0.125"  # torchvision's have none
    small = ["data=synthetic", "data.image_size=32", f"width={width}", "batch=8", "epochs=1", "trainer=smoke"]
    small += ["method.ramp=0"] if SELECTIONS.get(recipe) == "global" else []
    result = run(compose(f"recipe={recipe}", *small, "trainer.progress=false"), tmp_path / "run")
    assert result["status"] == "done"
    (written,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert math.isfinite(written["train/loss"])
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    learned = "scores" if result["method"] == "biprop" else "weight"
    start = initial_state(recipe, small)
    moved = [not torch.equal(state["state_dict"][f"net.{name}"], p) for name, p in start if name.endswith(learned)]
    assert moved
    assert all(moved)


def initial_state(recipe, small):
    """Name and value of every tensor of the network before the first step."""
    settings = compose(f"recipe={recipe}", *small)
    images = data.load(**vars(settings.data))
    signs = {"binary_activations": settings.binary_activations}
    backbone = build_backbone(settings.model, images, width=settings.width, seed=0, **signs)
    method = build_method(settings.method, prune=settings.prune)
    options = {key: getattr(settings, key) for key in ("dense", "trained", "learn_batchnorm", "spline_t")} | signs
    return convert(backbone, method, images, seed=0, name=recipe, **options).state_dict().items()
