"""A real run and a real sweep for pages to show, and folders with runs in every state."""

from __future__ import annotations

import json
import shutil

import pytest

from mpt.pages.read import read_run
from mpt.run.claim import hold_claim
from mpt.run.result import read_result, write_result
from mpt.run.status import states
from tests.console import SMALL, command

BAD = '<script>alert("x")</script><img src=x onerror=alert(1)>$$x$$'


@pytest.fixture(scope="session")
def sweep(tmp_path_factory):
    """A folder with two runs of a sweep."""
    folder = tmp_path_factory.mktemp("pages")
    command("train", "-m", *SMALL, "prune=0.5,0.8", "hydra.sweep.dir=runs", cwd=folder)
    return folder / "runs"


@pytest.fixture
def runs(sweep, tmp_path):
    """A copy of that folder, without its checkpoints."""
    shutil.copytree(sweep, tmp_path / "runs", ignore=shutil.ignore_patterns("*.ckpt"))
    return tmp_path / "runs"


@pytest.fixture
def one(runs):
    """The directory of one of its runs."""
    return next(path for path in sorted(runs.iterdir()) if path.is_dir())


@pytest.fixture
def read():
    """``read(directory)`` reads one run as a page does."""

    def read_one(directory, *, name="run"):
        [state] = states(directory)
        return read_run(state, key="run-1", name=name)

    return read_one


def repeat(directory, folder, *, number):
    """Make ``number`` runs out of the one in ``directory``, with other seeds and accuracies, in ``folder``."""
    result = read_result(directory)
    for seed in range(number):
        new = folder / f"run-{seed:03d}"
        shutil.copytree(directory, new, ignore=shutil.ignore_patterns("*.ckpt", "report.html"))
        config = result["config"] | {"seed": seed, "prune": (0.5, 0.8)[seed % 2]}
        changed = {"seed": seed, "prune": config["prune"], "config": config, "test_acc": 0.5 + 0.3 * (seed % 7) / 7}
        write_result(new, {key: value for key, value in result.items() if key != "checksum"} | changed)
    return folder


@pytest.fixture
def every_state(runs, one):
    """The folder with a failed, an interrupted and a missing run besides; ``with`` it, one of them is at work."""
    failed = runs / "failed"
    shutil.copytree(one, failed)
    (failed / "ticket.safetensors").unlink()
    write_result(failed, {"status": "failed", "error": f"no more memory: {BAD}", "config": {"seed": 3}})
    interrupted = runs / "interrupted"
    shutil.copytree(one, interrupted)
    for name in ("result.json", "ticket.safetensors", "ticket.json"):
        (interrupted / name).unlink()
    shutil.copytree(interrupted, runs / "working")
    listed = json.loads((runs / "sweep.json").read_text())
    (runs / "sweep.json").write_text(json.dumps(listed | {"missing": ["seed=9"]}))
    with hold_claim(runs / "working"):
        yield runs


@pytest.fixture
def hostile(runs, one):
    """The folder with a run whose every foreign text is a script."""
    bad = runs / BAD.replace("/", "|")
    shutil.copytree(one, bad)
    result = read_result(bad)
    config = result["config"] | {"recipe": BAD, "model": {"name": BAD, "target": BAD, BAD: BAD}}
    changed = {"model": BAD, "method": BAD, "hardware": BAD, "sweep": BAD, "config": config}
    write_result(bad, {key: value for key, value in result.items() if key != "checksum"} | changed)
    rows = [json.loads(line) for line in (bad / "metrics.jsonl").read_text().splitlines()]
    (bad / "metrics.jsonl").write_text("".join(json.dumps(row | {f"ticket/gain/{BAD}": 1.0}) + "\n" for row in rows))
    facts = json.loads((bad / "ticket.json").read_text())
    facts["layers"] = [row | {"name": f"{BAD}{i}"} for i, row in enumerate(facts["layers"])]
    (bad / "ticket.json").write_text(json.dumps(facts))
    return runs
