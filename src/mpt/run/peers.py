"""Connections among the processes that srun or torchrun started for one run: an end of one is known at once.

Every process but the first connects to the first as soon as its command begins, long before it has imported torch, and
keeps the connection open. The kernel closes it when the process ends, however it ends, and not before: a process is
never taken for dead because it is slow. A machine that answers nothing for half a minute counts as dead.

Only a process that is killed in the tenths of a second before it has connected is missed for :data:`PATIENCE`.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from selectors import EVENT_READ, DefaultSelector

from mpt.errors import ToldElsewhereError
from mpt.processes import Group, group, slurm_job

PATIENCE = 600.0  # seconds by which the last process may begin later than the first
SILENCE = 20.0  # seconds after which it is said who has not begun
NAMES = 20.0  # seconds in which the name of the first machine must be known
_PORTS = 10  # that are tried
_NAMED = 8  # processes, of those that are waited for
_ANSWER = 5.0  # seconds that another port has to answer
_LINE = 200  # bytes, of a line of these connections, at most
_HERE, _READY, _GO = b"here\n", b"ready\n", b"go\n"
_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # seconds, seconds, times


class Peers:
    """The other processes of ``team``, as far as this one is connected with them: the first with all, all with it."""

    def __init__(self, team: Group) -> None:
        self.team = team
        self.ended: set[int] = set()  # ranks of those whose connection was there and is closed
        self._ready: set[int] = set()  # ranks of those that have come to meet
        self._connected: dict[int, socket.socket] = {}  # rank -> connection
        self._sockets: list[socket.socket] = []  # of this process, all
        self._begin, self._is_nameless = time.monotonic(), False
        set_address(team)
        self._address, port = _address()
        self._ports = _ports(port)
        self._name = _name_of_run().encode() + b"\n"
        work: Callable[[], None] = self._follow
        if team.rank == 0:
            self._sockets.append(_listen(self._ports, team.size))
            work = self._serve
        os.register_at_fork(after_in_child=self._close)
        threading.Thread(target=work, name="peers", daemon=True).start()

    def meet(self) -> None:
        """Wait until all processes have come here; before the others go on, the first calls :meth:`let_go`.

        Raises:
            ValueError: one of them has ended, or did not begin in time.
        """
        others = set(range(1, self.team.size)) if self.team.rank == 0 else {0}
        said, is_silent = self.team.rank == 0, self.team.rank < 2
        while not others <= self._ready:
            if not said and 0 in self._connected:
                with suppress(OSError):  # it has ended
                    self._connected[0].sendall(_READY)
                said = True
            self.check(*others)
            waited = time.monotonic() - self._begin
            if self._is_nameless and waited > NAMES:
                raise ValueError(
                    f"the first process of this run is at {self._address}, which {socket.gethostname()} does not know: "
                    "set MASTER_ADDR to a name or an address that all its machines know"
                )
            if is_silent and waited > SILENCE and (missing := others - self._connected.keys()):
                is_silent = False
                print(self._describe_wait(sorted(missing)), file=sys.stderr, flush=True)
            if waited > PATIENCE:
                raise ValueError(
                    f"the {self.team.size} processes that {self.team.starter} started did not meet at "
                    f"{self._address}:{self._ports[0]} within {PATIENCE / 60:.0f} minutes: one of them has "
                    "ended, and what it printed says why, or the machines do not reach each other"
                )
            time.sleep(0.02)

    def let_go(self) -> None:
        """In the first process: let the others return from :meth:`meet`."""
        for rank in self._ready:
            with suppress(OSError):
                self._connected[rank].sendall(_GO)

    def check(self, *ranks: int) -> None:
        """Raise ValueError if one of ``ranks`` has ended, in other processes than the first if that one has."""
        for rank in sorted(self.ended & {0, *ranks}):
            raise (ToldElsewhereError if self.team.rank else ValueError)(self.describe_end(rank))

    def describe_end(self, rank: int) -> str:
        """The sentence about a process that has ended."""
        which = f"process {rank + 1} of {self.team.size} of this run"
        return f"{which} has ended: what it printed says why, and the same command continues"

    def _describe_wait(self, ranks: list[int]) -> str:
        """The line about processes that have not begun."""
        numbers = ", ".join(str(rank + 1) for rank in ranks[:_NAMED])
        more = f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
        whom = f"process{'es' * (len(ranks) > 1)} {numbers}{more} of {self.team.size}"
        return f"waiting for {whom}, {PATIENCE / 60:.0f} minutes at most"

    def _serve(self) -> None:
        """In the first process: accept the others, and hear of what becomes of them."""
        (server,) = self._sockets
        ranks: dict[socket.socket, int] = {}  # of those that introduced themselves
        with DefaultSelector() as selector:
            selector.register(server, EVENT_READ)
            while True:
                for key, _ in selector.select():
                    connection = key.fileobj
                    assert isinstance(connection, socket.socket)
                    if connection is server:
                        with suppress(OSError):
                            self._sockets.append(server.accept()[0])
                            selector.register(self._sockets[-1], EVENT_READ)
                    elif not self._hear(connection, _receive(connection), ranks):
                        selector.unregister(connection)
                        self._sockets.remove(connection)
                        connection.close()

    def _hear(self, connection: socket.socket, line: bytes, ranks: dict[socket.socket, int]) -> bool:
        """Take note of what came over a connection; False if it is to be closed."""
        rank = ranks.get(connection, 0)
        if rank == 0 and (rank := self._rank_of(line)):
            ranks[connection] = rank
            with suppress(OSError):
                connection.sendall(self._name)
        elif rank and line.startswith(_HERE):  # an answer that came too late has no answer
            self._connected[rank] = connection
            _keep_alive(connection)
        elif self._connected.get(rank) is not connection or not line:
            if self._connected.get(rank) is connection:
                self.ended.add(rank)
            return False
        if line.endswith(_READY):
            self._ready.add(rank)
        return True

    def _rank_of(self, line: bytes) -> int:
        """The rank of a process that introduces itself; 0 if it is none of this run."""
        rank, _, name = line.partition(b" ")
        known = name == self._name and rank.isdigit() and int(rank) < self.team.size
        return int(rank) if known else 0

    def _follow(self) -> None:
        """In another process: connect to the first one, and hear of what becomes of it."""
        while (connection := self._connect()) is None:
            time.sleep(0.05)
        self._connected[0] = connection
        while line := _receive(connection):
            if line.endswith(_GO):
                self._ready.add(0)
        self.ended.add(0)

    def _connect(self) -> socket.socket | None:
        for port in self._ports:
            with suppress(OSError):
                try:
                    connection = socket.create_connection((self._address, port), timeout=_ANSWER)
                finally:
                    self._is_nameless = isinstance(sys.exception(), socket.gaierror)
                with suppress(OSError):
                    connection.sendall(f"{self.team.rank} ".encode() + self._name)
                    if _receive(connection) == self._name:
                        connection.settimeout(None)
                        _keep_alive(connection)
                        self._sockets.append(connection)
                        connection.sendall(_HERE)
                        return connection
                connection.close()
        return None

    def _close(self) -> None:
        """In a fork, such as a process that loads data: it must not keep the connections open."""
        for connection in self._sockets:
            connection.close()


def meet() -> Peers | None:
    """The peers of this process, connected once; None if it stands alone. A command calls it as its first act."""
    team = group()
    return _connected(team) if team is not None and team.size > 1 else None


_connected = cache(Peers)


def set_address(team: Group) -> None:
    """Say where the processes of srun meet, which torchrun says by itself: two steps of a job meet at two ports."""
    if team.starter != "srun":
        return
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "127.0.0.1")
    first = re.sub(r"\[(\w+)[^]]*\]", r"\1", nodes).partition(",")[0]  # node[03-05,9],login -> node03
    number = 17 * int(slurm_job() or 0) + int(os.environ.get("SLURM_STEP_ID", 0))
    os.environ.setdefault("MASTER_ADDR", first)
    os.environ.setdefault("MASTER_PORT", str(15_000 + number % 15_000))


def _address() -> tuple[str, int]:
    """Host and port at which the processes train together."""
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(
            "MASTER_ADDR and MASTER_PORT are where the processes of a run meet, a host and a number from 1 to 65535, "
            f"got {host!r} and {port!r}: set both, or neither under srun"
        )
    return host, int(port)


def _ports(number: int) -> list[int]:
    """Where the first process may listen: neither where torch does, nor where the kernel chooses ports."""
    return [30_000 + (number + 277 * place) % 2_700 for place in range(_PORTS)]


def _name_of_run() -> str:
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_STEP_ID", "MASTER_PORT")
    return "mpt " + " ".join(os.environ.get(name, "-")[:30] for name in names)


def _listen(ports: list[int], size: int) -> socket.socket:
    for port in ports:
        with suppress(OSError):
            if socket.has_dualstack_ipv6():
                return socket.create_server(("", port), family=socket.AF_INET6, backlog=size, dualstack_ipv6=True)
            return socket.create_server(("", port), backlog=size)
    raise ValueError(
        f"none of the ports {', '.join(map(str, ports))} is free on {socket.gethostname()}: set MASTER_PORT"
    )


def _receive(connection: socket.socket) -> bytes:
    """What has come over a connection, or comes next; empty at its end."""
    try:
        return connection.recv(_LINE)
    except OSError:
        return b""


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _ALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
