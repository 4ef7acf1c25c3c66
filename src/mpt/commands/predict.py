"""``mpt-predict``: the classes that a ticket sees in pictures, and the accuracy where folders name the classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from mpt.commands.evaluate import check_shown, render
from mpt.commands.schemas import PredictSettings
from mpt.commands.ticket import backbone_of
from mpt.data.listing import find_pictures as find_pictures_in
from mpt.data.listing import readable
from mpt.data.pictures import EXTENSIONS
from mpt.experiment.evaluate import best_device
from mpt.phases import track
from mpt.run.compose import compose, given_keys, settings_of
from mpt.schema import MAX_TEXT, printable
from mpt.ticket.ticket import Ticket


class Picture(NamedTuple):
    """A picture to classify, and the name of its class where a folder gives it."""

    path: Path
    class_name: str | None


def run(path: Path, pictures: Sequence[Path], overrides: list[str]) -> str:
    """The classes that the ticket at ``path`` sees in ``pictures``: a table, or JSON."""
    settings = settings_of(compose("predict", overrides, PredictSettings), PredictSettings)
    check_shown("top", given_keys(overrides), json_=settings.json)
    content = predict(
        path,
        pictures,
        backbone=backbone_of(Ticket.load(path), settings),
        batch=settings.batch,
        device=best_device(settings.accelerator),
        progress=settings.progress,
    )
    return render(content, table(content, top=settings.top), json_=settings.json)


def predict(
    path: Path,
    pictures: Sequence[Path],
    *,
    backbone: nn.Module | None = None,
    batch: int = 64,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> dict[str, Any]:
    """Classify pictures with the ticket at ``path``.

    Args:
        path: the ticket file.
        pictures: picture files, and folders of them. In a folder, subfolders with names of classes give the classes.
        backbone: plain network, where the ticket cannot build its own.
        batch: pictures per forward.
        device: where the network computes.
        progress: count the pictures on a terminal.

    Returns:
        ``ticket``; ``predictions``, a list of ``picture``, ``class`` (None where no folder names it), ``label``,
        ``index`` and ``probabilities``; ``class_names``; ``num_images``; ``acc``, None unless all classes are known.

    Raises:
        FileNotFoundError: no ticket, no such picture, or a folder without pictures.
        ValueError: a picture that cannot be read, or a ticket that cannot classify pictures.
    """
    ticket = Ticket.load(path)
    classify = ticket.classifier(backbone=backbone, batch=batch, device=device)
    files = find_pictures(pictures, class_names=classify.class_names)
    predictions = classify.predict(picture.path for picture in files)
    task = f"classifying {len(files):,} pictures"
    rows = [
        {
            "picture": str(picture.path),
            "class": picture.class_name,
            "label": prediction.label,
            "index": prediction.index,
            "probabilities": list(prediction.probabilities),
        }
        for picture, prediction in zip(files, track(predictions, task, len(files), wanted=progress), strict=True)
    ]
    known = all(row["class"] is not None for row in rows)
    return {
        "ticket": str(path),
        "class_names": list(classify.class_names),
        "num_images": len(rows),
        "acc": sum(row["class"] == row["label"] for row in rows) / len(rows) if known else None,
        "predictions": rows,
    }


def find_pictures(paths: Iterable[Path], *, class_names: Sequence[str]) -> list[Picture]:
    """The files among ``paths`` and the pictures in the folders among them, each folder sorted; hidden files are not.

    Raises:
        FileNotFoundError: nothing at a path, a folder without pictures, or no path at all.
    """
    files: list[Picture] = []
    for path in paths:
        if path.is_dir():
            inside = find_pictures_in(path)
            if not inside:
                raise FileNotFoundError(f"{path} holds no pictures ({' '.join(sorted(EXTENSIONS))})")
            tops = [file.relative_to(path).parts for file in inside]
            names = [readable(parts[0]) if len(parts) > 1 else "" for parts in tops]
            classes = [name if name in class_names else None for name in names]
            files += [Picture(file, name) for file, name in zip(inside, classes, strict=True)]
        elif path.is_file():
            files.append(Picture(path, None))
        else:
            raise FileNotFoundError(f"there is no picture or folder at {path}")
    if not files:
        raise FileNotFoundError("no picture is named: give picture files, or folders of pictures")
    return files


def table(content: dict[str, Any], *, top: int = 1) -> str:
    """The predictions of :func:`predict` as lines of text, each with its ``top`` most probable classes."""
    rows = [
        (printable(row["picture"], MAX_TEXT), _most_probable(row, content["class_names"], top))
        for row in content["predictions"]
    ]
    wide = max(len(picture) for picture, _ in rows)
    lines = [f"{picture:<{wide}}  {classes}" for picture, classes in rows]
    if content["acc"] is not None:
        right = round(content["acc"] * content["num_images"])
        lines.append(f"accuracy  {100 * content['acc']:.2f} % ({right:,} of {content['num_images']:,} pictures)")
    return "\n".join(lines)


def _most_probable(row: dict[str, Any], class_names: list[str], top: int) -> str:
    order = sorted(range(len(row["probabilities"])), key=lambda index: -row["probabilities"][index])
    names = class_names or [str(index) for index in order]
    return ", ".join(f"{printable(names[index])} {100 * row['probabilities'][index]:.1f} %" for index in order[:top])
