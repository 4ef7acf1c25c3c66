"""Measure commands from the user's point of view: time to an answer, time to the first step, overhead of a sweep."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.row import Row, in_turn

ANSWERS = {"--help": 0, "--cfg job": 0, "prun=0.5": 1}  # arguments of mpt-train -> exit code
JOBS = 6
SHORT = ("model=conv2", "data=digits", "width=0.125", "epochs=1", "trainer.progress=false")


def startup_row(*, rounds: int) -> Row:
    """Milliseconds of each command in ``ANSWERS`` in its own process; RuntimeError for an unexpected exit code."""
    script = shutil.which("mpt-train", path=str(Path(sys.executable).parent)) or "mpt-train"
    with tempfile.TemporaryDirectory() as folder:

        def run(arguments: str) -> None:
            done = subprocess.run([script, *arguments.split()], cwd=folder, capture_output=True, text=True)
            if done.returncode != ANSWERS[arguments]:
                raise RuntimeError(f"mpt-train {arguments} exited with {done.returncode}: {done.stderr}")

        seconds = in_turn({arguments: partial(run, arguments) for arguments in ANSWERS}, rounds=rounds)
    return Row("start-up of mpt-train", seconds)


def first_step_row(*, rounds: int) -> Row:
    """Milliseconds from the command to the end of the first training step of conv2 on digits, and of the imports."""

    def run(code: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", code, *SHORT, f"runs={folder}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    codes = {
        "imports": "import torch, lightning",
        "first step": "from benchmarks import commands; commands.train_one_step()",
    }
    seconds = in_turn({name: partial(run, code) for name, code in codes.items()}, rounds=rounds)
    return Row("command to first step", seconds, base="imports")


def train_one_step() -> None:
    """Run ``mpt-train`` with the arguments of this process, and end the process after the first training step."""
    import os

    from mpt.commands import cli
    from mpt.experiment.module import TicketModule

    TicketModule.on_train_batch_end = lambda *_: os._exit(0)  # type: ignore[method-assign]
    cli.train()


def sweep_row(*, rounds: int) -> Row:
    """Milliseconds per run in a sweep of short runs in one process: the run itself, and the time between two runs."""
    seconds: dict[str, list[float]] = {"run": [], "between": []}
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", "from benchmarks import commands; commands.sweep()"]
            arguments = [*SHORT, f"seed=range({JOBS})", f"runs={folder}"]
            done = subprocess.run([*command, "-m", *arguments], check=True, capture_output=True, text=True)
        for name, value in zip(seconds, done.stdout.splitlines()[-1].split(), strict=True):
            if number > 0:
                seconds[name].append(float(value))
    return Row(f"sweep of {JOBS} short runs", seconds)


def sweep() -> None:
    """Run ``mpt-train`` with the arguments of this process; print the mean seconds of a run and between two runs."""
    from mpt.commands import cli
    from mpt.experiment import train

    times: list[tuple[float, float]] = []
    whole = train.run

    def timed(*args: object, **options: object) -> object:
        start = time.perf_counter()
        row = whole(*args, **options)  # type: ignore[arg-type]
        times.append((start, time.perf_counter()))
        return row

    train.run = timed  # type: ignore[assignment]
    cli.train()
    runs = sum(end - start for start, end in times)
    print(runs / len(times), (times[-1][1] - times[0][0] - runs) / (len(times) - 1))
