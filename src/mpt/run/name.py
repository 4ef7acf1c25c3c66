"""The identity of a run and its name. Both follow from its settings alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from mpt.files import digest
from mpt.run.layout import count_processes
from mpt.run.settings import FinetuneSettings, Settings, dials, plain

FOLDERS = ("image_folder", "imagenet")  # data sets that data.root identifies


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's plain settings on which its ticket depends, flat: ``optim.lr`` -> 0.1 and so on."""
    kinds = ("result", "input", "folder") if config["data"]["name"] in FOLDERS else ("result", "input")
    kept = {key: value for key, value in flat(config).items() if purpose(key) in kinds}
    processes = count_processes(config["trainer"])  # wherever they are: the same bits
    return kept | {"trainer.devices": "auto" if processes == 1 else processes, "trainer.num_nodes": 1}


def purpose(key: str) -> str:
    """What the parameter with this dotted name is ``of``; an argument of an open group takes the group's."""
    known = _purposes()
    while key and key not in known:
        key = key.rpartition(".")[0]
    return known.get(key, "result")


@cache
def _purposes() -> dict[str, str]:
    return {name: f.metadata["of"] for name, f in dials(FinetuneSettings)}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One dictionary with dotted keys from nested dictionaries."""
    flattened: dict[str, Any] = {}
    for key, value in config.items():
        flattened |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flattened


def run_digest(settings: Settings) -> str:
    """Digest of everything on which a run's ticket depends, 32 hexadecimal digits; checkpoints carry it."""
    return digest(json.dumps(identity(plain(settings)), sort_keys=True).encode())


def run_name(settings: Settings) -> str:
    """Readable name of a run: its main settings, and a hash of everything on which its ticket depends."""
    selection = settings.method.arguments.get("selection", "layerwise")
    relevant = json.dumps(identity(plain(settings)), sort_keys=True)
    parts = [
        settings.model.name,
        settings.data.name,
        settings.method.name,
        *([selection] if selection != "layerwise" else []),
        f"p{settings.prune:g}",
        f"w{settings.width:g}",
        *(["1_1"] if settings.binary_activations else []),
        *(["bn"] if settings.learn_batchnorm else []),
        *([settings.trainer.precision] if settings.trainer.precision != "32-true" else []),
        f"e{settings.epochs}",
        f"s{settings.seed}",
        hashlib.sha256(relevant.encode()).hexdigest()[:6],
    ]
    return "-".join(re.sub(r"[^\w.]+", "_", str(part)) for part in parts)
