"""``mpt.search``: a run from Python, by the path of ``mpt-train``: the same settings, directory, files and resumption.

Objects that no module has by name, such as a function of a notebook, are handed over under a name that ends in a
fingerprint of their code (:mod:`mpt.commands.given`), so that a changed function is another run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from html import escape
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig

from mpt.causes import is_out_of_memory
from mpt.errors import sentence
from mpt.run.compose import compose, given_keys
from mpt.run.layout import needs_processes
from mpt.run.name import run_name
from mpt.run.result import METRICS_FILE
from mpt.run.settings import Settings
from mpt.run.status import describe_interruption
from mpt.signals import Interrupted
from mpt.values import of_python, path_of

if TYPE_CHECKING:
    from mpt.data import ImageData
    from mpt.search.methods import Method
    from mpt.ticket.ticket import Ticket

_GROUPS = ("model", "data", "method", "optim", "trainer", "logger")
_PLAIN = re.compile(r"[\w./-]+")  # text that Hydra's grammar takes without quotes


@dataclass(frozen=True)
class Found:
    """What :func:`search` found. A notebook shows its accuracy, its layers and a picture of the first one.

    Attributes:
        directory: of the run, with the files that ``mpt-train`` writes.
        result: the content of ``result.json``; accuracies are measured on the ticket file.
    """

    directory: Path
    result: dict[str, Any]

    @cached_property
    def ticket(self) -> Ticket:
        """The ticket, read from its file."""
        from mpt.ticket.ticket import Ticket

        return Ticket.load(self.directory / "ticket.safetensors")

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """The metrics of every epoch, a row each, the first one with ``epoch`` 1."""
        return [json.loads(line) for line in (self.directory / METRICS_FILE).read_text().splitlines()]

    def _repr_html_(self) -> str:
        return f"<p>{escape(self._line())}</p>{self.ticket._repr_html_()}"

    def __repr__(self) -> str:
        return f"<{self._line()}, in {self.directory}>"

    def _line(self) -> str:
        row = self.result
        return (
            f"{row['method']} on {row['data']}: {100 * row['test_acc']:.2f} % of {row['num_test']:,} test images, "
            f"{row['num_kept']:,} of {row['num_weights']:,} weights kept"
        )


def search(
    backbone: Any,
    data: str | ImageData,
    method: str | Method = "biprop",
    *,
    directory: str | Path | None = None,
    **settings: Any,
) -> Found:
    """Search a ticket; the same call again resumes an interrupted search, or returns the result of a finished one.

    Args:
        backbone: a name of ``mpt-train --help`` (``"conv4"``), ``"timm.NAME"`` or ``"torchvision.NAME"``; a function
            that builds a network, called with ``num_classes in_channels image_size width`` as far as it accepts them;
            or a module, of which the architecture counts: its weights are drawn from ``seed``.
        data: a name (``"cifar10"``), or images of :mod:`mpt.data`.
        method: a name (``"biprop"``), or an instance, which brings its ``prune``.
        directory: of the run; None names it by the settings, below ``runs``.
        settings: the options of ``mpt-train``: ``prune=0.8, epochs=20, seed=1``. A dictionary sets options of a group
            (``optim={"lr": 0.1}``), and ``**{"optim.lr": 0.1}`` is the same.

    Raises:
        ValueError, OSError: a value is refused, or the search failed, in one sentence.
        KeyboardInterrupt: it was interrupted; the same call goes on.
    """
    from mpt.commands.given import choose_backbone, choose_data, choose_method

    if "model" in settings and not isinstance(settings["model"], Mapping):
        raise ValueError(f"backbone is the network of the search: leave model={settings['model']!r} out")
    if directory is not None:
        directory = path_of("directory", directory, example="runs/x")
    model, set_model = choose_backbone(backbone)
    images, set_data = choose_data(data, settings)
    way, set_method = choose_method(method, settings)
    own = list(override_all(settings))
    try:
        checked = _resolve([*model, *images, *way, *own], given_keys([*model, *own]))
    except Exception as error:
        raise _plain(error) from None
    for change in (set_model, set_data, set_method):
        checked = change(checked)
    if needs_processes(vars(checked.trainer)):
        raise ValueError("mpt.search runs in this process alone: set trainer={'devices': 1}, or use mpt-train")
    place = Path(directory) if directory is not None else Path(checked.runs) / run_name(checked)
    return Found(place, _run(checked, place, data))


def _resolve(overrides: list[str], given: set[str]) -> Settings:
    """The checked settings; ``given`` are the keys that the caller set."""
    from mpt.commands.spelling import check_spelling
    from mpt.experiment.kinds import resolve

    for name in ("sweeps", "hydra"):
        if wrong := [key for key in given if key.partition(".")[0] == name]:
            raise ValueError(f"{wrong[0]} is for mpt-train, which runs several: leave it out, or use mpt-train")
    check_spelling([], overrides)
    composed: DictConfig = compose("train", overrides, Settings)
    return resolve(composed, sorted(given))


def _run(settings: Settings, directory: Path, data: Any) -> dict[str, Any]:
    from mpt.experiment import kinds, train
    from mpt.run.claim import hold_claim

    def start(checked: Settings) -> train.Start:
        return train.search(checked) if isinstance(data, str) else train.start_search(checked, data)

    try:
        with _interruptible():
            return kinds.run(settings, directory, claim=hold_claim(directory), start=start)
    except Interrupted:
        words = describe_interruption(directory, settings.epochs).replace("command", "call")
        raise KeyboardInterrupt(f"interrupted{words}") from None
    except Exception as error:
        raise _plain(error) from error.__cause__


def _plain(error: Exception) -> Exception:
    """``error`` as a ValueError of one sentence, if Hydra raised it or the memory is full; else ``error`` itself."""
    of_hydra = type(error).__module__.partition(".")[0] in ("hydra", "omegaconf", "yaml")
    return ValueError(sentence(error)) if of_hydra or is_out_of_memory(error) else error


@contextmanager
def _interruptible() -> Iterator[None]:
    """In the block, Ctrl-C raises :class:`Interrupted`: of KeyboardInterrupt Lightning would end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: Any) -> None:
        raise Interrupted(signum)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def override_all(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The settings as they are typed on a command line: ``{"optim": {"lr": 0.1}}`` -> ``optim.lr=0.1``."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and not prefix and key in _GROUPS:
            yield from override_all(value, f"{key}.")
        else:
            try:
                yield f"{prefix}{key}={spell(value)}"
            except TypeError as error:
                what = "text, numbers, True or False, None, lists or dictionaries"
                raise ValueError(f"{prefix}{key} must be {what}, got {error}") from None


def spell(value: Any) -> str:
    """``value`` in Hydra's grammar; TypeError with what it is if it is no plain value."""
    if not isinstance(value, Number):
        value = of_python(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(spell, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{spell(key)}:{spell(entry)}' for key, entry in value.items())}}}"
    if not isinstance(value, (str, os.PathLike, Number)):
        raise TypeError(type(value).__name__)
    text = str(value)
    return text if _PLAIN.fullmatch(text) else str(QuotedString(text, Quote.single).with_quotes())
