"""Running the console commands: in this process where it is enough, as a process of their own where it matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = Path(sys.executable).parent
SMALL = (  # a search of a few seconds
    "model=conv2",
    "data=synthetic",
    "data.image_size=8",
    "data.num_images=320",
    "data.num_classes=4",
    "width=0.125",
    "batch=32",
    "epochs=3",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
)


def command(name, *arguments, cwd, check=True, environment=None, timeout=200):
    """Run ``mpt-<name>`` in ``cwd``; the finished process, with its text."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MPT_", "PYTEST", "LOCAL_RANK"))}
    done = subprocess.run(
        [COMMANDS / f"mpt-{name}", *arguments],
        cwd=cwd,
        env=clean | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def row_of(directory):
    return json.loads((Path(directory) / "result.json").read_text())


def compose(*overrides):
    """The plain configuration of a command, checked."""
    from hydra import compose as composed
    from hydra import initialize_config_dir

    from mpt.experiment import config

    config.register()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        made = composed("train", overrides=list(overrides))
    config.check(made)
    return config.plain(made)


@pytest.fixture
def run_here(tmp_path):
    """``run(*overrides)`` -> (row, directory), in this process."""
    from mpt.experiment.cli import _quiet
    from mpt.experiment.train import run

    _quiet()

    def go(*overrides, directory="run"):
        return run(compose(*SMALL, *overrides), tmp_path / directory), tmp_path / directory

    return go
