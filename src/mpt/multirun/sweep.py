"""Many runs: expand the axes, check everything, and run each missing run once.

The state of a run lies in its directory, whose name follows from its settings alone, never in this process. So a sweep
can be killed at any moment and repeated, several commands can share it, and any launcher of Hydra can spread it.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mpt.errors import ToldElsewhereError
from mpt.experiment.team import share
from mpt.files import write_atomically
from mpt.multirun.choosing import Choosing
from mpt.multirun.expand import Run
from mpt.multirun.page import write_sweep_page
from mpt.multirun.records import record_sweep
from mpt.multirun.slurm import check_installed, complete, is_slurm, submit
from mpt.multirun.summary import announce, conclude, count_done
from mpt.multirun.tuning import Tuning
from mpt.multirun.watch import Watch
from mpt.phases import importing, say
from mpt.processes import is_first
from mpt.run import status
from mpt.run.apart import follow_sweep
from mpt.run.claim import NAME as CLAIM
from mpt.run.claim import hold_claim, is_claimed
from mpt.run.compose import quote, repeated
from mpt.run.queue import is_cancelled, is_expected, queued_runs
from mpt.run.settings import Settings
from mpt.signals import describe_with


def sweep(sweeper: Any, arguments: list[str]) -> list[Any]:
    """Run those runs that ``arguments`` and the file of the sweep span and that are not done yet.

    Raises:
        ValueError: an axis has a value that is refused; nothing has started.
        SystemExit: some runs failed; all others are done.
    """
    folder = Path(sweeper.config.hydra.sweep.dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and the runs need a folder: choose another with runs=")
    say("expanding the sweep")
    for key, value in repeated(arguments).items():
        print(f"note      {key} is given more than once, and {key}={value} counts", flush=True)
    lines, changes = _axes(sweeper)
    changes = {key: text for key, text in changes.items() if key not in {o.partition("=")[0] for o in arguments}}
    if is_slurm(sweeper.config) and str(sweeper.config.trainer.devices) == "auto":
        arguments = [*arguments, "trainer.devices=1"]  # not as many as this machine has: the job runs elsewhere
    choosing = Choosing(sweeper, lines, arguments, folder)
    trials, runs, open_runs = choosing.trials, choosing.decided(), choosing.undecided()
    for run in choosing.planned:
        check_processes(sweeper.config, run.settings)
    refusals: dict[Path, str] = {}
    missing = [run for run in [*trials, *runs, *open_runs] if not _is_done(run, refusals)]
    tuning = Tuning(sweeper, folder)
    tunings = tuning.expand(runs)
    print(announce(sweeper.config, folder, [*runs, *open_runs], changes), flush=True)
    if trials:
        print(choosing.announce(), flush=True)
    if tuning.axes:
        print(tuning.announce(runs, tunings), flush=True)
    searches = [run.settings for run in missing if run.directory not in refusals]
    if pending := searches + tuning.settings_left(runs, tunings):
        with importing():
            from mpt.multirun.estimate import check_methods, estimate

        say("estimating the time")
        check_methods(searches)
        print(estimate(pending, folder), flush=True)
    if sweeper.dry_run:
        every = [*trials, *runs, *open_runs, *tunings]
        print("\n".join(f"{status.state(run.directory).state:<11} {run.directory.name}" for run in every), flush=True)
        return []
    if pending:
        if is_slurm(sweeper.config):
            check_installed()  # before anything is written
        more_words = "; its jobs stay in SLURM's queue, and" if is_slurm(sweeper.config) else ":"
        every = [*trials, *runs, *open_runs, *tunings]
        describe_with(lambda: f" with {count_done(every)}{more_words} the same command continues")
        if trials:
            work(sweeper, trials, refusals, started=record_list(choosing.folder, trials), more=choosing.more)
            runs, open_runs = choosing.decided(), choosing.undecided()
            every = [*trials, *runs, *open_runs]
            print(choosing.describe(), flush=True)
        refusals |= dict.fromkeys(
            (run.directory for run in open_runs), "no run that was to choose its values ended well"
        )
        work(sweeper, runs, refusals, started=record_list(folder, runs))
        if tunings := tuning.expand(runs):
            more = (f"hydra.sweep.dir={quote(folder)}",)
            work(tuning.sweeper, tunings, refusals, started=record_list(folder, tunings), more=more)
    say("reading the results")
    write_sweep_page(folder, wanted=sweeper.config.report == "html")
    record_sweep(folder, [*runs, *open_runs, *tunings])
    conclude([*runs, *open_runs, *tunings], refusals, folder)
    return []


def _axes(sweeper: Any) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The axes of each line of the file, and the changes by ``budget=mini`` (``key`` -> ``before -> after``)."""
    if sweeper.config.budget not in (None, "paper", "mini"):
        raise ValueError(f"budget must be paper or mini, got {sweeper.config.budget}")
    params = dict(sweeper.params)
    mini = sweeper.axes["mini"] if sweeper.config.budget == "mini" else {}
    changes = {key: f"{params.get(key, 'as published')} -> {value}" for key, value in mini.items()}
    tuning = sweeper.axes["mini_finetune"] if mini else {}
    changes |= {f"fine-tuning: {key}": f"{sweeper.axes['finetune'].get(key)} -> {v}" for key, v in tuning.items()}
    lines = sweeper.axes["lines"].values() or [{}]
    return [params | dict(line) | mini for line in lines], changes


