"""W&B and TensorBoard as loggers of Lightning that also take tables, pictures, histograms and a result.

Neither package is imported before something is logged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from mpt.run.name import flat

Numbers = Mapping[str, Any]


class Wandb(WandbLogger):  # type: ignore[misc]
    """W&B, with epochs as its steps: it ignores an epoch that a resumed online run logs again."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._wandb_init.pop("anonymous")  # W&B warns of it

    def log_metrics(self, metrics: Numbers, step: int | None = None) -> None:
        self.experiment.log({**metrics, "trainer/global_step": step}, step=step)

    def log_rows(self, name: str, head: Sequence[str], rows: Sequence[Sequence[Any]], *, step: int) -> None:
        """Log a table: values of a column are of one type, or None."""
        import wandb

        self.log_metrics({name: wandb.Table(columns=list(head), data=[list(row) for row in rows])}, step)

    def log_picture(self, name: str, pixels: np.ndarray, *, step: int) -> None:
        """Log ``pixels``, uint8 (height, width, 3)."""
        import wandb

        self.log_metrics({name: wandb.Image(pixels)}, step)

    def log_histogram(self, name: str, histogram: Numbers, *, step: int) -> None:
        """Log a histogram of :func:`mpt.ticket.report.score_histograms`."""
        import wandb

        parts = histogram["counts"], histogram["edges"]
        self.log_metrics({name: wandb.Histogram(np_histogram=parts)}, step)

    def log_result(self, result: Numbers, *, config: Numbers, step: int) -> None:
        """Log the words and numbers of ``result``, the run's summary."""
        self.experiment.summary.update({key: value for key, value in result.items() if _is_plain(value)})

    def log_file(self, path: Path, *, kind: str) -> None:
        """Log the file at ``path`` as an artifact of this kind."""
        import wandb

        artifact = wandb.Artifact(f"{kind}-{self.experiment.id}", type=kind)
        artifact.add_file(str(path))
        self.experiment.log_artifact(artifact)


class TensorBoard(TensorBoardLogger):  # type: ignore[misc]
    """TensorBoard. Its file stays open after training, because the ticket is logged then; :meth:`close` closes it."""

    def finalize(self, status: str) -> None:
        self.experiment.flush()

    def save(self) -> None:
        """config.yaml holds the settings."""

    def close(self) -> None:
        """Close the file of events."""
        self.experiment.close()

    def log_rows(self, name: str, head: Sequence[str], rows: Sequence[Sequence[Any]], *, step: int) -> None:
        """Log a table, as Markdown."""
        lines = [head, ["---"] * len(head), *rows]
        text = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
        self.experiment.add_text(name, text, step)

    def log_picture(self, name: str, pixels: np.ndarray, *, step: int) -> None:
        """Log ``pixels``, uint8 (height, width, 3)."""
        self.experiment.add_image(name, pixels, step, dataformats="HWC")

    def log_histogram(self, name: str, histogram: Numbers, *, step: int) -> None:
        """Log a histogram of :func:`mpt.ticket.report.score_histograms`; its sums are those of the bins' middles."""
        counts, edges = np.array(histogram["counts"]), np.array(histogram["edges"])
        middles = (edges[:-1] + edges[1:]) / 2
        self.experiment.add_histogram_raw(
            name,
            min=histogram["min"],
            max=histogram["max"],
            num=int(counts.sum()),
            sum=float(counts @ middles),
            sum_squares=float(counts @ middles**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )

    def log_result(self, result: Numbers, *, config: Numbers, step: int) -> None:
        """Log numbers as scalars ``result/<key>``, and with a ``config`` for the page HParams as well."""
        numbers = {f"result/{key}": value for key, value in result.items() if isinstance(value, (int, float))}
        settings = {key: value if _is_plain(value) else str(value) for key, value in flat(dict(config)).items()}
        if settings:
            self.log_hyperparams(settings, numbers, step)
        else:
            self.log_metrics(numbers, step)

    def log_file(self, path: Path, *, kind: str) -> None:
        """TensorBoard keeps no files."""


Tracker = Wandb | TensorBoard


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, str))


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
