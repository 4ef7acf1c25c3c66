"""What a page shows of one run, read from its directory. What is missing or damaged is left out, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpt.analysis.reports import read_report
from mpt.files import checksum
from mpt.run.config import read_config
from mpt.run.result import METRICS_FILE, read_metrics
from mpt.run.status import TICKET, State
from mpt.ticket.facts import read_facts


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        key: its anchor in the page, ``run-1``.
        name: its directory, relative to the folder of the page.
        directory: where it is.
        state: one of :data:`mpt.run.status.STATES`.
        text: why it failed, or how far it came.
        result: its ``result.json``; empty if there is none.
        config: its settings; empty if they cannot be read.
        metrics: a row for each epoch.
        facts: of its ticket (:mod:`mpt.ticket.facts`); empty without a ticket.
        report: its ``report.json``; empty if there is none.
        notes: what could not be read, a sentence each.
    """

    key: str
    name: str
    directory: Path
    state: str
    text: str
    result: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_run(state: State, *, key: str, name: str) -> Run:
    """The run whose ``state`` is known. Its ticket is decoded, with torch, only if the run left no facts of it."""
    directory, notes = state.directory, list[str]()
    found = dict(state.content)

    def attempt(file: str, read: Any, empty: Any) -> Any:
        try:
            return read()
        except FileNotFoundError:
            return empty
        except (OSError, ValueError, TypeError, LookupError) as error:
            notes.append(f"{file} cannot be read: {error}")
            return empty

    config = found.get("config") or attempt("config.yaml", lambda: read_config(directory), {})
    return Run(
        key,
        name,
        directory,
        state.state,
        state.text,
        found,
        config if isinstance(config, dict) else {},
        attempt(METRICS_FILE, lambda: read_metrics(directory), []),
        attempt(TICKET, lambda: ticket_facts(directory, found), {}) if state.state == "done" else {},
        attempt("report.json", lambda: read_report(directory / "report.json"), {}),
        tuple(notes),
    )


def ticket_facts(directory: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the ticket of a run with this result, from their file; decoded and written where that is missing."""
    path = directory / TICKET
    try:
        return read_facts(directory, ticket_checksum=found.get("ticket_checksum") or checksum(path))
    except (OSError, ValueError):  # a run of an earlier version, or one whose facts were damaged
        from mpt.ticket.facts import facts_of, write_facts
        from mpt.ticket.ticket import Ticket

        ticket = Ticket.load(path)
        try:
            return write_facts(ticket, path)
        except OSError:  # somebody else's folder
            return facts_of(ticket, checksum=checksum(path))
