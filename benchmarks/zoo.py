"""The zoo: small tickets that come with mpt, each with its command, accuracy, bits and speed.

    python -m benchmarks.zoo RUNS CIFAR     train what RUNS has not, measure, and write results/tickets

CIFAR is CIFAR-10 as an image folder. Speed is that of ``mpt.compile`` (lists) against the faster layout of torch, for
one picture at a time on one thread, in processor time of one process (:mod:`mpt.engine.speed`).
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from mpt.engine.speed import ENGINES, compare_speed
from mpt.files import processor, write_atomically
from mpt.ticket.ticket import Ticket
from mpt.ticket.zoo import FOLDER, Entry

SMALL = (
    "data=image_folder data.root=CIFAR data.image_size=16 data.train_size=10000 data.flip=true "
    "'data.mean=[0.491,0.482,0.447]' 'data.std=[0.247,0.243,0.262]'"
)
WHOLE = (  # 250 epochs: for a GPU
    "data=image_folder data.root=CIFAR data.crop=4 data.flip=true "
    "'data.mean=[0.491,0.482,0.447]' 'data.std=[0.247,0.243,0.262]' evaluate_every=10"
)
COMMANDS = {
    "digits-conv4": "mpt-train recipe=demo",
    "digits-conv4-95": "mpt-train recipe=demo prune=0.95 method.gains=learned",
    "digits-conv2-1-1": "mpt-train recipe=demo model=conv2 binary_activations=true prune=0.5",
    "digits-mlp": "mpt-train recipe=demo model=mlp prune=0.5",
    "cifar10-conv4": f"mpt-train recipe=fast_conv model=conv4 width=0.5 prune=0.8 {SMALL}",
    "cifar10-conv4-1-1": f"mpt-train recipe=fast_conv_1_1 model=conv4 width=0.5 prune=0.5 {SMALL}",
    "cifar10-resnet18": f"mpt-train recipe=fast_resnet18 width=0.25 {SMALL}",
    "cifar10-conv6": f"mpt-train recipe=mpt_conv_1_32 model=conv6 prune=0.8 {WHOLE}",
}


def train(name: str, runs: Path, cifar: str) -> None:
    """Run the command of ``name`` in its folder; a finished run stays as it is."""
    words = [word.replace("=CIFAR", f"={cifar}") for word in shlex.split(COMMANDS[name])]
    command = Path(sys.executable).with_name(words[0])
    subprocess.run([command, *words[1:], "logger=local", f"hydra.run.dir={(runs / name).resolve()}"], check=True)


def describe(name: str, run: Path) -> Entry:
    """Measure the ticket of a finished run."""
    ticket, result = Ticket.load(run / "ticket.safetensors"), json.loads((run / "result.json").read_text())
    assert ticket.image_shape is not None
    (timed,) = compare_speed(ticket, batch=1, image_size=ticket.image_shape[1], engines=ENGINES[:1], seconds=3)
    return Entry(
        name=name,
        command=COMMANDS[name],
        test_acc=round(result["test_acc"], 4),
        num_test=result["num_test"],
        num_weights=ticket.num_weights,
        prune=round(1 - ticket.density, 4),
        binary_activations=ticket.header["binary_activations"] is not None,
        bits_per_weight=round(result["file_bits_per_weight"], 3),
        speedup=round(timed["ratio"]["lists"], 1),
        hardware=processor(),
        digest=ticket.digest,
    )


def table(entries: list[Entry]) -> str:
    """The rows of results/tickets/README.md."""
    rows = [
        "| `mpt.zoo.load` | test accuracy | activations | pruned | weights | bits a weight (file) | times torch |",
        "|---|---|---|---|---|---|---|",
    ]
    for e in entries:
        bits = "1 bit" if e.binary_activations else "real"
        rows.append(
            f"| `{e.name}` | {100 * e.test_acc:.2f} % of {e.num_test:,} | {bits} | {100 * e.prune:.0f} % | "
            f"{e.num_weights:,} | {e.bits_per_weight:.3f} | {e.speedup:.1f} |"
        )
    return "\n".join([*rows, "", "```", *(f"{e.command}  # {e.name}" for e in entries), "```", ""])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("cifar")
    arguments = parser.parse_args()
    found = []
    for name in sorted(COMMANDS):
        train(name, arguments.runs, arguments.cifar)
        found.append(describe(name, arguments.runs / name))
        shutil.copyfile(arguments.runs / name / "ticket.safetensors", FOLDER / f"{name}.safetensors")
    write_atomically(FOLDER / "tickets.json", json.dumps([asdict(entry) for entry in found], indent=1) + "\n")
    head = (FOLDER / "README.md").read_text().partition("| `mpt.zoo.load`")[0]
    write_atomically(FOLDER / "README.md", head + table(found))
