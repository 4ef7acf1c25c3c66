"""The processes that srun or torchrun started for one run: they agree before they train, and the first speaks for all.

Without an agreement the others would wait for a first process that has nothing to do, or that has failed. They meet at
torch's key-value store, at the address where they will train together, and one that has died is known by its connection
(:mod:`mpt.run.peers`). A process that stands alone agrees with itself.
All processes call these functions in the same order.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from mpt.errors import ToldElsewhereError, is_mendable, sentence
from mpt.run.peers import Peers, meet
from mpt.signals import Interrupted, cause

T = TypeVar("T")
_ROUNDS = itertools.count()


def share(make: Callable[[], T]) -> T:
    """What ``make`` returns in the first process, which alone calls it; a JSON value.

    Raises:
        ToldElsewhereError: in the other processes, if ``make`` raises an error in the first.
    """
    peers = meet()
    if peers is None:
        return make()
    key = f"share/{next(_ROUNDS)}"
    _store()
    if peers.team.rank > 0:
        return _read(peers, key)  # type: ignore[no-any-return]
    try:
        value = make()
    except BaseException as error:
        _publish(peers, key, {"error": _status(error)})
        raise
    _publish(peers, key, {"value": value})
    return value


@contextmanager
def together() -> Iterator[None]:
    """If the block fails in one process, it fails in all of them, with the sentence of the first that failed."""
    peers = meet()
    if peers is None:
        yield
        return
    store, team, stage = _store(), peers.team, f"stage/{next(_ROUNDS)}"
    failure: BaseException | None = None
    try:
        yield
    except Exception as error:
        failure = error
    text = "" if failure is None else sentence(failure) if is_mendable(failure) else repr(failure)
    store.set(f"{stage}/{team.rank}", json.dumps(text))
    texts = [json.loads(_wait(peers, f"{stage}/{rank}", rank)) for rank in range(team.size)]
    failures = list(filter(None, texts))
    if team.rank == 0:
        _publish(peers, stage, {"value": None})  # ends when all have read
    else:
        _read(peers, stage)
    if failure is not None and (team.rank == 0 or not is_mendable(failure)):
        raise failure
    if failures:
        raise ToldElsewhereError(failures[0]) if team.rank else ValueError(failures[0])


def _status(error: BaseException) -> int:
    ended = cause(error)
    return ended.status if isinstance(ended, Interrupted) else 1


def _publish(peers: Peers, key: str, content: dict[str, Any]) -> None:
    """Let the others read ``content``; return when all have, but those that have ended."""
    store = _store()
    store.set(key, json.dumps(content))
    for rank in range(1, peers.team.size):
        while rank not in peers.ended and not store.check([f"{key}/read/{rank}"]):
            time.sleep(0.02)


def _read(peers: Peers, key: str) -> Any:
    content = json.loads(_wait(peers, key))
    _store().set(f"{key}/read/{peers.team.rank}", "")
    if "error" in content:
        raise ToldElsewhereError("the first process of this run says what happened", status=content["error"])
    return content["value"]


def _wait(peers: Peers, key: str, rank: int = 0) -> bytes:
    """The value of ``key`` once it is there, which the process ``rank`` sets. Signals are heard while it is not."""
    store = _store()
    try:
        while not store.check([key]):
            gone = peers.ended & {0, rank}
            if gone and not store.check([key]):  # it may have set it a moment before its end
                peers.check(rank)
            time.sleep(0.02)
        return bytes(store.get(key))
    except (RuntimeError, OSError) as error:  # torch's errors of a lost connection
        raise ToldElsewhereError("the first process of this run has ended") from error


@cache
def _store() -> Any:
    """The store of this run's processes, which torch.distributed will use too."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    peers = meet()
    assert peers is not None
    team, address, port = peers.team, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serves = team.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # torchrun may serve
    peers.meet()
    try:
        store = TCPStore(address, port, team.size, serves, wait_for_workers=False, multi_tenant=True)
    except (RuntimeError, OSError) as error:  # torch's errors of a store
        raise ValueError(
            f"the processes of this run do not meet at {address}:{port}: set MASTER_PORT to a free port, or see if "
            "the machines reach each other"
        ) from error
    peers.let_go()
    # torchrun's store outlives processes that it starts again
    return PrefixStore(f"mpt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
