"""Compiled tickets against torch, in turn in one process: ``python -m benchmarks.engine [--out FILE.json] [NAME ...]``.

Tickets of random masks, seed 0, 32x32 images, one thread. A time is process CPU time, the least of all rounds; in each
round every contestant has its turn. The ratio is to the better of torch's two memory layouts. onnxruntime joins where
it is installed with onnx and onnxscript: float32, and int8 with weights and activations quantised.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mpt
from mpt.engine.code import Machine

NAMES = ("conv4", "conv6", "cifar_resnet18", "conv6 1/1", "vgg_small 1/1")
PRUNES, BATCHES = (0.5, 0.7, 0.8, 0.9, 0.95), (1, 64)
SECONDS = 6.0  # for the rounds of one row, about
GOALS = {  # least ratio to torch by prune, batch 1 and 64
    "lists": {0.7: (1.8, 1.2), 0.8: (2.6, 1.8), 0.9: (5, 3.2), 0.95: (9, 6)},
    "unrolled": {0.7: (2, 2.2), 0.8: (3.8, 3.5), 0.9: (8, 5.5), 0.95: (11, 8)},
}
Contestants = dict[str, Callable[[], Any]]


def ticket_of(name: str, *, prune: float) -> mpt.Ticket:
    """The random-mask ticket of ``name``, a backbone; `` 1/1`` behind it asks for binary activations."""
    backbone, _, binary = name.partition(" ")
    options = {"binary_activations": True} if binary else {}
    net = getattr(mpt.backbones, backbone)(**(options if backbone == "vgg_small" else {}))
    return mpt.Ticket.from_network(mpt.convert(net, mpt.Biprop(prune=prune), seed=0, **options))


def compile_all(ticket: mpt.Ticket) -> tuple[Contestants, dict[str, float]]:
    """Both engines, and the seconds of CPU time that it took to build them (from the cache where it has them)."""
    runs: dict[str, Any] = {}
    seconds = {}
    for mode in ("lists", "unrolled"):
        start = time.process_time()
        runs[mode] = mpt.compile(ticket, unroll=mode == "unrolled", threads=1, image_size=32)
        seconds[mode] = time.process_time() - start
    return runs, seconds


def rivals(dense: torch.nn.Module, images: torch.Tensor) -> Contestants:
    """Torch in two layouts, and onnxruntime where it is installed."""
    last, swapped = torch.channels_last, dense
    swapped = mpt.to_dense(dense).to(memory_format=last)
    pictures = images.to(memory_format=last)
    found: Contestants = {"torch": lambda: dense(images), "torch channels-last": lambda: swapped(pictures)}
    with contextlib.suppress(ImportError):
        found |= _onnxruntime(dense, images)
    return found


def _onnxruntime(dense: torch.nn.Module, images: torch.Tensor) -> Contestants:
    import onnxruntime
    import onnxscript  # noqa: F401
    from onnxruntime import quantization

    class Batches(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"images": images.numpy()}]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    folder = Path(tempfile.mkdtemp())
    torch.onnx.export(dense, (images,), folder / "net.onnx", input_names=["images"], dynamo=True, verbose=False)
    quantization.quantize_static(folder / "net.onnx", folder / "int8.onnx", Batches(), per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    found: Contestants = {}
    for name, file in (("onnxruntime", "net.onnx"), ("onnxruntime int8", "int8.onnx")):
        session = onnxruntime.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
        found[name] = lambda session=session: session.run(None, {"images": images.numpy()})
    return found


def measure(contestants: Contestants, *, seconds: float) -> dict[str, float]:
    """Least CPU seconds of one call of each, over rounds in which each has its turn."""
    once = {name: _timed(call, 1) for name, call in contestants.items()}
    repeats = {name: max(1, round(0.02 / max(t, 1e-6))) for name, t in once.items()}
    best, end = dict(once), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in contestants.items():
            best[name] = min(best[name], _timed(call, repeats[name]))
    return best


def _timed(call: Callable[[], Any], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


def row(name: str, *, prune: float, batch: int, seconds: float) -> dict[str, Any]:
    """One row: times in ms, ratios to the better torch, the difference of the logits, seconds to build."""
    ticket = ticket_of(name, prune=prune)
    runs, built = compile_all(ticket)
    dense = mpt.to_dense(ticket.network()).eval()
    images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = dense.double()(images.double())
        dense.float()
        errors = {mode: float((run(images) - wanted).abs().max() / wanted.abs().max()) for mode, run in runs.items()}
        calls = {mode: lambda run=run: run(images) for mode, run in runs.items()}
        times = measure(rivals(dense, images) | calls, seconds=seconds)
    best = min(times["torch"], times["torch channels-last"])
    ratios = {k: best / t for k, t in times.items()}
    about = {"name": name, "prune": prune, "batch": batch, "kept": ticket.num_kept}
    return about | {"ms": {k: 1e3 * t for k, t in times.items()}, "ratio": ratios, "error": errors, "built": built}


def line(found: dict[str, Any]) -> str:
    """A row for people; ``<`` marks a ratio below its goal."""
    words = [f"{found['name']:15} P={found['prune']:<4} n={found['batch']:<2}"]
    for key, ratio in found["ratio"].items():
        goal = GOALS.get(key, {}).get(found["prune"], (0, 0))[found["batch"] > 1] if "1/1" not in found["name"] else 0
        words.append(f"{key} {found['ms'][key]:.3f} ms {ratio:.2f}x{'<' if ratio < goal else ''}")
    built = " ".join(f"{seconds:.2f}" for seconds in found["built"].values())
    return " | ".join([*words, f"error {max(found['error'].values()):.0e} | built {built} s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--prune", type=float, nargs="*", default=PRUNES)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.names:
        for prune in options.prune:
            for batch in BATCHES:
                rows.append(row(name, prune=prune, batch=batch, seconds=options.seconds))
                print(line(rows[-1]), flush=True)
    if options.out:
        machine = {"cpu": Machine.host().cpu, "lanes": Machine.host().lanes, "torch": torch.__version__}
        options.out.write_text(json.dumps({"machine": machine, "system": platform.platform(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
