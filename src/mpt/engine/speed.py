"""How fast a ticket runs: torch and compiled code, timed in turn in one process.

In each round every contestant has its turn, and a time is the least of all rounds: processor time of this process with
one thread, which other work on the machine disturbs little, and wall time with several. Torch computes the dense
network in float32 in both memory layouts, and a ratio is to the faster of the two.
"""

from __future__ import annotations

import math
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
from mpt.engine.engine import Run, compile
from mpt.files import processor, version
from mpt.search.convert import to_dense
from mpt.ticket.ticket import Ticket

ENGINES = ("lists", "unrolled")
LAYOUTS = ("torch", "torch channels-last")
ROUNDS = 2  # at least
TURN = 0.02  # seconds of a turn, about, where one call takes less
REST = 0.03  # seconds between turns, at least
MOST_REST = 2.0  # seconds until idle threads of other libraries have stopped spinning
IDLE = 0.02  # of a processor that a process at rest may use
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}
ALONE = ", one thread"  # of a contestant beside itself with several
CHECKED = 16  # images whose logits are compared
Calls = dict[str, Callable[[], Any]]
Rivals = Callable[[nn.Module, Tensor, int], Calls]  # dense network, images (N, C, H, W), threads -> contestants


def compare_speed(
    *tickets: Ticket,
    batch: int,
    threads: int = 1,
    image_size: int | tuple[int, int] | None = None,
    engines: Sequence[str] = ENGINES,
    rivals: Rivals | None = None,
    seconds: float = 2.0,
) -> list[dict[str, Any]]:
    """Times of tickets in torch and in the compiled ``engines``, on random images: a row for each ticket.

    Args:
        tickets: of one network, which builds itself. What they prune does not matter to torch and other dense rivals,
            whose times are those of the first.
        batch: images a call.
        threads: of every contestant.
        image_size: as of :func:`mpt.compile`.
        engines: of lists and unrolled.
        rivals: makes further contestants.
        seconds: of the rounds, about; there are two at least.

    Returns:
        ``ms`` an image by ``clock``, and ``ratio`` to the faster torch, of each contestant; ``wall_ms``;
        ``one_thread_ms``, with several threads, of torch and the engines with one in the same rounds; ``error`` of each
        engine, its largest difference from the logits of torch in float64, by the largest logit; ``built``,
        seconds of processor time in which each engine was made ready; ``rounds``; :func:`circumstances`.

    Raises:
        ValueError: as of :func:`mpt.compile`.
    """
    about = circumstances()
    with _threads_of_torch(threads), torch.no_grad():
        made = [_compiled(ticket, engines, threads=threads, image_size=image_size) for ticket in tickets]
        alone = [_compiled(t, engines, threads=1, image_size=image_size)[0] if threads > 1 else {} for t in tickets]
        shape = next(iter(made[0][0].values())).shape
        images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
        nets = [to_dense(ticket.network()).eval() for ticket in tickets]
        errors = [
            {engine: difference(run, dense, images[:CHECKED]) for engine, run in runs.items()}
            for dense, (runs, _) in zip(nets, made, strict=True)
        ]
        calls = _torch_calls(nets[0], images) | (rivals(nets[0], images, threads) if rivals else {})
        shared = list(calls)
        for i, (runs, _) in enumerate(made):
            calls |= {f"{engine} {i}": partial(run, images) for engine, run in runs.items()}
            calls |= {f"{engine} {i}{ALONE}": partial(run, images) for engine, run in alone[i].items()}
        if threads > 1:
            calls |= {f"{layout}{ALONE}": partial(_in_one_thread, calls[layout]) for layout in LAYOUTS}
        least, rounds = time_in_turn(calls, seconds=seconds)
    clock = "cpu" if threads == 1 else "wall"
    case = {"batch": batch, "threads": threads, "image_size": list(shape[1:]), "clock": clock, "rounds": rounds}
    rows = []
    for i, (_, built) in enumerate(made):
        own = {name: name for name in shared} | {engine: f"{engine} {i}" for engine in engines}
        ms, wall = ({name: 1e3 * least[by][key] / batch for name, key in own.items()} for by in (clock, "wall"))
        best = min(ms[layout] for layout in LAYOUTS)
        ratio = {name: best / t for name, t in ms.items()}
        one = {name: 1e3 * least[clock][key + ALONE] / batch for name, key in own.items() if key + ALONE in calls}
        times = {"ms": ms, "ratio": ratio, "wall_ms": wall, "one_thread_ms": one}
        rows.append({**case, **times, "error": errors[i], "built": built, **about})
    return rows


