from __future__ import annotations

import shutil

import pytest
from benchmarks import zoo as makes

import mpt
from mpt.files import DamagedError
from mpt.ticket import zoo

NAMES = [entry.name for entry in mpt.zoo.list()]


def test_there_are_six_tickets_of_both_kinds_and_data_sets():
    assert len(NAMES) >= 6
    assert {entry.binary_activations for entry in mpt.zoo.list()} == {True, False}
    assert {name.partition("-")[0] for name in NAMES} == {"digits", "cifar10"}


@pytest.mark.parametrize("entry", mpt.zoo.list(), ids=NAMES)
def test_the_entry_describes_the_file(entry):
    ticket = mpt.zoo.load(entry.name)
    assert ticket.num_weights == entry.num_weights
    assert 1 - ticket.density == pytest.approx(entry.prune, abs=1e-4)
    assert (ticket.header["binary_activations"] is not None) == entry.binary_activations
    assert 8 * entry.path.stat().st_size / ticket.num_weights == pytest.approx(entry.bits_per_weight, abs=1e-3)
    assert entry.command == makes.COMMANDS[entry.name]
    assert str(entry.path.parent) not in entry.path.read_bytes().decode("latin1")


@pytest.mark.parametrize("entry", [e for e in mpt.zoo.list() if e.name.startswith("digits")], ids=lambda e: e.name)
def test_tickets_of_digits_classify_as_well_as_said(entry):
    digits = mpt.data.load("digits")
    images, labels, *_ = next(iter(mpt.data.Loader(digits.test, data=digits, batch=entry.num_test, train=False)))
    network = mpt.zoo.load(entry.name).network().eval()
    found = (network(images).argmax(1) == labels).double().mean()
    assert float(found) == pytest.approx(entry.test_acc, abs=1.5 / entry.num_test)


def test_the_page_shows_what_the_table_says():
    page = (zoo.FOLDER / "README.md").read_text()
    assert makes.table(mpt.zoo.list()) in page


def test_an_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match=r"take one of .*digits-conv4"):
        mpt.zoo.load("nothing")


def test_another_file_in_place_of_a_ticket_is_refused(tmp_path, monkeypatch):
    shutil.copyfile(zoo.FOLDER / "digits-mlp.safetensors", tmp_path / "digits-conv4.safetensors")
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    with pytest.raises(DamagedError, match="is not the ticket digits-conv4 that was measured"):
        mpt.zoo.load("digits-conv4")
