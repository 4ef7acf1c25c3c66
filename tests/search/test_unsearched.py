from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import mpt
from mpt.search.unsearched import UnsearchedLayers


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.lstm = nn.Embedding(9, 8), nn.LSTM(8, 8, batch_first=True)
        self.attend, self.pair = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True), nn.Bilinear(8, 8, 4)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(4, 3)

    def forward(self, x):
        x = self.norm(self.lstm(self.words(x))[0])
        x = self.attend(x, x, x)[0]
        return self.head(self.pair(x, x))


def texts(backbone, method, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mpt.convert(backbone, method, **options)
    return [str(w.message) for w in caught if issubclass(w.category, UnsearchedLayers)]


def test_all_weights_that_stay_frozen_because_none_can_search_them_are_named_and_the_advice_ends_it():
    (text,) = texts(Several(), mpt.Biprop(prune=0.5), example=torch.arange(8).view(2, 4))
    assert text.startswith("words, lstm, attend, pair (Embedding, LSTM, MultiheadAttention, Bilinear): mpt does not")
    patterns = ["words.weight", "lstm.*", "attend.in_proj_weight", "attend.bias_[kv]", "pair.weight"]
    assert not texts(Several(), mpt.Biprop(prune=0.5), example=torch.arange(8).view(2, 4), trained=patterns)
    advised = text.partition("trained=")[2]
    assert "*.weight_hh_l0" in advised or "lstm.weight_hh_l0" in advised
    assert "norm" not in advised


@pytest.mark.parametrize("method", [mpt.Biprop(prune=0.5), mpt.Dense()], ids=["biprop", "dense"])
def test_networks_that_are_searched_whole_or_trained_whole_get_no_warning(method):
    backbone = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    assert not texts(backbone, method)
    assert not texts(Several(), mpt.Dense(), example=torch.arange(8).view(2, 4))
