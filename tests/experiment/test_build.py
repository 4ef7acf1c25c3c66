from __future__ import annotations

from dataclasses import dataclass

import mpt
from mpt.search.weight import signs
from tests.console import SMALL, command, row_of


@dataclass(frozen=True, kw_only=True)
class RootMeanSquare(mpt.Biprop):
    """A method of one's own, as the README says: binarize-prune that selects on ``|s|^exponent``, and whose gain is the
    root of the mean square of all weights of the layer."""

    exponent: float = 1.0

    def importance(self, scores):
        return super().importance(scores) ** self.exponent

    def gain(self, weight, mask):
        return weight.square().mean().sqrt()

    def ticket_weight(self, weight, mask, gain):
        return signs(weight, magnitude=gain) * mask


def test_a_method_is_added_by_one_class_and_one_yaml(tmp_path):
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "rms.yaml").write_text(
        "defaults: [biprop, _self_]\nname: rms\ntarget: tests.experiment.test_build.RootMeanSquare\nexponent: 2.0\n"
    )
    options = ["method=rms", "method.selection=global", "method.ramp=0", "prune=0.7", "hydra.run.dir=run"]
    command("train", "--config-dir", "mine", *SMALL, *options, cwd=tmp_path)
    row = row_of(tmp_path / "run")
    assert (row["method"], row["test_acc"] > 0.3) == ("rms", True)
    ticket = mpt.Ticket.load(tmp_path / "run" / "ticket.safetensors")
    method = ticket.header["method"]
    assert (method["name"], method["exponent"], method["selection"]) == ("RootMeanSquare", 2.0, "global")
    net = mpt.convert(mpt.backbones.conv2(width=0.125, num_classes=4, image_size=8), RootMeanSquare(prune=0.7), seed=0)
    for name in ("features.0", "classifier.0"):
        gain = net.get_submodule(name).weight.square().mean().sqrt()
        assert set(ticket.weight(name).unique().tolist()) == {-gain.item(), 0.0, gain.item()}
    shown = command("eval", "run/ticket.safetensors", cwd=tmp_path)
    assert f"accuracy  {100 * row['test_acc']:.2f} %" in shown.stdout
    wrong = command(
        "train", "--config-dir", "mine", *SMALL, "method=rms", "+method.exponents=2", cwd=tmp_path, check=False
    )
    assert wrong.returncode == 1
    assert "there is no option method.exponents: did you mean method.exponent?" in wrong.stderr
