"""Times in turn: who takes part, what a row says, and what is put back."""

from __future__ import annotations

import threading
import time

import pytest
import torch

import mpt
from mpt.engine import speed
from tests.engine.networks import ticket


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "clock"), [(1, "cpu"), (2, "wall")])
def test_a_row_has_times_ratios_and_differences(threads, clock):
    seen, before = [], torch.get_num_threads()

    def rivals(dense, images, threads):
        seen.append((images.shape, threads, torch.get_num_threads()))
        return {"twice": lambda: (dense(images), dense(images))}

    found = ticket(mpt.backbones.conv2(width=0.1, image_size=8), prune=0.8)
    [row] = speed.compare_speed(found, batch=3, threads=threads, rivals=rivals, seconds=0.01)
    assert seen == [((3, 3, 8, 8), threads, threads)]
    assert torch.get_num_threads() == before
    assert list(row["ms"]) == ["torch", "torch channels-last", "twice", "lists", "unrolled"]
    assert row["ratio"].keys() == row["ms"].keys()
    assert all(ms > 0 for ms in row["ms"].values())
    best = min(row["ms"]["torch"], row["ms"]["torch channels-last"])
    assert row["ratio"]["lists"] == pytest.approx(best / row["ms"]["lists"])
    assert row["error"].keys() == row["built"].keys() == {"lists", "unrolled"}
    assert max(row["error"].values()) < 2e-5
    assert (row["batch"], row["threads"], row["image_size"], row["clock"]) == (3, threads, [8, 8], clock)
    assert row["rounds"] >= speed.ROUNDS
    assert row["machine"]
    assert (row["wall_ms"] == row["ms"]) == (clock == "wall")
    both = ["torch", "torch channels-last", "lists", "unrolled"]
    assert list(row["one_thread_ms"]) == (both if threads == 2 else [])
    assert row["versions"]["torch"] == torch.__version__


def test_tickets_of_one_network_share_what_torch_takes():
    tickets = [ticket(mpt.backbones.conv2(width=0.1, image_size=8), prune=prune) for prune in (0.5, 0.9)]
    one, two = speed.compare_speed(*tickets, batch=2, engines=["lists"], seconds=0.01)
    assert one["ms"]["torch"] == two["ms"]["torch"]
    assert one["ms"]["lists"] != two["ms"]["lists"]
    assert one["error"] != two["error"]
    assert max(one["error"]["lists"], two["error"]["lists"]) < 2e-5


def test_every_contestant_has_its_turn_in_every_round(monkeypatch):
    monkeypatch.setattr(speed, "REST", 0.001)
    turns = []
    calls = {name: lambda name=name: (turns.append(name), time.sleep(0.02)) for name in "abc"}
    least, rounds = speed.time_in_turn(calls, seconds=0)
    assert turns == ["a", "b", "c"] * (1 + rounds)
    assert rounds == speed.ROUNDS
    assert all(t >= 0.02 for t in least["wall"].values())
    assert all(t < 0.01 for t in least["cpu"].values())


def test_a_turn_begins_when_other_threads_have_stopped_spinning(monkeypatch):
    monkeypatch.setattr(speed, "REST", 0.3)  # on a busy machine the thread may get no processor for a while
    monkeypatch.setattr(speed, "MOST_REST", 60)
    ended = []

    def spin():
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass
        ended.append(time.perf_counter())

    threading.Thread(target=spin).start()
    speed.wait_until_idle()
    assert ended


def test_a_difference_is_by_the_largest_logit():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False)).eval()
    torch.nn.init.ones_(net[1].weight)
    images = torch.full((1, 1, 2, 2), 5.0)
    assert speed.difference(lambda images: net(images) + 1, net, images) == pytest.approx(0.05)
