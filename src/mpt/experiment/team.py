"""The processes that srun or torchrun started for one run: they agree before they train, and the first speaks for all.

Without an agreement the others would wait for a first process that has nothing to do, or that has failed. They meet at
torch's key-value store, at the address where they will train together. A process that stands alone agrees with itself.
All processes call these functions in the same order.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from mpt.errors import ToldElsewhereError, is_mendable, sentence
from mpt.processes import Group, group, slurm_job
from mpt.signals import Interrupted, cause

T = TypeVar("T")
_ROUNDS = itertools.count()
_START = timedelta(minutes=10)  # how much later than the first the last process may import torch
_BEAT, _SILENCE = 2.0, 60.0  # seconds between two signs of life; seconds without one after which a process is dead
_READ = 20  # seconds that the first process waits, before it ends, for the others to read why


def share(make: Callable[[], T]) -> T:
    """What ``make`` returns in the first process, which alone calls it; a JSON value.

    Raises:
        ToldElsewhereError: in the other processes, if ``make`` raises an error in the first.
    """
    team = group()
    if team is None:
        return make()
    store, key = _store(), f"share/{next(_ROUNDS)}"
    if team.rank > 0:
        return _read(store, key)  # type: ignore[no-any-return]
    try:
        value = make()
    except BaseException as error:
        _publish(store, key, team, {"error": _status(error)})
        raise
    _publish(store, key, team, {"value": value})
    return value


@contextmanager
def together() -> Iterator[None]:
    """If the block fails in one process, it fails in all of them, with the sentence of the first that failed."""
    team = group()
    if team is None:
        yield
        return
    store, stage = _store(), next(_ROUNDS)
    failure: BaseException | None = None
    try:
        with _heard(store, team.rank):
            yield
    except Exception as error:
        failure = error
    text = "" if failure is None else sentence(failure) if is_mendable(failure) else repr(failure)
    store.set(f"stage/{stage}/{team.rank}", json.dumps(text))
    texts = [json.loads(_wait(store, f"stage/{stage}/{rank}", rank)) for rank in range(team.size)]
    failures = list(filter(None, texts))
    if team.rank == 0:
        _publish(store, f"stage/{stage}", team, {"value": None})  # ends when all have read
    else:
        _read(store, f"stage/{stage}")
    if failure is not None and (team.rank == 0 or not is_mendable(failure)):
        raise failure
    if failures:
        raise ToldElsewhereError(failures[0]) if team.rank else ValueError(failures[0])


def _status(error: BaseException) -> int:
    ended = cause(error)
    return ended.status if isinstance(ended, Interrupted) else 1


def _publish(store: Any, key: str, team: Group, content: dict[str, Any]) -> None:
    store.set(key, json.dumps(content))
    end = time.monotonic() + _READ
    while store.add(f"{key}/read", 0) < team.size - 1 and time.monotonic() < end:
        time.sleep(0.02)


def _read(store: Any, key: str) -> Any:
    content = json.loads(_wait(store, key))
    store.add(f"{key}/read", 1)
    if "error" in content:
        raise ToldElsewhereError("the first process of this run says what happened", status=content["error"])
    return content["value"]


@contextmanager
def _heard(store: Any, rank: int) -> Iterator[None]:
    """In the block, give signs of life to the first process, which would wait for ever for one that was killed."""
    over = threading.Event()

    def beat() -> None:
        with suppress(RuntimeError):  # the connection is lost
            while not over.wait(_BEAT):
                store.add(f"alive/{rank}", 1)

    thread = threading.Thread(target=beat, name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _wait(store: Any, key: str, rank: int = 0) -> bytes:
    """The value of ``key`` once it is there, which the process ``rank`` sets. Signals are heard while it is not."""
    beats, since = -1, time.monotonic()
    try:
        while not store.check([key]):
            time.sleep(0.02)
            if rank > 0 and (now := store.add(f"alive/{rank}", 0)) != beats:
                beats, since = now, time.monotonic()
            if rank > 0 and time.monotonic() > since + _SILENCE:
                raise ValueError(f"process {rank + 1} of this run has ended, or hangs: what it printed says why")
        return bytes(store.get(key))
    except (RuntimeError, OSError) as error:  # torch's errors of a lost connection
        raise ToldElsewhereError("the first process of this run has ended") from error


@cache
def _store() -> Any:
    """The store of this run's processes, which torch.distributed will use too."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    team = group()
    assert team is not None
    set_address(team)
    try:
        store, *_ = next(rendezvous("env://", rank=team.rank, world_size=team.size, timeout=_START))
    except (RuntimeError, OSError) as error:  # torch's errors of a store
        raise ValueError(
            f"the {team.size} processes that {team.starter} started did not meet at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} within {_START.total_seconds() / 60:.0f} minutes: one of them has ended, and "
            "what it printed says why, or the machines do not reach each other"
        ) from error
    return PrefixStore("mpt", store)


def set_address(team: Group) -> None:
    """Say where the processes of srun meet, which torchrun says by itself: two steps of a job meet at two ports."""
    if team.starter != "srun":
        return
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "127.0.0.1")
    number = 17 * int(slurm_job() or 0) + int(os.environ.get("SLURM_STEP_ID", 0))
    os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    os.environ.setdefault("MASTER_PORT", str(15_000 + number % 15_000))
