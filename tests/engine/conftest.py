"""Compiled objects of the tests stay out of the user's cache."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPT_CACHE", str(tmp_path_factory.mktemp("objects")))
        yield
