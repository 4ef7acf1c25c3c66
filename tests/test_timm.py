from __future__ import annotations

import re

import pytest

from tests import timm_networks

NETWORKS = {
    "test_convnext": "converts",  # LayerScale
    "mobilenetv3_small_050": "converts",  # timm's own Linear
    "tf_mobilenetv3_small_minimal_100": "refused, and converts as advised",  # Conv2dSame
    "test_nfnet": "refused, and converts as advised",  # ScaledStdConv2d
    "test_vit": "converts",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_timm_converts_or_is_refused_once_in_words_that_are_true(name):
    net, size = timm_networks.build(name)
    verdict = timm_networks.verdict(net, size)
    assert verdict.startswith(f"{NETWORKS[name]}: ")
    assert "because" not in verdict or re.search(r"dense=|trained=", verdict)


@pytest.mark.slow
def test_every_module_file_of_timm_is_listed():
    modules = timm_networks.modules()
    assert len(modules) > 80
    assert all(modules.values())
