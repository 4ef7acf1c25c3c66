from __future__ import annotations

from mpt.run.name import run_name
from tests.console import compose


def test_the_run_name_says_what_the_run_is_and_follows_from_its_settings():
    base = ("model=conv6", "data=digits", "prune=5e-1", "width=1")
    name = run_name(compose(*base))
    assert name.startswith("conv6-digits-biprop-p0.5-w1-e250-s0-")
    assert run_name(compose("width=1.0", "prune=0.50", "data=digits", "model=conv6")) == name
    assert run_name(compose(*base, "runs=elsewhere", "logger=wandb", "trainer.progress=false")) == name
    others = [
        "optim.lr=0.2",
        "trainer.devices=2",
        "method.score_grad=sign",
        "method.prune_layers={features.*:0.1}",
        "data.val_size=10",
        "batch=64",
        "seed=1",
    ]
    names = {run_name(compose(*base, other)) for other in others}
    assert len(names | {name}) == len(others) + 1
    assert run_name(compose(*base, "method.selection=global")).startswith("conv6-digits-biprop-global-p0.5-")
    odd = run_name(compose("model=timm", "model.name=timm/vit_tiny.x", "data=digits"))
    assert "/" not in odd
