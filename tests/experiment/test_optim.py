from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import mpt
from mpt.experiment.optim import build_optim, parameter_groups, try_optim
from mpt.search.adam import ScoreAdam, ScoreAdamW
from mpt.search.sgd import ScoreSGD
from tests import reference
from tests.console import compose


class Stubborn(torch.optim.SGD):
    """An optimizer of somebody's own whose state no checkpoint takes."""

    def state_dict(self):
        return super().state_dict() | {"rule": lambda x: x}


def choice(*overrides):
    return compose(*overrides).optim


@pytest.fixture
def net():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    return mpt.convert(backbone, mpt.Biprop(prune=0.5), learn_batchnorm=True, example=torch.zeros(2, 3, 8, 8))


@pytest.mark.slow
@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("schedule", ["cosine", "constant", "multi_step"])
def test_the_learning_rate_of_every_epoch_follows_the_formula(net, schedule, warmup):
    optim = choice(f"optim.schedule={schedule}", f"optim.warmup={warmup}", "optim.milestones=[4,7]", "optim.gamma=0.3")
    optimizer, scheduler = build_optim(net, optim, epochs=10)
    for epoch in range(10):
        expected = reference.learning_rate(
            epoch, lr=0.1, epochs=10, schedule=schedule, warmup=warmup, milestones=(4, 7), gamma=0.3
        )
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected] * 2)
        optimizer.step()
        scheduler.step()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "kind", "expected"),
    [
        (["optim.nesterov=true"], ScoreSGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        (["optim=adam"], ScoreAdam, {"lr": 3e-4, "weight_decay": 0.0, "betas": (0.9, 0.999)}),
        (["optim=adamw"], ScoreAdamW, {"lr": 3e-4, "weight_decay": 0.01, "fused": True}),
        (["optim.clip_grad_norm=1"], ScoreSGD, {"fused": None}),
        (["optim.arguments={foreach:true}"], ScoreSGD, {"fused": None, "foreach": True}),
        (["optim=adam", "optim.arguments={betas:[0.5,0.9]}"], ScoreAdam, {"betas": (0.5, 0.9)}),
        (["optim._target_=torch.optim.RMSprop", "optim.arguments={alpha:0.9}"], torch.optim.RMSprop, {"alpha": 0.9}),
    ],
)
def test_an_optimizer_is_what_its_name_or_target_says(net, overrides, kind, expected):
    optimizer, _ = build_optim(net, choice(*overrides), epochs=2)
    assert type(optimizer) is kind
    expected = {"weight_decay": choice(*overrides).weight_decay} | expected
    assert {key: optimizer.param_groups[0][key] for key in expected} == expected


@pytest.mark.parametrize("overrides", [["optim.nesterov=true"], ["optim=adam"], ["optim=adamw"]])
def test_the_fused_step_equals_the_plain_loop(net, overrides):
    plain, scores = copy.deepcopy(net), []
    for one, more in ((net, []), (plain, ["optim.arguments={foreach:false}"])):
        optimizer, _ = build_optim(one, choice(*overrides, *more), epochs=2)
        for step in range(4):
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad = torch.sin(torch.arange(parameter.numel()) + step).view(parameter.shape)
            optimizer.step()
        scores.append(optimizer.param_groups[0]["params"])
    assert len(scores[0]) == 2
    for fused, looped in zip(*scores, strict=True):
        assert torch.allclose(fused, looped, rtol=0, atol=1e-7)


@pytest.mark.parametrize("decay_scores", [True, False])
@pytest.mark.parametrize("decay_batchnorm", [True, False])
def test_weight_decay_acts_on_scores_and_on_batchnorm_as_set(net, decay_scores, decay_batchnorm):
    groups = parameter_groups(
        net, lr=0.1, weight_decay=0.5, decay_scores=decay_scores, decay_batchnorm=decay_batchnorm, gain_lr=0.1
    )
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(net[0].scores)] == decay[id(net[3].scores)] == (0.5 if decay_scores else 0)
    assert decay[id(net[1].weight)] == decay[id(net[1].bias)] == (0.5 if decay_batchnorm else 0)
    assert len(decay) == 4  # the frozen weights are in no group
    optimizer = torch.optim.SGD(groups, lr=0.1)
    before = net[0].scores.detach().clone()
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(net[0].scores.detach(), before * (1 - 0.1 * 0.5) if decay_scores else before)


def test_the_scores_of_a_method_have_its_factor_of_the_rate_and_decay_as_much_in_a_step():
    net = mpt.convert(nn.Linear(6, 3), mpt.Biprop(prune=0.5, score_lr=50.0, gains="learned"), example=torch.zeros(2, 6))
    optimizer, schedule = build_optim(net, choice("optim.lr=0.2", "optim.momentum=0"), epochs=2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([10.0, 0.01])
    before = net.scores.detach().clone()
    net.scores.grad = torch.ones_like(net.scores)
    optimizer.step()
    torch.testing.assert_close(net.scores.detach(), before - 0.2 * (50 + 1e-4 * before))
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5.0, 0.005])


def test_every_parameter_of_a_dense_network_is_in_one_group():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    groups = parameter_groups(
        backbone, lr=0.1, weight_decay=0.5, decay_scores=False, decay_batchnorm=False, gain_lr=0.1
    )
    assert sorted((len(group["params"]), group["weight_decay"]) for group in groups) == [(2, 0.0), (4, 0.5)]


def test_a_custom_schedule_steps_once_per_epoch(net):
    optim = choice("optim.schedule={_target_:torch.optim.lr_scheduler.ExponentialLR,gamma:0.5}")
    optimizer, schedule = build_optim(net, optim, epochs=3)
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["optim._target_=nowhere.Nothing"], r"optim\._target_=nowhere.Nothing cannot be imported: No module"),
        (["optim._target_=torch.optim.Nothing"], r"optim\._target_=torch\.optim\.Nothing cannot be imported"),
        (["optim._target_=torch.pi"], "is neither a function nor a class"),
        (["optim._target_=torch.nn.Linear"], r"optim: Linear cannot be built with \{'lr': 0\.1\}"),
        (["optim._target_=unittest.mock.Mock"], "must build a torch optimizer, unittest.mock.Mock gave Mock"),
        (["optim._target_=torch.optim.RMSprop", "optim.arguments={alhpa:1}"], "RMSprop cannot be built .* 'alhpa'"),
        (["optim=adam", "optim.arguments={beta:1}"], "optim: adam cannot be built"),
        (
            [f"optim._target_={Stubborn.__module__}.Stubborn"],
            "the state of this _target_ cannot be saved in a checkpoint",
        ),
        (
            ["optim.schedule={_target_:nowhere.Nothing}"],
            r"optim\.schedule\._target_=nowhere.Nothing cannot be imported",
        ),
        (["optim.schedule={_target_:builtins.id}"], "must build a torch LRScheduler, it gave int"),
        (
            ["optim.schedule={_target_:torch.optim.lr_scheduler.ReduceLROnPlateau}"],
            "cannot be ReduceLROnPlateau, because a resumed run",
        ),
        (
            ["optim.schedule={_target_:torch.optim.lr_scheduler.StepLR}"],
            r"optim\.schedule: StepLR cannot be built with .*step_size",
        ),
    ],
)
def test_a_target_that_cannot_be_imported_or_built_is_refused_with_one_sentence(overrides, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        try_optim(choice(*overrides), epochs=3)
    assert "\n" not in str(caught.value)
