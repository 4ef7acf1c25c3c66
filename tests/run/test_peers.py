from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress

import pytest

from mpt.processes import Group
from mpt.run import peers
from mpt.run.peers import meet, set_address

CODE = """
import os, sys, time
from mpt.run import peers
peers.PATIENCE, peers._ANSWER = 20, 0.5
others = peers.meet()
del os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]  # a later run may have other ones
for line in sys.stdin:
    exec(line)
    print("did it", flush=True)
"""
MEET = "others.meet(); others.team.rank or others.let_go()"


class Process(subprocess.Popen):
    """A process of ``CODE``, which is told what to do."""

    def do(self, code):
        self.stdin.write(code + "\n")
        self.stdin.flush()

    def has_done(self):
        return self.stdout.readline() == "did it\n"


@pytest.fixture
def port(monkeypatch):
    """A port of torchrun's, from which those of the peers follow."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def started(count, port, *, host="127.0.0.1"):
    """As many processes as torchrun would start; they are connected at the latest when they meet."""
    with ExitStack() as stack:
        processes = []
        for rank in range(count):
            variables = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "RANK": rank}
            variables |= {"LOCAL_RANK": rank, "MASTER_ADDR": host, "MASTER_PORT": port}
            processes.append(
                Process(
                    [sys.executable, "-c", CODE],
                    env=os.environ | {key: str(value) for key, value in variables.items()},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.enter_context(processes[-1])
            stack.callback(processes[-1].kill)
        yield processes


def met(processes):
    for process in processes:
        process.do(MEET)
    return [process.has_done() for process in processes] == [True] * len(processes)


def last_words(process):
    return process.communicate(timeout=60)[1].splitlines()[-1]


def test_a_process_that_is_killed_is_known_to_the_first_and_the_end_of_the_first_to_all(port):
    with started(3, port) as (first, second, third):
        assert met([first, second, third])
        for process in (first, third):
            process.do("while not others.ended: time.sleep(0.01)")
        second.kill()
        assert first.has_done()
        first.do("others.check(1)")
        assert last_words(first).startswith("ValueError: process 2 of 3 of this run has ended: what it printed says")
        assert third.has_done()  # the first one has ended
        third.do("others.check(0)")
        assert last_words(third).startswith("mpt.errors.ToldElsewhereError: process 1 of 3 of this run has ended")


def test_a_process_that_is_killed_before_all_have_come_is_not_waited_for(port):
    with started(3, port) as (first, second, _):
        second.do("while not others._connected: time.sleep(0.01)")
        assert second.has_done()
        first.do("while 1 not in others._connected: time.sleep(0.01)")
        assert first.has_done()
        second.kill()
        first.do(MEET)
        assert "process 2 of 3 of this run has ended" in last_words(first)


def test_a_process_that_stands_still_is_waited_for(port):
    with started(2, port) as (first, second):
        second.do("while not others._connected: time.sleep(0.01)")
        assert second.has_done()
        second.send_signal(signal.SIGSTOP)
        first.do("time.sleep(1); print(others.ended, flush=True)")
        assert first.stdout.readline() == "set()\n"
        assert first.has_done()
        second.send_signal(signal.SIGCONT)
        assert met([first, second])


def test_a_process_whose_fork_lives_on_has_ended(port):
    with started(2, port) as (first, second):
        assert met([first, second])
        second.do("pid = os.fork(); pid or time.sleep(60); print(pid, flush=True)")
        fork = int(second.stdout.readline())
        second.kill()
        first.do("while not others.ended: time.sleep(0.01)")
        assert first.has_done()
        os.kill(fork, signal.SIGKILL)


def test_a_first_process_that_never_begins_is_given_up_with_a_sentence(port):
    with started(2, port) as (first, second):
        first.kill()
        second.do(f"peers.SILENCE = 0; others._begin -= 20; {MEET}")
        lines = second.communicate(timeout=60)[1].splitlines()
    assert lines[0] == "waiting for process 1 of 2, 0 minutes at most"
    assert "did not meet at 127.0.0.1:" in lines[-1]


def test_it_is_said_once_who_has_not_begun(port):
    with started(12, port) as processes:
        first, second, third, *rest = processes
        for process in rest:
            process.kill()
        for process in (second, third):
            process.do("while not others._connected: time.sleep(0.01)")
            assert process.has_done()
        for process in (first, second):
            process.do(f"peers.SILENCE = 0; peers.PATIENCE = 1; {MEET}")
        said = [process.communicate(timeout=60)[1].splitlines() for process in (first, second)]
    waiting = [[line for line in lines if line.startswith("waiting")] for lines in said]
    assert waiting == [["waiting for processes 4, 5, 6, 7, 8, 9, 10, 11 and 1 more of 12, 0 minutes at most"], []]


def test_a_first_machine_whose_name_nobody_knows_is_said_soon(port):
    with started(2, port, host="nowhere.invalid") as (_, second):
        second.do(f"peers.NAMES = 0; {MEET}")
        words = last_words(second)
    assert "is at nowhere.invalid, which" in words
    assert words.endswith("does not know: set MASTER_ADDR to a name or an address that all its machines know")


def test_ports_that_others_use_are_passed_by(port):
    with ExitStack() as stack:
        for number in peers._ports(port)[:2]:  # one that never answers
            with suppress(OSError):  # another program's is as good
                stack.enter_context(socket.create_server(("127.0.0.1", number)))
        with started(2, port) as processes:
            assert met(processes)


def test_a_stranger_is_no_peer(port):
    with started(2, port) as (first, second):
        first.do("pass")
        assert first.has_done()
        for said in (b"GET / HTTP/1.0\r\n\r\n", b"1 mpt of another run\n", b"\xff" * 100, b""):
            with socket.create_connection(("127.0.0.1", peers._ports(port)[0]), timeout=20) as stranger:
                stranger.sendall(said)
                stranger.shutdown(socket.SHUT_WR)
                assert stranger.recv(10) == b""
        assert met([first, second])


def test_a_process_that_stands_alone_has_no_peers():
    assert meet() is None


@pytest.mark.parametrize(
    ("nodes", "first"), [("node[03-05,9],login", "node03"), ("a1", "a1"), ("gpu[7],x", "gpu7"), ("b,a[1-2]", "b")]
)
def test_the_processes_of_srun_meet_at_the_first_machine_of_their_step(monkeypatch, nodes, first):
    for name, value in {"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    set_address(Group("srun", 2, 1, 0))
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == (first, str(15_000 + 17 * 7 + 1))


@pytest.mark.parametrize(
    ("host", "port"), [("a", "abc"), ("a", "65536"), ("a", "-1"), ("a", "0"), ("a", ""), ("", "1")]
)
def test_an_address_that_is_none_is_refused_before_anything_listens(monkeypatch, host, port):
    monkeypatch.setenv("MASTER_ADDR", host)
    monkeypatch.setenv("MASTER_PORT", port)
    with pytest.raises(ValueError, match=r"got .* set both, or neither under srun"):
        peers.Peers(Group("torchrun", 2, 1, 0))
