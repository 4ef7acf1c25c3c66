"""The page of a sweep is written on demand, and one that cannot be written is no failure of the sweep."""

from __future__ import annotations

from mpt.multirun.page import write_sweep_page


def test_a_page_is_written_only_on_demand(tmp_path, capsys):
    write_sweep_page(tmp_path, wanted=False)
    assert not list(tmp_path.iterdir())
    write_sweep_page(tmp_path, wanted=True)
    assert (tmp_path / "report.html").is_file()
    assert capsys.readouterr().out == f"page      {tmp_path / 'report.html'}\n"


def test_a_page_that_cannot_be_written_is_said(tmp_path, capsys):
    write_sweep_page(tmp_path / "nowhere", wanted=True)
    assert capsys.readouterr().out.startswith("note      the page could not be written: there is no folder")
