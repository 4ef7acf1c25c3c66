"""The two kinds of run, search and fine-tuning: only this file tells them apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mpt.files import checksum
from mpt.phases import importing, stop
from mpt.processes import group, is_first
from mpt.run.check import check_given
from mpt.run.compose import given_keys, settings_of
from mpt.run.layout import check_processes, count_processes
from mpt.run.name import FOLDERS
from mpt.run.settings import FinetuneSettings, Settings
from mpt.run.status import examine, finished_result

if TYPE_CHECKING:
    from mpt.experiment.train import Start


def resolve(composed: DictConfig, overrides: Sequence[str]) -> Settings:
    """The checked settings of a run, with an absolute path to its data.

    Args:
        composed: configuration of ``mpt-train`` or ``mpt-finetune``.
        overrides: of the command line.
    """
    settings = _resolve_finetuning(composed, overrides) if "ticket" in composed else settings_of(composed, Settings)
    check_processes(vars(settings.trainer))
    check_given(settings, given_keys(overrides))
    settings = _with_teacher(settings)
    root = settings.data.root
    absolute = str(Path(root).expanduser().resolve()) if root else root
    return replace(settings, data=replace(settings.data, root=absolute))


def _resolve_finetuning(composed: DictConfig, overrides: Sequence[str]) -> Settings:
    from mpt.experiment.finetune import complete

    return complete(composed, given_keys(overrides))


def _with_teacher(settings: Settings) -> Settings:
    """The settings with the absolute path and the checksum of the teacher, which identifies the run."""
    if settings.distill is None:
        return settings
    path = Path(settings.distill).expanduser().resolve()
    try:
        return replace(settings, distill=str(path), distill_checksum=checksum(path))
    except OSError as error:
        raise OSError(
            f"distill={settings.distill} cannot be read ({error.strerror}): give the ticket file of a finished run"
        ) from error


def objective(settings: Settings, result: Mapping[str, Any]) -> float | None:
    """What a sweeper such as optuna gets of a ``result``; None if the run failed, so that its trial fails.

    Raises:
        ValueError: the settings name no number of the result.
    """
    if result.get("status") != "done":
        return None
    name = settings.objective or ("val_acc" if "val_acc" in result else "test_acc")
    value = result.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        numbers = [key for key, number in result.items() if isinstance(number, (int, float))]
        raise ValueError(f"objective={name} is no number of the result: take one of {', '.join(numbers)}")
    return float(value)


def run(
    settings: Settings,
    directory: Path,
    *,
    claim: AbstractContextManager[Any] | None = None,
    start: Callable[[Any], Start] | None = None,
) -> dict[str, Any]:
    """Run ``settings`` in ``directory`` unless that is done; return the result.

    Args:
        settings: from :func:`resolve`.
        directory: of this run alone; created if absent.
        claim: held by the first process while the run computes; a finished run needs none.
        start: builds data and network; None for that of the kind of ``settings``.
    """
    if not settings.trainer.progress:
        stop()
    with importing():
        from mpt.experiment import finetune, train
        from mpt.experiment.records import replay
        from mpt.experiment.result import describe_result, write_run_page
        from mpt.experiment.team import share

    settings = with_processes(with_checksum(settings))
    with ExitStack() as stack:

        def begin() -> dict[str, Any] | None:
            result = finished_result(settings, directory)
            if result is None and claim is not None:
                stack.enter_context(claim)
            return result

        result = share(begin)
        if result is None:
            if is_first() and (damage := examine(directory)[1]):
                print(f"{directory}: {damage}: it is made again", flush=True)
            usual = finetune.start if isinstance(settings, FinetuneSettings) else train.search
            return train.run(settings, directory, start=start or usual)
        if is_first():
            print(f"this run is finished: {directory} (remove the directory to run it again)")
            if settings.report and not (directory / "report.json").is_file():
                ticket = directory / "ticket.safetensors"
                print(f"it has no report.json; mpt-ticket report {ticket} prints the report")
            if words := replay(settings, directory, result):
                print(words, flush=True)
            print(describe_result(result, directory, settings), flush=True)
            if settings.report == "html" and not (directory / "report.html").is_file():
                write_run_page(directory)
        return result


def with_processes(settings: Settings) -> Settings:
    """The settings with the number of processes that are there if it is ``auto`` and several: it identifies the run.

    In config.yaml ``auto`` would mean another number on another machine, or without srun or torchrun.
    """
    trainer, team = settings.trainer, group()
    count = count_processes(vars(trainer))
    if str(trainer.devices) not in ("auto", "-1") or trainer.num_nodes > 1 or count == 1:
        return settings
    nodes = team.nodes if team else 1
    return replace(settings, trainer=replace(trainer, devices=count // nodes, num_nodes=nodes))


def with_checksum(settings: Settings) -> Settings:
    """The settings with the checksum of an image folder's listing, because other pictures in it are other data."""
    data = settings.data
    if data.name not in FOLDERS or not data.root:
        return settings
    from mpt.data import checksum as listing_checksum

    return replace(settings, data_checksum=listing_checksum(data.root, name=data.name, test_size=data.test_size))
