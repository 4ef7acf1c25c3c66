"""A page: one HTML file that holds everything, written for a run or for a folder of runs.

What the page shows of each run is HTML that Jinja made, with every foreign text escaped; it is packed and put into the
page when somebody opens the run. A content security policy lets only the page's own scripts run and nothing be loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mpt.files import digest, version, write_atomically
from mpt.pages.charts import curves, gains, pictures, zero_kernels
from mpt.pages.library import check_installed, pack_text, packed_library
from mpt.pages.overview import Overview, overview
from mpt.pages.read import Run, read_run
from mpt.pages.tables import LAYER_HEAD, RUN_HEAD, Pair, facts, layer_table, run_table, settings_table, short_state
from mpt.run.status import State, count_runs, states
from mpt.schema import printable

if TYPE_CHECKING:
    from jinja2 import Environment

FILE = "report.html"
ASSETS = Path(__file__).with_name("assets")
MAX_BYTES, MAX_RUNS = 1_000_000, 50  # so many bytes for every so many runs


class Page(NamedTuple):
    """A page, and the digest of what it shows: two pages of equal runs differ in the time alone."""

    html: str
    digest: str


@dataclass(frozen=True)
class Detail:
    """How much a page shows of each run: points of a curve, blocks of channels, whether curves of single layers."""

    points: int
    side: int
    layers: bool = False


DETAILS = (Detail(400, 64, layers=True), Detail(200, 32), Detail(100, 20), Detail(60, 12), Detail(30, 8), Detail(12, 4))


def write_page(
    folder: Path,
    out: Path | None = None,
    *,
    found: Sequence[State] | None = None,
    figure: str | None = None,
    speed: bool = False,
) -> Path:
    """Write the page of ``folder``, a run's directory or a folder of runs; return its path, ``FILE`` there by default.

    Args:
        folder: what to show.
        out: file to write.
        found: the states of the runs in ``folder``; None if they are still to be read.
        figure: see :func:`mpt.pages.overview.overview`.
        speed: measure how fast the ticket of a single run is, for about a second.

    Raises:
        ValueError: a package is missing, or there is no such folder or figure.
    """
    path = out or folder / FILE
    write_atomically(path, build(folder, found=found, figure=figure, speed=speed).html)
    return path


def build(
    folder: Path,
    *,
    found: Sequence[State] | None = None,
    figure: str | None = None,
    speed: bool = False,
    watched: bool = False,
) -> Page:
    """The page of ``folder``; see :func:`write_page`. With ``watched`` it looks for a newer one of its server."""
    check_installed()
    found = states(folder) if found is None else found
    names = [str(state.directory.relative_to(folder)) for state in found]
    runs = [
        read_run(state, key=f"run-{number}", name=folder.resolve().name if name == "." else name)
        for number, (state, name) in enumerate(zip(found, names, strict=True), 1)
    ]
    alone = names == ["."]
    measured = _speed(runs[0]) if alone and speed else None
    start = 0 if len(runs) <= 8 else 1 if len(runs) <= 27 else 2
    most = MAX_BYTES * max(1, -(-len(runs) // MAX_RUNS))
    whole = None if alone else overview(runs, figure=figure, most=DETAILS[start].points)
    page = Page("", "")
    for detail in DETAILS[start:]:
        payloads = {run.key: payload(run, detail, speed=measured) for run in runs}
        page = _render(folder, runs, payloads, whole, watched=watched)
        if len(page.html.encode()) <= most:
            break
    return page


def payload(run: Run, detail: Detail, *, speed: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the page holds of one run: its section as HTML, its charts and its pictures."""
    charts = [*curves(run, most=detail.points, layers=detail.layers), *gains(run), *zero_kernels(run)]
    shown, settings = pictures(run, side=detail.side), settings_table(run)
    section = template("run.html").render(
        run=run,
        facts=facts(run, speed=speed or run.report.get("speed")),
        charts=charts,
        pictures=shown,
        layer_head=LAYER_HEAD,
        layers=layer_table(run),
        settings=settings,
        others=_other_settings(tuple(settings["other"])),
    )
    return {"html": section, "charts": charts, "pictures": shown}


@lru_cache(maxsize=8)
def _other_settings(others: tuple[Pair, ...]) -> str:
    """The settings at their defaults as HTML, which most runs of a sweep share."""
    return str(template("settings.html").render(others=others))


def _render(
    folder: Path, runs: Sequence[Run], payloads: dict[str, Any], whole: Overview | None, *, watched: bool
) -> Page:
    charts = [] if whole is None else whole.charts
    packed = pack_text(json.dumps({"charts": charts, "runs": payloads}, separators=(",", ":")))
    script, library = (ASSETS / "page.js").read_text(encoding="utf-8"), packed_library()
    table, about = run_table(runs), [(run, short_state(run)) for run in runs]
    shown = [[run.name, run.state, words] for run, words in about]
    nonce = digest(f"{packed}{script}{whole}{shown}{table}".encode())
    html = template("page.html").render(
        title=printable(folder.resolve().name, 200),
        when=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        version=version(),
        nonce=nonce,
        style=(ASSETS / "page.css").read_text(encoding="utf-8"),
        script=script,
        library=library,
        data=packed,
        watched=watched,
        whole=whole,
        counted=count_runs(len(runs)),
        run_head=RUN_HEAD,
        table=table,
        runs=about,
    )
    return Page(html, nonce)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def template(name: str) -> Any:
    """The template of this name, which escapes what it is given."""
    return _environment().get_template(name)


def _speed(run: Run) -> dict[str, Any] | None:
    """A short measurement of the compiled ticket of ``run``; None without a ticket."""
    if not run.facts.get("layers"):
        return None
    from mpt.engine.speed import measure_briefly
    from mpt.run.status import TICKET
    from mpt.ticket.ticket import Ticket

    return measure_briefly(Ticket.load(run.directory / TICKET))
