"""Runs and sweeps, killed or interrupted at random moments: ``python -m tests.kills KIND N SEED``.

Kinds: ``runs`` ends single runs with SIGKILL, ``sweeps`` sweeps of four runs, ``signals`` runs by the signals that mpt
handles, or by a reader that leaves. Afterwards the same command must end in the tickets of an uninterrupted one, to the
byte. A case prints one line; the last line counts those that failed.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.console import COMMANDS, left_behind, read_result, start_sweep
from tests.forked import SIGNALS, Forked

RUN = ("data=digits", "batch=32", "trainer.accelerator=cpu")
EPOCHS = 8
CHOICES = (  # options that keep state from epoch to epoch, or write other files
    (),
    ("method.selection=global",),
    ("optim=adam", "optim.schedule=cosine", "data.val_size=0.1", "select=best_val"),
    ("optim.averaging=ema",),
    ("optim.averaging=swa", "optim.averaging_start=3"),
    ("method=edge_popup", "optim.accumulate=2", "report=true"),
    ("method=signed", "method.gains=channel"),
    ("method=iterand", "method.period=20", "logger=tensorboard"),
    ("logger=wandb",),
    ("logger=[wandb,tensorboard]", "trainer.devices=2"),
)
SMALL = ("model=mlp", "width=0.25")
SWEEP = ("-m", *RUN, *SMALL, "epochs=3", "prune=0.5,0.8", "seed=0,1", "runs=runs")
LAUNCHERS = ((), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), ("trainer.devices=2",))


class Case:
    """One command in a folder of its own, and how often it was stopped."""

    def __init__(self, folder: Path, arguments: tuple[str, ...]) -> None:
        self.folder, self.arguments, self.stops = folder, arguments, 0
        folder.mkdir()

    def start(self) -> Forked:
        """The command as the leader of a process group; its output goes to ``log``."""
        return start_sweep(self.folder, *self.arguments)

    def start_anew(self, *, piped: bool = False) -> subprocess.Popen[bytes]:
        """The same in a fresh interpreter, as a shell starts it; its output goes to ``log``, or a pipe."""
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                [COMMANDS / "mpt-train", *self.arguments],
                cwd=self.folder,
                stdout=subprocess.PIPE if piped else log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,
                preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in SIGNALS],
            )

    def epochs(self) -> int:
        """Epochs that its runs have finished, all together."""
        files = [path for path in self.folder.rglob("metrics.jsonl") if "wandb" not in path.parts]
        return sum(path.read_bytes().count(b"\n") for path in files)

    def wait_for(self, process: Forked | subprocess.Popen[bytes], rng: random.Random, *, most: int) -> None:
        """Until a random moment: of the start, or after a random epoch of ``most``."""
        if rng.random() < 0.25:
            end = time.monotonic() + rng.uniform(0, 6)
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
            return
        epoch = self.epochs() + rng.randrange(max(1, most - self.epochs() + 1))
        while process.poll() is None and self.epochs() < epoch:
            time.sleep(0.005)
        time.sleep(rng.choice((0, 0.002, 0.02, 0.1, 0.3)) * rng.random())

    def has_begun(self, said: str) -> bool:
        """False if all that it ``said`` is that Python's start was interrupted, before :mod:`mpt.startup` has run."""
        starting = "KeyboardInterrupt" in said and [path.name for path in self.folder.iterdir()] == ["log"]
        ours = {Path(name).name for name in re.findall(r'File "([^"]*/mpt/[^"]*)", line', said)}
        return not starting or not ours <= {"__init__.py", "startup.py"}

    def finish(self) -> None:
        """Repeat the command until it has ended well."""
        if (code := self.start().wait(1800)) != 0:  # on a busy machine
            raise AssertionError(f"status {code}: {(self.folder / 'log').read_text()[-2000:]}")

    def tickets(self) -> dict[str, bytes]:
        """The ticket files by the path of their run."""
        return {
            str(path.parent.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("ticket.safetensors")
            if "wandb" not in path.parts
        }


def kill(case: Case, rng: random.Random, *, most: int) -> str:
    """End the command, and mostly all its processes, with SIGKILL, one to three times."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        process = case.start()
        case.wait_for(process, rng, most=most)
        everyone = rng.random() < 0.7
        if process.poll() is None:
            case.stops += 1
            (os.killpg if everyone else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        if left := left_behind(case.folder, seconds=30):
            raise AssertionError(f"still at work: {left}")
    return f"killed {case.stops} times"


def interrupt(case: Case, rng: random.Random, *, most: int) -> str:
    """End the command with a signal, which must be its status, in one sentence and without a traceback.

    While Python starts, and imports what a script imports first, nobody can handle SIGINT: the traceback is Python's.
    """
    signum = rng.choice(SIGNALS)
    process = case.start_anew(piped=signum == signal.SIGPIPE)
    case.wait_for(process, rng, most=most)
    if process.poll() is None:
        case.stops += 1
        if process.stdout:
            process.stdout.close()
        else:
            (os.killpg if rng.random() < 0.5 else os.kill)(process.pid, signum)
        code, said = process.wait(60), (case.folder / "log").read_text()
        if not case.has_begun(said):
            return f"{signum.name} while Python started"
        if code not in (128 + signum, -signum, 0):  # it may die before it can handle signals, or have just ended
            raise AssertionError(f"status {code} after {signum.name}: {said[-2000:]}")
        if "Traceback" in said or (code > 0 and said.count(": interrupted") != 1):
            raise AssertionError(said[-3000:])
        status = next((read_result(p.parent)["status"] for p in case.folder.rglob("result.json")), "none")
        if status == "failed":
            raise AssertionError(f"recorded as failed: {said[-2000:]}")
    if left := left_behind(case.folder, seconds=30):
        raise AssertionError(f"still at work: {left}")
    return f"{signum.name}, {case.stops}"


def main(kind: str, count: int, seed: int) -> int:
    """Run ``count`` cases; return how many failed."""
    rng, failed, whole = random.Random(seed), 0, {}
    with tempfile.TemporaryDirectory(prefix="mpt-kills-") as folder:
        for number in range(count):
            if kind == "sweeps":
                more = LAUNCHERS[number % len(LAUNCHERS)]
                arguments, most = (*SWEEP, *more), 12
                compared = (*SWEEP, *(option for option in more if option.startswith("trainer")))
            else:
                more = CHOICES[number % len(CHOICES)]
                arguments, most = (*RUN, *SMALL, f"epochs={EPOCHS}", *more, "hydra.run.dir=run"), EPOCHS
                compared = arguments
            if compared not in whole:
                uninterrupted = Case(Path(folder, f"whole{len(whole)}"), compared)
                uninterrupted.finish()
                whole[compared] = uninterrupted.tickets()
            case = Case(Path(folder, f"case{number}"), arguments)
            try:
                words = (interrupt if kind == "signals" else kill)(case, rng, most=most)
                case.finish()
                if case.tickets() != whole[compared]:
                    raise AssertionError("another ticket")
                print(f"{number}: same after {words}: {' '.join(more)}", flush=True)
            except AssertionError as error:
                failed += 1
                print(f"{number}: FAILED {' '.join(arguments)}: {error}", flush=True)
            shutil.rmtree(case.folder)
    print(f"{kind}: {failed} of {count} failed", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