def check_processes(master: DictConfig, settings: Settings) -> None:
    devices, nodes = str(settings.trainer.devices), settings.trainer.num_nodes
    launcher = master.hydra.launcher
    slurm = is_slurm(master)
    if slurm and (devices, nodes) != (str(launcher.tasks_per_node), launcher.nodes):
        raise ValueError(
            f"SLURM gives each run {launcher.nodes} x {launcher.tasks_per_node} tasks, one for each device, but "
            f"trainer.devices={devices} trainer.num_nodes={nodes}: use one number of devices per command"
        )
    if nodes > 1 and not slurm:
        raise ValueError(
            f"trainer.num_nodes={nodes} in a sweep needs a launcher that starts a task for each device: "
            "use hydra/launcher=slurm"
        )
    if devices.isdigit() and settings.batch % max(1, int(devices) * nodes):
        raise ValueError(
            f"batch is the global batch and must be divisible by the {int(devices) * nodes} processes, "
            f"got {settings.batch}"
        )


def record_list(folder: Path, runs: Sequence[Run]) -> float:
    """Add ``runs`` to the list of runs that commands asked for; return the file system's time of that."""
    requests = {run.directory.name: list(run.overrides) for run in runs}
    with hold_claim(folder, name=".listing", patience=10):  # commands write the list one after the other
        write_atomically(folder / status.LIST, json.dumps(status.read_list(folder) | requests, indent=1) + "\n")
        return (folder / status.LIST).stat().st_mtime


def work(
    sweeper: Any, runs: Sequence[Run], refusals: dict[Path, str], *, started: float, more: tuple[str, ...] = ()
) -> None:
    """Launch runs until each is done or has failed since ``started``; wait for those that others hold or that queue.

    ``sweeper`` has Hydra's ``config``, ``hydra_context`` and ``launcher``; ``more`` are overrides of every run. A run
    that after two launches has neither ended nor is held is given up; ``refusals`` says why.
    """
    tries: Counter[Path] = Counter()
    by_name = {run.directory.name: run for run in runs}
    submits = is_slurm(sweeper.config)

    def choose() -> list[str]:
        """The runs to launch next, once there are any; none if all have ended."""
        for look in count():
            left = [run for run in runs if not _is_settled(run, refusals, started)]
            queued = _queued(left)
            free = [run for run in left if not is_claimed(run.directory) and run.directory.name not in queued]
            if submits and look == 0 and any(tries[run.directory] for run in free):
                time.sleep(2)  # its last files may be seen after its job has left the queue
                continue
            if submits:
                refusals.update({run.directory: why for run in free if (why := _give_up(run, tries[run.directory]))})
            names = [run.directory.name for run in free if run.directory not in refusals]
            if names or not left:
                return names
            if not free:
                _wait(left, refusals, started)
        raise AssertionError

    with _watch(runs, started):
        while names := share(choose):
            free = [by_name[name] for name in names]
            stopped = _launch(sweeper, free, (*more, "hydra.mode=MULTIRUN", f"++hydra.sweeper.started={started!r}"))
            if submits:
                tries.update(run.directory for run in free)
                continue
            after = [run for run in free if not _is_settled(run, refusals, started) and not is_claimed(run.directory)]
            if (
                stopped
                and len(after) == len(free)
                and not any(_stale_claim_time(run.directory) > started for run in after)
            ):
                raise stopped
            for run in after:
                tries[run.directory] += 1
                if is_first() and tries[run.directory] > 1 and _stale_claim_time(run.directory) > started:
                    status.record_failure(run.directory, run.settings, "its process was killed, twice (out of memory?)")
                if tries[run.directory] > 1 and not _is_settled(run, refusals, started):
                    refusals[run.directory] = "it could not start, or its result could not be written: see above"


