from __future__ import annotations

import json
from dataclasses import fields

from mpt.run.result import METRICS, Result

OPTIONAL = {"val_acc", "layers", "ticket_digest", "test_acc_before"}


def result(**values):
    """A result whose keys without a value here are texts of their own names."""
    names = (f.name for f in fields(Result) if not f.metadata["optional"])
    return Result(**({name: name for name in names} | values))


def test_absent_optional_keys_are_left_out_and_required_ones_stay_even_if_null():
    plain = result(sweep=None, commit=None).as_dict()
    assert not OPTIONAL & plain.keys()
    assert (plain["sweep"], plain["commit"]) == (None, None)
    assert plain.keys() == {f.name for f in fields(Result)} - OPTIONAL


def test_optional_keys_with_a_value_are_kept_also_if_it_is_zero():
    plain = result(val_acc=0.0, layers="last").as_dict()
    assert (plain["val_acc"], plain["layers"]) == (0.0, "last")
    assert "test_acc_before" not in plain


def test_a_result_is_plain_json():
    plain = result(config={"optim": {"lr": 0.1}}, versions={"python": "3"}).as_dict()
    assert json.loads(json.dumps(plain)) == plain


def test_every_key_has_its_meaning_and_optional_ones_say_when_they_are_there():
    assert {f.name for f in fields(Result) if f.metadata["optional"]} == OPTIONAL
    assert all(f.metadata["meaning"] for f in fields(Result))
    assert all(METRICS.values())
