from __future__ import annotations

import os

import pytest

from tests.console import SMALL, left_behind, process, read_result

BREAKS = """
import os, signal, time
import mpt.backbones

def build(num_classes, image_size, in_channels, width):
    if os.environ.get("LOCAL_RANK") == "1":
        {early}
    net = mpt.backbones.conv2(num_classes=num_classes, image_size=image_size, in_channels=in_channels, width=width)
    net.steps = 0
    def count(module, images):
        module.steps += 1
        if module.steps > 12 and os.environ.get("LOCAL_RANK") == "1":
            {late}
    net.register_forward_pre_hook(count)
    return net
"""
KILL, KILLED = "os.kill(os.getpid(), signal.SIGKILL)", "process 2 of 2 of this run was killed (out of memory?)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("early", "late", "words"),
    [
        (KILL, "pass", KILLED),
        ("pass", KILL, KILLED),
        ("os._exit(3)", "pass", "process 2 of 2 of this run ended with status 3"),
        ("raise ValueError('a broken library')", "pass", "a broken library"),
    ],
    ids=["killed before they meet", "killed in training", "ended before they meet", "raises before they meet"],
)
def test_a_run_whose_second_process_dies_ends_with_one_sentence(tmp_path, monkeypatch, early, late, words):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "bad.yaml").write_text("name: bad\ntarget: breaks.build\n")
    (tmp_path / "breaks.py").write_text(BREAKS.format(early=early, late=late))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    options = [option for option in SMALL if not option.startswith(("model", "trainer.devices"))]
    more = ("model=bad", "trainer.devices=2", "hydra.run.dir=run", "--config-dir", "mine")
    done = process("train", *options, *more, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("mpt-train: ") == done.stderr.count(words) == 1, done.stderr
    assert "Traceback" not in done.stderr
    result = read_result(tmp_path / "run")
    assert result["status"] == "failed"
    assert words in result["error"]
    assert not left_behind(tmp_path)