def _watch(runs: Sequence[Run], started: float) -> AbstractContextManager[Any]:
    """Prints how far ``runs`` are, in the first process."""
    if not is_first():
        return nullcontext()
    from mpt.multirun.estimate import works

    return Watch(runs, started=started, works=works([run.settings for run in runs]))


def _give_up(run: Run, tries: int) -> str:
    """Why the run of a job that has left the queue is not submitted again; empty if it is."""
    if tries and is_cancelled(run.directory):
        return "its job was cancelled: the same command continues"
    logs = run.directory.parent / ".submitit"
    return f"its job ended twice without a result: {logs} has what it said" if tries > 1 else ""


def _queued(runs: Sequence[Run]) -> dict[str, tuple[str, str]]:
    queued: dict[str, tuple[str, str]] = {}
    for folder in {run.directory.parent for run in runs}:
        queued |= queued_runs(folder)
    return queued


def _is_done(run: Run, refusals: dict[Path, str]) -> bool:
    """True if the run is finished. A run whose directory holds something else goes to ``refusals``."""
    try:
        return bool(status.finished_result(run.settings, run.directory))
    except (ValueError, OSError) as error:
        refusals[run.directory] = status.reason(error)
        return False


def _is_settled(run: Run, refusals: dict[Path, str], started: float) -> bool:
    return run.directory in refusals or _is_done(run, refusals) or status.has_failed_since(run.directory, started)


def _stale_claim_time(directory: Path) -> float:
    """When a process that died created the claim that it left behind; 0 if there is none."""
    try:
        return (directory / CLAIM).stat().st_mtime
    except OSError:
        return 0.0


def _wait(left: Sequence[Run], refusals: dict[Path, str], started: float) -> None:
    """Wait until one of ``left``, which others hold or whose jobs queue, is free; say why a job cannot start."""
    said: set[str] = set()
    for second in count():
        if second % 5 == 0:
            queued = _queued(left)
            words = "in SLURM's queue" if queued else "held by other commands"
            lines = [f"waiting for {status.count_runs(len(left))} {words}"] if second == 0 else []
            say(f"waiting for {status.count_runs(len(left))} {words}")
            for job, why in queued.values():
                if not is_expected(why):
                    lines.append(
                        f"job {job} waits because of {why}: see squeue -j {job}, and hydra.launcher.* of this command"
                    )
            lines = [line for line in lines if line not in said]
            if lines:
                print("\n".join(lines[:5]), flush=True)
            said.update(lines)
        ended = any(_is_settled(run, refusals, started) for run in left)
        if ended or any(not is_claimed(r.directory) and r.directory.name not in queued for r in left):
            return
        time.sleep(1)


def _launch(sweeper: Any, runs: Sequence[Run], more: tuple[str, ...]) -> Exception | None:
    """Pass ``runs``, each with the overrides ``more``, to the launcher; return what stopped it, if anything."""
    from hydra.core.plugins import Plugins

    submits, folder = is_slurm(sweeper.config), runs[0].directory.parent
    if submits:
        complete(sweeper.config, runs, folder)
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=sweeper.hydra_context, task_function=sweeper.launcher.task_function, config=sweeper.config
    )
    overrides = [[*run.overrides, *more] for run in runs]
    try:
        if submits:
            with hold_claim(folder, name=".submitting", patience=60):
                queued = queued_runs(folder)  # another command may have submitted some of them a moment ago
                ours = [place for place, run in enumerate(runs) if run.directory.name not in queued]
                if ours:
                    submit(launcher, [runs[place] for place in ours], [overrides[place] for place in ours], folder)
        else:
            getattr(launcher, "joblib", {})["initializer"] = follow_sweep  # of each worker; arguments of Parallel
            launcher.launch(overrides, initial_job_idx=0)
    except Exception as error:  # the launcher lost a job; the directories hold the states of all
        if submits or isinstance(error, ToldElsewhereError):
            raise
        print(f"the launcher stopped: {error!r}", file=sys.stderr, flush=True)
        return error
    return None
