from __future__ import annotations

import pytest

from mpt.commands.schemas import EvalSettings
from mpt.errors import is_mendable
from mpt.files import CONF
from mpt.run import compose as composition
from mpt.run.name import run_name
from tests.console import compose


def test_the_command_of_the_readme_composes_to_the_recipe_of_the_paper():
    settings = compose("model=conv6", "prune=0.8", "width=1.5")
    assert (settings.model.name, settings.data.name, settings.method.name) == ("conv6", "cifar10", "biprop")
    assert (settings.prune, settings.width, settings.epochs, settings.batch) == (0.8, 1.5, 250, 128)
    assert {k: getattr(settings.optim, k) for k in ("name", "lr", "momentum", "weight_decay", "schedule")} == {
        "name": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "schedule": "cosine",
    }


@pytest.mark.slow
@pytest.mark.parametrize("group", ["model", "data", "method", "optim", "trainer", "logger", "recipe"])
def test_every_choice_of_every_group_composes(group):
    choices = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    assert choices
    for choice in choices:
        extra = ["model.name=resnet18"] if choice in ("torchvision", "timm") else []
        extra += ["data.root=x"] if choice == "image_folder" else []
        settings = compose(f"{group}={choice}", *extra)
        if group in ("model", "data", "method"):
            assert getattr(settings, group).name == (choice if not extra or group == "data" else "resnet18")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("prune=1.2", r"prune is the fraction removed and must be in \[0, 1\), got 1.2"),
        ("prune=nan", "prune is the fraction removed"),
        ("width=0", "width must be above 0, got 0.0"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("seed=-1", "seed must be from 0"),
        ("spline_t=0", "spline_t must be above 0, got 0.0"),
        ("optim.lr=0", r"optim\.lr must be above 0"),
        (
            "optim.schedule=linear",
            r"optim\.schedule must be cosine, multi_step, constant or \{_target_: .*\}, got linear",
        ),
        ("optim.schedule={gamma:0.1}", r"optim\.schedule must be cosine"),
        ("optim.schedule=multi_step", r"multi_step needs its epochs: for instance optim\.milestones=\[100,150\]"),
        ("optim.milestones=[3,2]", r"optim\.milestones must be increasing numbers from 1, got \[3, 2\]"),
        (
            "optim.name=rmsprop",
            r"optim\.name must be sgd, adam or adamw, got rmsprop: choose one, or give optim\._target_",
        ),
        ("optim.arguments=3", r"optim\.arguments must be a mapping of names to values, got 3"),
        ("optim.clip_grad_norm=0", r"optim\.clip_grad_norm must be above 0"),
        ("optim.averaging=mean", r"optim\.averaging must be none, ema or swa, got mean"),
        ("label_smoothing=1", r"label_smoothing must be in \[0, 1\), got 1\.0"),
        ("select=best_test", "select must be last or best_val, got best_test"),
        ("select=best_val", r"needs held-out images, because test images never choose an epoch: set data\.val_size"),
        ("protocol=ours", "protocol must be kept, paper or published, got ours"),
        ("+prun=0.5", "there is no option prun"),
        ("+data.prun=0.5", r"there is no option data\.prun"),
        ("model=torchvision", r"model\.name is not set: set it, for instance model\.name=resnet18"),
        ("model.name=null", r"model\.name must be text"),
    ],
)
def test_wrong_values_are_refused_with_one_sentence(override, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        compose(override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override", ["prun=0.5", "method.score_grd=sign", "optim.learning_rate=1", "prune=abc", "seed=1.5"]
)
def test_unknown_keys_and_wrong_types_are_refused_by_hydra(override):
    with pytest.raises(Exception, match=override.partition("=")[0].rpartition(".")[2]) as caught:
        compose(override)
    assert is_mendable(caught.value)


def test_contradictory_values_are_refused():
    with pytest.raises(ValueError, match=r"optim\.nesterov looks ahead along the momentum, which is 0"):
        compose("optim.nesterov=true", "optim.momentum=0")
    with pytest.raises(ValueError, match=r"optim\.warmup has no effect on your own schedule: set it to 0"):
        compose("optim.warmup=2", "optim.schedule={_target_:torch.optim.lr_scheduler.ExponentialLR,gamma:0.5}")
    with pytest.raises(ValueError, match=r"must be below epochs=5, got 5"):
        compose("epochs=5", "optim.averaging=swa", "optim.averaging_start=5")


@pytest.mark.parametrize(("prune", "rate"), [(0.2, 0.16), (0.5, 0.1), (0.8, 0.04), (0.9, 0.02), (0.85, 0.03)])
def test_a_rate_times_the_fraction_kept_follows_prune(prune, rate):
    assert compose("recipe=fast_conv", f"prune={prune}").optim.lr == rate
    assert compose("recipe=fast_conv", f"prune={prune}", "optim.lr=0.3").optim.lr == 0.3


@pytest.mark.parametrize(
    ("protocol", "score_grad", "scale_fan"),
    [("kept", "weight", "kept"), ("paper", "gain", "none"), ("published", "weight", "published")],
)
def test_a_protocol_follows_the_paper_or_the_published_code_where_they_differ(protocol, score_grad, scale_fan):
    method = compose(f"protocol={protocol}").method.arguments
    assert (method["score_grad"], method["scale_fan"]) == (score_grad, scale_fan)
    assert compose(f"protocol={protocol}", "method.scale_fan=none").method.arguments["scale_fan"] == "none"
    spelled = compose(f"method.scale_fan={scale_fan}", f"method.score_grad={score_grad}")
    assert run_name(compose(f"protocol={protocol}")) == run_name(spelled)


def test_the_evaluation_schema_composes():
    composed = composition.compose("eval", ["model=conv6", "data=digits", "control=shuffled_mask"], EvalSettings)
    settings = composition.settings_of(composed, EvalSettings)
    assert (settings.model.name, settings.data.name, settings.control) == ("conv6", "digits", "shuffled_mask")