def measure_briefly(ticket: Ticket, *, size: int | None = None) -> dict[str, Any]:
    """:func:`compare_speed` of lists in about a second; under ``refused`` the sentence that says why there is none."""
    try:
        return compare_speed(ticket, batch=1, image_size=size, engines=["lists"], seconds=0.5)[0]
    except ValueError as error:
        return {"refused": str(error)}


def _compiled(ticket: Ticket, engines: Sequence[str], **options: Any) -> tuple[dict[str, Run], dict[str, float]]:
    """The ticket by each of ``engines``, and the seconds of processor time that this took."""
    runs, built = dict[str, Run](), dict[str, float]()
    for engine in engines:
        start = time.process_time()
        runs[engine] = compile(ticket, unroll=engine == "unrolled", **options)
        built[engine] = time.process_time() - start
    return runs, built


def difference(run: Callable[[Tensor], Tensor], dense: nn.Module, images: Tensor) -> float:
    """Largest difference of the logits of ``run`` from those of ``dense`` in float64, by the largest logit."""
    with torch.no_grad():
        wanted = to_dense(dense).double()(images.double())
    return float((run(images).detach() - wanted).abs().max() / wanted.abs().max())


def _torch_calls(dense: nn.Module, images: Tensor) -> Calls:
    """The dense network in both memory layouts."""
    swapped, last = to_dense(dense).to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    return dict(zip(LAYOUTS, (lambda: dense(images), lambda: swapped(last)), strict=True))


def _in_one_thread(call: Callable[[], Any]) -> None:
    """A call of torch, which takes as many threads as are set when it begins."""
    with _threads_of_torch(1):
        call()


def time_in_turn(calls: Calls, *, seconds: float) -> tuple[dict[str, dict[str, float]], int]:
    """Least seconds of a call of each contestant by each clock, "cpu" and "wall", and the number of rounds.

    Args:
        calls: the contestants.
        seconds: after which no further round begins.
    """
    least: dict[str, dict[str, float]] = {clock: dict.fromkeys(calls, math.inf) for clock in CLOCKS}
    repeats, rounds, end = dict.fromkeys(calls, 1), 0, time.perf_counter() + seconds
    for call in calls.values():
        call()
    while rounds < ROUNDS or time.perf_counter() < end:
        for name, call in calls.items():
            wait_until_idle()
            starts = {clock: now() for clock, now in CLOCKS.items()}
            for _ in range(repeats[name]):
                call()
            for clock, now in CLOCKS.items():
                took = (now() - starts[clock]) / repeats[name]
                if took > 0:  # under a limit of processor time, its clock goes on a few hundred times a second
                    least[clock][name] = min(least[clock][name], took)
        if rounds == 0:
            repeats = {name: max(1, round(TURN / t)) for name, t in least["wall"].items()}
        rounds += 1
    return least, rounds


def wait_until_idle() -> None:
    """Sleep until this process uses no processor: other libraries' threads spin for a while when they have no work."""
    end = time.perf_counter() + MOST_REST
    while True:
        used, began = time.process_time(), time.perf_counter()
        time.sleep(REST)
        now = time.perf_counter()
        if time.process_time() - used <= IDLE * (now - began) or now >= end:
            return


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
