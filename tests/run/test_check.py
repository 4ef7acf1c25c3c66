from __future__ import annotations

from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from mpt.commands.schemas import ConstructSettings, EvalSettings
from mpt.run.check import check_given, check_keys, check_values
from mpt.run.settings import Data, Settings, dials
from tests.console import compose


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("prune=1.2", r"prune is the fraction removed and must be in \[0, 1\), got 1.2"),
        ("prune=nan", "prune is the fraction removed"),
        ("width=0", "width must be above 0, got 0.0"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("seed=-1", "seed must be from 0"),
        ("spline_t=0", r"spline_t must be from 0\.001 to 1000, got 0\.0"),
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
        ("data.std=[1e-45]", r"data\.std must be numbers of at least 1e-06, one a channel, got \[1e-45\]"),
        ("data.mean=[0.5,2]", r"data\.mean must be numbers from 0 to 1, one a channel"),
    ],
)
def test_wrong_values_are_refused_with_one_sentence(override, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        compose(override)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_contradictory_values_are_refused():
    with pytest.raises(ValueError, match=r"optim\.nesterov looks ahead along the momentum, which is 0"):
        compose("optim.nesterov=true", "optim.momentum=0")
    with pytest.raises(ValueError, match=r"optim\.warmup has no effect on your own schedule: set it to 0"):
        compose("optim.warmup=2", "optim.schedule={_target_:torch.optim.lr_scheduler.ExponentialLR,gamma:0.5}")
    with pytest.raises(ValueError, match=r"must be below epochs=5, got 5"):
        compose("epochs=5", "optim.averaging=swa", "optim.averaging_start=5")


def test_a_key_that_no_command_has_is_refused_by_its_full_name():
    composed = OmegaConf.create({"name": "digits", "crops": 2})
    with pytest.raises(ValueError, match=r"there is no option data\.crops: take one of name, root, "):
        check_keys(composed, Data, prefix="data.")


def test_a_value_without_a_default_must_be_set():
    with pytest.raises(ValueError, match=r"data\.name \(data set\) is not set: set it, as in data\.name=VALUE"):
        check_keys(OmegaConf.structured(Data), Data, prefix="data.")


def test_an_input_is_no_option_but_may_be_null():
    fields = OmegaConf.structured(Settings)
    OmegaConf.set_struct(fields, False)
    fields.data.name = "digits"
    fields.model = fields.method = {"name": "x", "target": "y"}
    check_keys(fields, Settings)  # data_checksum is null
    fields.data_checksum = "0"
    with pytest.raises(ValueError, match="there is no option data_checksum"):
        check_keys(fields, Settings)


def test_every_default_is_in_its_range_and_null_only_where_it_is_the_default():
    settings = compose("data=digits")
    check_values(settings)
    for name in ("width", "epochs", "batch"):
        with pytest.raises((ValueError, TypeError)):
            check_values(replace(settings, **{name: None}))
    assert any(f.metadata["valid"] and f.default is None for _, f in dials(Settings))


def test_an_infinite_value_is_refused_as_such():
    with pytest.raises(ValueError, match="width must be above 0 and finite, got inf"):
        compose("width=inf")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["spline_t=2"], "binary_activations=true"),
        (["optim=adam", "optim.momentum=0.5"], "optim=sgd"),
        (["optim.gamma=0.5"], "optim.schedule=multi_step"),
        (["optim.averaging_decay=0.5"], "optim.averaging=ema"),
        (["optim.gain_lr=0.1"], "method.gains=learned"),
        (["method=dense", "optim.gain_lr=0.1"], "method.gains=learned"),
        (["data.stream=true"], "data=image_folder"),
        (["data=digits", "data.root=x"], "data that are read from files"),
        (["data.num_images=5"], "data=synthetic"),
        (["data.noise_probability=0.5"], "data.noise_std"),
        (["logger.mode=online"], "logger=wandb"),
        (["logger.name=wandb"], "write logger=wandb"),
    ],
)
def test_an_option_that_has_no_effect_is_refused(overrides, words):
    with pytest.raises(ValueError, match=words):
        check_given(compose(*overrides), {override.partition("=")[0] for override in overrides})


def test_an_option_that_has_its_condition_is_accepted():
    overrides = ["binary_activations=true", "spline_t=2", "optim.averaging=ema", "optim.averaging_decay=0.5"]
    overrides += ["method.gains=learned", "optim.gain_lr=0.1"]
    check_given(compose(*overrides), {override.partition("=")[0] for override in overrides})


@pytest.mark.parametrize("key", ["crop", "flip", "augment", "noise_std", "noise_probability", "train_size", "val_size"])
def test_what_trains_nothing_takes_no_option_of_training_images(key):
    data = Data(name="image_folder", root=".", noise_std=0.1)
    with pytest.raises(ValueError, match=rf"^data\.{key} .*: leave it out$"):
        check_given(EvalSettings(data=data), {f"data.{key}"})


def test_what_crops_test_images_too_is_an_option_of_all_commands():
    data = Data(name="image_folder", root=".", resized_crop=True)
    check_given(EvalSettings(data=data), {"data.resized_crop"})


def test_what_sees_training_images_takes_their_number():
    data, keys = Data(name="digits"), {"data.train_size", "data.val_size"}
    check_given(EvalSettings(data=data, control="random_mask"), keys)
    check_given(ConstructSettings(accuracy=0.1, data=data), keys)
    for others in ({"fit": 0}, {"form": "real"}):
        with pytest.raises(ValueError, match="looks at test images alone"):
            check_given(ConstructSettings(accuracy=0.1, data=data, **others), keys)


def test_several_loggers_are_composed():
    logger = compose("logger=[wandb,tensorboard]").logger
    assert logger.wandb
    assert logger.tensorboard
    assert not compose("logger=tensorboard").logger.wandb


def test_a_mode_that_the_environment_gives_is_refused_by_the_name_of_its_variable(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "nope")
    with pytest.raises(ValueError, match="or disabled, got nope of the environment variable WANDB_MODE"):
        check_values(compose("logger=wandb"))
