"""How fast a ticket runs: torch and compiled code, timed in turn in one process.

In each round every contestant has its turn, and a time is the least of all rounds: processor time of this process with
one thread, which other work on the machine disturbs little, and wall time with several. Torch computes the dense
network in float32 in both memory layouts, and a ratio is to the faster of the two.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from mpt.engine.code import Machine
from mpt.engine.engine import compile
from mpt.files import processor, version
from mpt.search.convert import to_dense
from mpt.ticket.ticket import Ticket

ENGINES = ("lists", "unrolled")
LAYOUTS = ("torch", "torch channels-last")
ROUNDS = 2  # at least
TURN = 0.02  # seconds of a turn, about, where one call takes less
REST = 0.03  # seconds between turns in wall time, in which another library's idle threads stop spinning
CHECKED = 16  # images whose logits are compared
Calls = dict[str, Callable[[], Any]]
Rivals = Callable[[nn.Module, Tensor, int], Calls]  # dense network, images (N, C, H, W), threads -> contestants


def compare_speed(
    ticket: Ticket,
    *,
    batch: int,
    threads: int = 1,
    image_size: int | tuple[int, int] | None = None,
    engines: Sequence[str] = ENGINES,
    rivals: Rivals | None = None,
    seconds: float = 2.0,
) -> dict[str, Any]:
    """Times of a ticket in torch and in the compiled ``engines``, on random images.

    Args:
        ticket: one whose network builds itself.
        batch: images a call.
        threads: of every contestant.
        image_size: as of :func:`mpt.compile`.
        engines: of lists and unrolled.
        rivals: makes further contestants.
        seconds: of the rounds, about; there are two at least.

    Returns:
        ``ms`` an image and ``ratio`` to the faster torch, of each contestant; ``error`` of each engine, its largest
        difference from the logits of torch in float64, by the largest logit; ``built``, seconds of processor time in
        which each engine was made ready; ``clock``, ``rounds``; :func:`circumstances`.

    Raises:
        ValueError: as of :func:`mpt.compile`.
    """
    about = circumstances()
    with _threads_of_torch(threads), torch.no_grad():
        runs, built = {}, {}
        for engine in engines:
            start = time.process_time()
            runs[engine] = compile(ticket, unroll=engine == "unrolled", threads=threads, image_size=image_size)
            built[engine] = time.process_time() - start
        shape = next(iter(runs.values())).shape
        images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
        dense = to_dense(ticket.network()).eval()
        errors = {engine: difference(run, dense, images[:CHECKED]) for engine, run in runs.items()}
        calls = _torch_calls(dense, images) | (rivals(dense, images, threads) if rivals else {})
        calls |= {engine: partial(run, images) for engine, run in runs.items()}
        clock = "cpu" if threads == 1 else "wall"
        times, rounds = time_in_turn(calls, seconds=seconds, clock=clock)
    best = min(times[layout] for layout in LAYOUTS)
    return {
        "batch": batch,
        "threads": threads,
        "image_size": list(shape[1:]),
        "clock": clock,
        "rounds": rounds,
        "ms": {name: 1e3 * t / batch for name, t in times.items()},
        "ratio": {name: best / t for name, t in times.items()},
        "error": errors,
        "built": built,
        **about,
    }


def difference(run: Callable[[Tensor], Tensor], dense: nn.Module, images: Tensor) -> float:
    """Largest difference of the logits of ``run`` from those of ``dense`` in float64, by the largest logit."""
    with torch.no_grad():
        wanted = to_dense(dense).double()(images.double())
    return float((run(images).detach() - wanted).abs().max() / wanted.abs().max())


def _torch_calls(dense: nn.Module, images: Tensor) -> Calls:
    """The dense network in both memory layouts."""
    swapped, last = to_dense(dense).to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    return dict(zip(LAYOUTS, (lambda: dense(images), lambda: swapped(last)), strict=True))


def time_in_turn(calls: Calls, *, seconds: float, clock: str) -> tuple[dict[str, float], int]:
    """Least seconds of a call of each contestant, and the number of rounds.

    Args:
        calls: the contestants.
        seconds: after which no further round begins.
        clock: "cpu" for processor time of this process, "wall" for wall time.
    """
    now = time.process_time if clock == "cpu" else time.perf_counter

    def timed(call: Callable[[], Any], repeats: int) -> float:
        start = now()
        for _ in range(repeats):
            call()
        return (now() - start) / repeats

    end = time.perf_counter() + seconds
    for call in calls.values():
        call()
    least, repeats = dict[str, float](), dict[str, int]()
    for name, call in calls.items():
        start = time.perf_counter()
        least[name] = timed(call, 1)
        repeats[name] = max(1, round(TURN / (time.perf_counter() - start)))
    rounds = 1
    while rounds < ROUNDS or time.perf_counter() < end:
        for name, call in calls.items():
            if clock == "wall":
                time.sleep(REST)
            least[name] = min(least[name], timed(call, repeats[name]))
        rounds += 1
    return least, rounds


def circumstances() -> dict[str, Any]:
    """Date, machine and versions of a measurement, and the load average before it."""
    machine = Machine.host()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": processor(),
        "cores": os.cpu_count(),
        "code": f"{machine.cpu}, vectors of {machine.lanes}",
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {"mpt": version(), "torch": torch.__version__, "llvmlite": metadata.version("llvmlite")},
    }


@contextmanager
def _threads_of_torch(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
