from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt.search import mask as masks
from mpt.search.methods import Biprop
from tests import reference


@pytest.mark.parametrize("prune", [0.0, 0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.999])
@pytest.mark.parametrize("n", [1, 2, 5, 7, 64, 1001])
def test_mask_removes_exactly_the_prune_fraction(n, prune):
    kept = masks.num_kept(n, prune=prune)
    assert kept == max(1, n - math.floor(prune * n + 0.5))
    assert int(masks.select(torch.rand(n), kept=kept).sum()) == kept


@pytest.mark.parametrize("prune", [-0.1, 1.0, 1.2, float("nan"), float("inf")])
def test_a_prune_outside_its_range_is_refused(prune):
    with pytest.raises(ValueError, match=r"prune is the fraction removed and must be in \[0, 1\)"):
        masks.num_kept(10, prune=prune)


@settings(max_examples=60, deadline=None)
@given(
    # few distinct values, so that nearly every example has ties at the threshold
    values=st.lists(st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=40),
    prune=st.floats(0, 0.99),
    score_abs=st.booleans(),
)
def test_both_selections_agree_with_the_sorted_reference(values, prune, score_abs):
    scores = torch.tensor(values)
    importance = scores.abs() if score_abs else scores
    kept = masks.num_kept(len(values), prune=prune)
    expected = reference.mask(np.array(values), prune, score_abs=score_abs)
    assert np.array_equal(masks.select(importance, kept=kept).numpy(), expected)
    assert np.array_equal(masks.select_on_device(importance, kept=kept).numpy(), expected)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.lists(st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=15),
        min_size=1,
        max_size=5,
    ),
    prune=st.floats(0, 0.9),
    score_abs=st.booleans(),
)
def test_joint_selections_agree_with_the_sorted_reference(values, prune, score_abs):
    scores = [np.array(v) for v in values]
    importances = [torch.tensor(v).abs() if score_abs else torch.tensor(v) for v in values]
    kept = masks.num_kept(sum(map(len, values)), prune=prune)
    if kept < len(values):
        with pytest.raises(ValueError, match=f"one for each of the {len(values)} layers"):
            masks.select_jointly(importances, kept=kept)
        return
    expected = reference.global_masks(scores, prune, score_abs=score_abs)
    for actual in (
        masks.select_jointly(importances, kept=kept),
        masks._select_jointly_first_of_each(importances, kept),
    ):
        assert all(np.array_equal(mask.numpy(), e) for mask, e in zip(actual, expected, strict=True))


def test_joint_selection_does_not_depend_on_the_memory_format():
    importances = [torch.rand(8, 4, 3, 3), torch.ones(4, 3, 2, 2), torch.rand(5, 7)]
    last = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in importances]
    for kept in (3, 50, 200, 371):
        plain, other = masks.select_jointly(importances, kept=kept), masks.select_jointly(last, kept=kept)
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
        assert sum(int(mask.sum()) for mask in plain) == kept


def test_the_kth_largest_of_several_tensors_is_that_of_their_sorted_entries():
    parts = [torch.randn(7, 3), torch.randn(40), torch.randn(2, 2, 2, 2)]
    ordered = torch.cat([part.flatten() for part in parts]).sort(descending=True).values
    for k in (1, 2, 38, 39, 76, 77):
        assert masks.kth_largest(parts, k) == ordered[k - 1]
        assert masks.kth_largest_on_device(torch.cat([part.flatten() for part in parts]), k) == ordered[k - 1]


def test_the_ramp_is_the_ramp_of_the_authors_update():
    kept = [f"{1 - masks.prune_in_epoch(0.8, epoch=epoch, ramp=10):.3f}"[1:] for epoch in range(11)]
    assert " ".join(kept) == ".500 .419 .354 .303 .265 .237 .219 .208 .202 .200 .200"


@given(prune=st.floats(0, 0.99), epoch=st.integers(0, 30), ramp=st.integers(0, 20))
def test_the_ramp_agrees_with_the_reference(prune, epoch, ramp):
    assert masks.prune_in_epoch(prune, epoch=epoch, ramp=ramp) == pytest.approx(
        reference.prune_in_epoch(prune, epoch, ramp)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kept", [1, 100, 2000, 4607, 4608])
def test_both_selections_give_the_same_mask_in_every_dtype(dtype, kept):
    importance = torch.rand(32, 16, 3, 3).to(dtype)
    mask = masks.select(importance, kept=kept)
    assert int(mask.sum()) == kept
    assert torch.equal(mask, masks.select_on_device(importance, kept=kept))


def test_ties_are_dropped_by_flat_index_whatever_the_memory_format():
    importance = torch.ones(4, 3, 2, 2)
    expected = (torch.arange(48) < 20).view(4, 3, 2, 2)
    for select in (masks.select, masks.select_on_device):
        assert torch.equal(select(importance, kept=20), expected)
        assert torch.equal(select(importance.contiguous(memory_format=torch.channels_last), kept=20), expected)
        assert torch.equal(select(importance.transpose(0, 1), kept=20), (torch.arange(48) < 20).view(3, 4, 2, 2))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[..., ::2],
        lambda x: x[:, 1:],
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.to(memory_format=torch.channels_last)[:, 1:],
        lambda x: x[:, :, :1, :1].expand(-1, -1, 3, 3),
        lambda x: x[:1].expand(8, -1, -1, -1),
        lambda x: x.permute(3, 1, 0, 2),
        lambda x: x.flatten(1).t(),
    ],
)
def test_ties_are_dropped_by_flat_index_however_the_importance_lies_in_memory(view):
    importance = view(torch.randint(-3, 4, (8, 6, 4, 4), generator=torch.Generator().manual_seed(1)).float())
    order = np.argsort(-importance.abs().flatten().numpy(), kind="stable")
    for kept in range(1, len(order), 5):
        mask = masks.select(importance, kept=kept, absolute=True)
        assert np.array_equal(np.flatnonzero(mask.flatten().numpy()), np.sort(order[:kept]))


def test_selection_leaves_the_scores_as_they_are():
    scores = torch.randn(1000)
    before = scores.clone()
    Biprop(prune=0.5).mask(scores, kept=500)
    masks.select(scores, kept=500)
    assert torch.equal(scores, before)


def test_scores_that_are_not_numbers_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"NaN.*lower optim\.lr"):
        masks.select(torch.tensor([1.0, float("nan"), 2.0, 3.0]), kept=2)
    with pytest.raises(ValueError, match=r"NaN.*lower optim\.lr"):
        masks.select_jointly([torch.tensor([1.0, float("nan"), 2.0, 3.0]), torch.ones(2)], kept=3)


def test_flips_is_the_share_of_all_mask_bits_that_changed():
    before = [torch.tensor([True, True, False]), torch.tensor([False])]
    after = [torch.tensor([True, False, True]), torch.tensor([False])]
    assert masks.flips(before, after) == 2 / 4
    assert masks.kept_fraction(after) == 2 / 4


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3])
def test_joint_ties_are_dropped_by_flat_index_in_any_memory_format(channels, layout):
    tied = torch.full((8, channels, 3, 3), 0.5).to(memory_format=layout)
    other = torch.ones(10)
    first, second = masks.select_jointly([other, tied], kept=12)
    assert first.all()
    assert second.flatten().nonzero().flatten().tolist() == [0, 1]
