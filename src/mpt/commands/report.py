"""``mpt-report``: the page of a run, or of a folder of runs, as a file or served while they run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mpt.commands.arguments import check_ending
from mpt.commands.schemas import PageSettings
from mpt.pages.build import FILE, build, write_page
from mpt.pages.library import check_installed
from mpt.phases import stop
from mpt.run.compose import compose, given_keys, settings_of
from mpt.run.status import states
from mpt.signals import describe_with
from mpt.words import size


def report(folder: Path, overrides: list[str]) -> str:
    """Write the page of ``folder``, or serve it until somebody interrupts the command; return the line to print."""
    settings = settings_of(compose("page", overrides, PageSettings), PageSettings)
    check_installed()
    found = states(folder)
    if settings.port and not settings.watch:
        raise ValueError(f"port={settings.port} has an effect only with watch=true: leave it out, or add that")
    if settings.out and settings.watch:
        raise ValueError(
            f"out={settings.out} has no effect with watch=true, which serves the page: leave one of them out"
        )
    alone = [state.directory for state in found] == [folder]
    if settings.figure and alone:
        raise ValueError(f"figure={settings.figure} is of several runs, and {folder} is one: leave it out")
    if "speed" in given_keys(overrides) and (settings.watch or not alone):
        why = "the page that watch=true serves times nothing" if settings.watch else f"{folder} is no single run"
        raise ValueError(f"speed is of the page of a single run, and {why}: leave it out")
    out = Path(settings.out) if settings.out else folder / FILE
    check_ending(out, ".html", ".htm")
    if not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent}: create it, or give another file with out=")
    if settings.watch:
        _serve(folder, settings)
    path = write_page(folder, out, found=found, figure=settings.figure, speed=settings.speed)
    return f"page      {path}, {size(path.stat().st_size)}{'' if found else f': {folder} holds no runs yet'}"


def _serve(folder: Path, settings: PageSettings) -> None:
    from mpt.pages.serve import HOST, Watched, open_server

    watched = Watched(folder, partial(build, folder, figure=settings.figure, watched=True))
    watched.page()  # what is wrong with it is said here
    stop()
    with open_server(watched, port=settings.port) as server:
        describe_with(lambda: ": the page is no longer served")
        print(f"page      http://{HOST}:{server.server_address[1]}/ until Ctrl-C", flush=True)
        server.serve_forever()
