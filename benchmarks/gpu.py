"""Training steps on a CUDA GPU, dense and searched, plain and recorded as a CUDA graph: ``python -m benchmarks.gpu``.

One process; the variants of a row take turns. A number is the median over rounds of the milliseconds of a step, by CUDA
events around a block of steps. ``full sort`` is the published algorithm in the same layers.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.searches import biprop, dense, full_sort
from mpt import backbones
from mpt.data import Batch
from mpt.experiment.recorded import RecordedStep, Step

NETWORKS: dict[str, Callable[[], nn.Module]] = {"conv6": backbones.conv6, "cifar_resnet18": backbones.cifar_resnet18}
KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {"dense": dense, "biprop": biprop, "full sort": full_sort}
BLOCK, ROUNDS = 5, 7


def step_of(net: nn.Module, *, batch: int, precision: str, recorded: bool) -> Callable[[], None]:
    """A training step of ``net`` on ``batch`` random images, with torch's fused SGD."""
    net = net.cuda().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images = torch.randn(batch, 3, 32, 32, device="cuda").to(memory_format=torch.channels_last)
    data = Batch(images, torch.randint(10, (batch,), device="cuda"), 1.0)
    learned = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)

    def compute(data: Batch) -> Step:
        logits = net(data.images)
        loss = F.cross_entropy(logits, data.labels)
        return Step(loss, loss, logits)

    record = RecordedStep(compute, net) if recorded else None

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            if record:
                record(data)
            else:
                optimizer.zero_grad()
                loss = compute(data).loss
        if not record:
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def block(step: Callable[[], None]) -> float:
    """Milliseconds of a step, over a block of them."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(BLOCK):
        step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / BLOCK


def rows(networks: list[str], batches: list[int], precisions: list[str]) -> Iterator[dict[str, Any]]:
    """One row of medians for each network, batch and precision."""
    for name in networks:
        for batch in batches:
            for precision in precisions:
                steps = {
                    f"{kind}{' recorded' if recorded else ''}": step_of(
                        make(NETWORKS[name]()), batch=batch, precision=precision, recorded=recorded
                    )
                    for kind, make in KINDS.items()
                    for recorded in (False, True)
                    if not (recorded and kind == "full sort")
                }
                for step in steps.values():
                    for _ in range(5):
                        step()
                times: dict[str, list[float]] = {kind: [] for kind in steps}
                for _ in range(ROUNDS):
                    for kind, step in steps.items():
                        times[kind].append(block(step))
                median = {kind: statistics.median(values) for kind, values in times.items()}
                yield {"network": name, "batch": batch, "precision": precision, "milliseconds": median}
                steps.clear()
                gc.collect()
                torch.cuda.empty_cache()


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--precision", nargs="+", default=["float32", "bf16"], choices=["float32", "bf16"])
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN time its algorithms first")
    parser.add_argument("-o", type=Path, default=None, help="JSON file")
    arguments = parser.parse_args()
    torch.backends.cudnn.benchmark = arguments.cudnn_benchmark
    about = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": arguments.cudnn_benchmark,
        "rounds": ROUNDS,
    }
    print(about, flush=True)
    found = []
    for row in rows(arguments.networks, arguments.batch, arguments.precision):
        ms = row["milliseconds"]
        print(
            f"{row['network']:<15} {row['batch']:>4} {row['precision']:<8}"
            + "".join(f"  {kind} {value:.2f}" for kind, value in ms.items())
            + f"  biprop/dense {ms['biprop'] / ms['dense']:.3f}"
            + f"  recorded {ms['biprop recorded'] / ms['dense recorded']:.3f}",
            flush=True,
        )
        found.append(row)
        if arguments.o:
            arguments.o.write_text(json.dumps({"about": about, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
