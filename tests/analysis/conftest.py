"""Folders of runs in the layout of mpt-train: one ``result.json`` per run, with a nested configuration."""

from __future__ import annotations

import json

import pytest

from mpt.analysis import load


def result(**changed):
    """A ``result.json``; ``changed`` sets its keys or, with two underscores, keys of groups in its configuration."""
    row = {"model": "conv2", "method": "biprop", "data": "digits", "width": 1.0, "prune": 0.5, "epochs": 10, "seed": 0}
    row |= {"num_test": 10_000, "num_weights": 1000, "seconds": 20.0}
    row |= {key: value for key, value in changed.items() if "__" not in key and key not in ("config",)}
    row.setdefault("num_kept", 1000 if row["method"] == "dense" else round(1000 * (1 - row["prune"])))
    config = {key: row[key] for key in ("prune", "width", "epochs", "seed")}
    config |= {
        "binary_activations": False,
        "learn_batchnorm": False,
        "spline_t": 1.0,
        "batch": 128,
        "runs": "/somewhere",
        "dense": [],
    }
    config |= {key: row[key] for key in ("binary_activations", "learn_batchnorm", "spline_t") if key in row}
    config |= {group: {"name": row[group]} for group in ("model", "method", "data")}
    config |= {"optim": {"name": "sgd", "lr": 0.1}, "logger": {"name": "local"}}
    config |= {"trainer": {"devices": "auto", "limit_batches": None, "sync_batchnorm": False, "channels_last": True}}
    for key, value in changed.items():
        group, mark, name = key.partition("__")
        if mark:
            config[group][name] = value
    return {"status": "done", "test_acc": 0.5, **row, "config": config, "versions": {"torch": "2.14"}}


def write(folder, *rows):
    """Write each row into its own directory below ``folder``."""
    for number, row in enumerate(rows):
        directory = folder / f"run{len(list(folder.glob('run*'))):03d}-{number}"
        directory.mkdir(parents=True)
        (directory / "result.json").write_text(json.dumps(row))
    return folder


def curve(accs, *, seeds=(0, 1, 2), scatter=0.01, **same):
    """Rows of one line, P -> mean accuracy, over ``seeds`` whose accuracies lie ``scatter`` apart."""
    middle = sum(seeds) / len(seeds)
    return [
        result(prune=prune, seed=seed, test_acc=acc + scatter * (seed - middle), **same)
        for prune, acc in accs.items()
        for seed in seeds
    ]


@pytest.fixture
def table(tmp_path):
    """``table(*rows)`` loads the table of a folder that holds these results."""

    def build(*rows):
        return load(write(tmp_path / f"runs{len(list(tmp_path.iterdir()))}", *rows))

    return build
