"""The page of a sweep, written when the sweep ends (``report=html``)."""

from __future__ import annotations

from pathlib import Path

from mpt.processes import is_first


def write_sweep_page(folder: Path, *, wanted: bool) -> None:
    """Write ``report.html`` of the sweep in ``folder`` if that is ``wanted``, in the first process."""
    if not wanted or not is_first():
        return
    from mpt.pages.build import write_page

    try:
        print(f"page      {write_page(folder)}", flush=True)
    except (OSError, ValueError) as error:  # the runs are there all the same
        print(f"note      the page could not be written: {error}", flush=True)
