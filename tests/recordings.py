"""What W&B's and TensorBoard's own readers say of the files that loggers wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def leet(*words):
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


class Recording:
    """An offline recording of W&B: ``run``, ``history`` (a dictionary for each step), ``summary``, ``files``."""

    def __init__(self, folder):
        self.folder = Path(folder)
        path = next(self.folder.glob("run-*.wandb"))
        self.records = [json.loads(line) for line in leet("--json", str(path)).splitlines()]
        self.run = next(record["run"] for record in self.records if record["type"] == "run")
        self.history = [record["history"]["item"] for record in self.records if record["type"] == "history"]
        self.about = json.loads(leet("--summary", "--json", str(path)))
        self.summary = self.about["summary"]
        self.artifacts = [record["artifact"]["name"] for record in self.records if record["type"] == "artifact"]

    def table(self, name):
        """Columns and rows of the table of this name."""
        content = json.loads((self.folder / "files" / self.value(name)["path"]).read_text())
        return content["columns"], content["data"]

    def picture(self, name):
        """The pixels of the picture of this name."""
        import numpy as np
        from PIL import Image

        return np.asarray(Image.open(self.folder / "files" / self.value(name)["path"]))

    def value(self, name):
        """The parts of the table, picture or histogram of this name, which was logged once."""
        start = f"{name}."  # before the parts, which W&B's reader puts next to the metrics
        parts = [{key.removeprefix(start): item[key] for key in item if key.startswith(start)} for item in self.history]
        (found,) = filter(None, parts)
        return found


def offline(folder):
    """The recordings in ``folder/wandb``, oldest first."""
    return [Recording(path) for path in sorted(Path(folder).glob("wandb/offline-run-*"))]


def events(folder):
    """TensorBoard's own reader of the one file of events in ``folder/tensorboard``."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = Path(folder).glob("tensorboard/events.out.tfevents.*")
    return EventAccumulator(str(path), size_guidance=dict.fromkeys(("scalars", "images", "histograms"), 0)).Reload()
