"""What loggers keep of a run when it has ended: its layers, kernels, scores and result; and finished runs, replayed.

``recorded.json`` in a run's directory says which loggers have its result, so that none of them records it twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt.experiment.loggers import asked_for, check, log_row, open_loggers, wandb_folder, wandb_id
from mpt.experiment.trackers import Tracker
from mpt.files import write_atomically
from mpt.phases import say
from mpt.run.claim import hold_claim
from mpt.run.result import read_metrics
from mpt.run.settings import Logger, Settings
from mpt.run.status import TICKET
from mpt.schema import read_object
from mpt.ticket.report import read_scores, score_histograms
from mpt.ticket.ticket import Ticket

FILE = "recorded.json"
LAYERS = ("layer", "shape", "weights", "kept", "density", "gain", "bits", "zero_kernels", "zero_kernels_by_chance")
_KEYS = ("num_weights", "num_kept", "density", "gain", "bits", "zero", "zero_chance")  # of a layer's facts
_BINS = 64


def log_end(
    loggers: Sequence[Tracker],
    directory: Path,
    ticket: Ticket,
    *,
    facts: Mapping[str, Any],
    result: Mapping[str, Any],
) -> None:
    """Log what is known at the end of a run: its result, and its ticket's file, layers, kernels and scores.

    Args:
        loggers: open ones.
        directory: of the run. The checkpoint there has the scores; without it there are no histograms of them.
        ticket: of the run.
        facts: of the ticket (:mod:`mpt.ticket.facts`).
        result: of the run.
    """
    if not loggers:
        return
    from mpt.pages.kernels import picture

    say("logging the ticket")
    step, known = result["epochs"], {key: value for key, value in result.items() if key != "checksum"}
    rows = [
        [layer["name"], "x".join(map(str, layer["shape"])), *(layer[k] for k in _KEYS)] for layer in facts["layers"]
    ]
    kernels = None if facts["first"] is None else picture(facts["first"])
    checkpoint = checkpoint_of(directory)
    scores = read_scores(checkpoint, ticket) if checkpoint and ticket.layers else {}
    histograms = score_histograms(scores, bins=_BINS)
    for logger in loggers:
        if rows:
            logger.log_rows("ticket/layers", LAYERS, rows, step=step)
        if kernels is not None:
            logger.log_picture("ticket/kernels", kernels, step=step)
        for name, histogram in histograms.items():
            logger.log_histogram(f"ticket/scores/{name}", histogram, step=step)
        logger.log_result(known, config=result["config"], step=step)
        logger.log_file(directory / TICKET, kind="ticket")


def checkpoint_of(directory: Path) -> Path | None:
    """The checkpoint of the ticket of a finished run; None if it was removed."""
    return next((path for path in (directory / "best.ckpt", directory / "last.ckpt") if path.is_file()), None)


def replay(settings: Settings, directory: Path, result: Mapping[str, Any]) -> str:
    """Log a finished run from its files to those loggers of ``settings`` that lack it; return lines to print.

    Raises:
        ValueError, OSError: a logger cannot record, or the run's files cannot be read.
    """

    def lacking() -> list[str]:
        return [kind for kind in wanted if not is_recorded(kind, directory, settings.logger, result["checksum"])]

    wanted = asked_for(settings.logger)
    if missing := lacking():
        say(f"recording the finished run {directory.name}")
        check(settings.logger)
        with hold_claim(directory, patience=10):
            if missing := lacking():  # the run may have just ended: it notes its loggers after its result
                _replay(settings, directory, result, missing)
    words = {kind: "recorded" if kind in missing else "recorded before:" for kind in wanted}
    return "\n".join(f"{words[kind]} {describe(kind, directory, settings.logger)}" for kind in wanted)


def _replay(settings: Settings, directory: Path, result: Mapping[str, Any], kinds: Sequence[str]) -> None:
    from mpt.pages.read import ticket_facts  # which a run that trains has no use for

    rows, ticket = read_metrics(directory), Ticket.load(directory / TICKET)
    with open_loggers(directory, settings, kinds=kinds) as loggers:
        for row in rows:
            log_row(loggers, row)
        log_end(loggers, directory, ticket, facts=ticket_facts(directory, result), result=result)
    note_recorded(kinds, directory, settings.logger, result["checksum"])


def is_recorded(kind: str, directory: Path, choice: Logger, content: str) -> bool:
    """Whether the logger ``kind`` has the ``content`` (a digest) of the run or the sweep in ``directory``."""
    if read_object(directory / FILE).get(_place(kind, directory, choice)) != content:
        return False
    if kind == "tensorboard":
        return any((directory / "tensorboard").glob("events.out.tfevents.*"))
    return choice.mode == "online" or any(wandb_folder(directory).glob(f"offline-run-*-{wandb_id(directory)}*"))


def note_recorded(kinds: Sequence[str], directory: Path, choice: Logger, content: str) -> None:
    """Note that the loggers ``kinds`` have the ``content`` (a digest) of the run or the sweep in ``directory``."""
    if kinds:
        noted = read_object(directory / FILE) | {_place(kind, directory, choice): content for kind in kinds}
        write_atomically(directory / FILE, json.dumps(noted, indent=1) + "\n")


def describe(kind: str, directory: Path, choice: Logger) -> str:
    """Where the logger ``kind`` keeps the run or the sweep in ``directory``."""
    if kind == "tensorboard":
        return f"for TensorBoard in {directory / 'tensorboard'}"
    if choice.mode == "online":
        return f"in W&B, project {choice.project}, run {wandb_id(directory)}"
    return f"for W&B in {wandb_folder(directory)}"


def _place(kind: str, directory: Path, choice: Logger) -> str:
    if kind == "tensorboard":
        return kind
    return "/".join(["wandb", choice.mode, choice.entity or "", choice.project, wandb_id(directory)])
