"""A composed configuration to what is run: plain, checked, with a name that follows from it alone. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mpt.run.settings import check


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain containers."""
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def configured(composed: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The checked plain configuration of a run: of a search or, where a ``ticket`` is named, of its fine-tuning."""
    if "ticket" not in composed:
        return prepared(composed)
    from mpt.experiment.finetune import completed

    return rooted(completed(composed, {override.partition("=")[0].lstrip("+") for override in overrides}))


def prepared(composed: DictConfig) -> dict[str, Any]:
    """The checked plain configuration of a run, with the folder of its data absolute: what is run, and names it."""
    check(composed)
    made = rooted(plain(composed))
    if made["budget"] and not made["sweep"]:
        raise ValueError("budget is the size of an experiment: say which with sweeps=<name>")
    return made


def rooted(config: dict[str, Any]) -> dict[str, Any]:
    """The plain configuration with the folder of its data absolute."""
    if config["data"]["root"]:
        config["data"]["root"] = str(Path(config["data"]["root"]).expanduser().resolve())
    return config


def affects_result(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a plain configuration on which the ticket depends, flat: ``optim.lr`` -> 0.1 and so on."""
    # what a recipe, a protocol or a sweep sets is in the others, a ticket in its digest
    without = {"runs", "logger", "recipe", "protocol", "sweep", "budget", "ticket", "report"}
    kept = {key: value for key, value in config.items() if key not in without}
    kept["trainer"] = {
        key: value
        for key, value in config["trainer"].items()
        if key in ("devices", "num_nodes", "precision", "sync_batchnorm", "channels_last", "limit_batches")
    }
    unimportant = {"download", "cache", "stream", "workers"}
    unimportant |= set() if config["data"]["name"] in ("image_folder", "imagenet") else {"root"}
    kept["data"] = {key: value for key, value in config["data"].items() if key not in unimportant}
    return flat(kept)


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries to one with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


def run_name(config: dict[str, Any]) -> str:
    """Readable name of a run that follows from its configuration alone: what it is, and a hash of everything else."""
    selection = config["method"].get("selection", "layerwise")
    relevant = json.dumps(affects_result(config), sort_keys=True)
    parts = [
        config["model"]["name"],
        config["data"]["name"],
        config["method"]["name"],
        *([selection] if selection != "layerwise" else []),
        f"p{config['prune']:g}",
        f"w{config['width']:g}",
        *(["1_1"] if config["binary_activations"] else []),
        *(["bn"] if config["learn_batchnorm"] else []),
        f"e{config['epochs']}",
        f"s{config['seed']}",
        hashlib.sha256(relevant.encode()).hexdigest()[:6],
    ]
    return "-".join(re.sub(r"[^\w.]+", "_", str(part)) for part in parts)
