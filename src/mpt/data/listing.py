"""The pictures of a folder, by class: what counts as a picture, how links are followed, and what is refused.

    ROOT/train/<class>/*    ROOT/test/<class>/*  or  ROOT/val/<class>/*        two splits
    ROOT/<class>/*          or ROOT/train/<class>/* alone, with data.test_size  one, of which test pictures are drawn

Names that begin with a dot, and folders such as ``__MACOSX``, belong to the system and are left out. Links to files and
folders are followed. A folder that cannot be read, a link to nothing, and a pipe or device are refused by name.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from mpt.data.images import stratified_order
from mpt.data.pictures import EXTENSIONS
from mpt.words import count, first_names

_TEST = {"image_folder": ("test", "val"), "imagenet": ("val",)}  # ImageNet's test folder has no labels
_SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "eval", "dev")  # as people call them
_OF_THE_SYSTEM = ("__MACOSX", "@eaDir", "#recycle", "lost+found", "$RECYCLE.BIN", "System Volume Information")
_ENDINGS = " ".join(sorted(EXTENSIONS))


class Listing(NamedTuple):
    """The pictures of one split in order: by class, then by path.

    Attributes:
        folder: that holds the class folders.
        files: the pictures.
        labels: the class of each, from 0.
        part: name of the drawn part, where two splits are drawn from one folder.
        others: how many further files there are of each ending.
    """

    folder: Path
    files: list[Path]
    labels: list[int]
    part: str = ""
    others: Mapping[str, int] = {}

    @property
    def place(self) -> Path:
        """The folder, with the name of the drawn part: different for any two splits."""
        return self.folder / self.part

    def checksum(self) -> str:
        """Digest of every file's name, size and modification time."""
        digest = hashlib.sha256()
        for file in self.files:
            stat = file.stat()
            digest.update(os.fsencode(file.relative_to(self.folder)))
            digest.update(f"|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def listings(root: Path, *, name: str, test_size: float | None = None) -> tuple[Listing, Listing, tuple[str, ...]]:
    """The training and test pictures below ``root``, and the class names.

    Args:
        root: the folder.
        name: ``image_folder``, or ``imagenet``, which tests on ``val``.
        test_size: fraction of each class that is drawn for testing, where there is no ``test`` or ``val``.

    Raises:
        FileNotFoundError: there is no such folder, or a split has no pictures.
        ValueError: no class folders, fewer than two classes, or a class of which a split has no pictures.
        OSError: a folder cannot be read.
    """
    train, test = _splits(root, name=name, test_size=test_size)
    return _two_splits(train, test) if isinstance(test, Path) else _drawn(train, test)


def _splits(root: Path, *, name: str, test_size: float | None) -> tuple[Path, Path | float]:
    """The folder of the training pictures, and that of the test pictures or the fraction to draw for them."""
    test_folders = " or ".join(f"{split}/<class>/" for split in _TEST[name])
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no image folder at {root}: data.root must hold train/<class>/ and {test_folders}"
        )
    test = next((root / split for split in _TEST[name] if (root / split).is_dir()), None)
    train = root / "train" if (root / "train").is_dir() else None
    if train and test:
        if test_size is not None:
            raise ValueError(f"data.test_size draws test pictures, but {root} holds {test.name}/ already: leave it out")
        return train, test
    splits = [folder for folder in _folders(root) if folder.casefold() in _SPLITS]
    odd = {*splits} - {"train", "test", "val"} and any(folder.casefold().startswith("train") for folder in splits)
    if len(splits) > 1 and odd and not (train and test_size):
        held = ", ".join(f"{readable(folder)}/" for folder in splits)
        names = f"train/ and {' or '.join(f'{split}/' for split in _TEST[name])}"
        raise ValueError(f"the image folder {root} holds {held}, which look like splits: name them {names}")
    if test_size is not None and not test:
        return train or root, test_size
    classes = [] if train or test else _folders(root)
    if train or len(classes) > 1:
        held = f"train/ and no {test_folders}" if train else f"{count(len(classes), 'folder')} and no train/"
        raise FileNotFoundError(
            f"the image folder {root} holds {held}: add data.test_size=0.2 to draw a fifth of each class for testing"
        )
    inside = [folder for folder in classes if (root / folder / "train").is_dir()]
    hint = f": give data.root={root / inside[0]}" if inside else ""
    raise FileNotFoundError(f"the image folder {root} must hold train/<class>/ and {test_folders}{hint}")


def _two_splits(train: Path, test: Path) -> tuple[Listing, Listing, tuple[str, ...]]:
    names, tested = _class_folders(train), _class_folders(test)
    _check_distinct([train / name for name in names] + [test / name for name in tested])
    if extra := sorted(set(tested) - set(names)):
        what = "a class" if len(extra) == 1 else "the classes"
        known = {alike(name): name for name in names}
        near = [repr(readable(known[alike(name)])) for name in extra if alike(name) in known]
        hint = f", which has {first_names(near)}: give both one name" if near else ""
        raise ValueError(
            f"the image folder {train.parent} has {what} {first_names([repr(readable(name)) for name in extra])} in "
            f"{test.name}/ that {'is' if len(extra) == 1 else 'are'} missing from train/{hint}"
        )
    return _listing(train, names, all_classes=True), _listing(test, names, all_classes=False), _class_names(names)


def _drawn(folder: Path, test_size: float) -> tuple[Listing, Listing, tuple[str, ...]]:
    """Two splits of one folder of class folders, drawn in proportion from a fixed stream, as ``data.val_size`` is."""
    names = _class_folders(folder)
    _check_distinct([folder / name for name in names])
    whole = _listing(folder, names, all_classes=True)
    num_test = round(test_size * len(whole.files))
    order = stratified_order(torch.tensor(whole.labels)).tolist()
    parts = []
    for part, places in (("train", order[num_test:]), ("test", order[:num_test])):
        places = sorted(places)
        files, labels = [whole.files[i] for i in places], [whole.labels[i] for i in places]
        parts.append(Listing(folder, files, labels, f"{part} without {test_size:g}", whole.others))
    train, test = parts
    for listing, split in ((train, "training"), (test, "testing")):
        if missing := set(range(len(names))) - set(listing.labels):
            raise ValueError(
                f"data.test_size={test_size:g} leaves no picture of {readable(names[min(missing)])!r} for {split}: "
                "choose another fraction, or add pictures"
            )
    return train, test, _class_names(names)


def classes_below(root: str | Path, *, name: str, test_size: float | None = None) -> tuple[str, ...] | None:
    """The classes that :func:`listings` would find, without a look at pictures; None if it would refuse the folders."""
    try:
        train, _ = _splits(Path(root).expanduser(), name=name, test_size=test_size)
        return _class_names(_class_folders(train))
    except (OSError, ValueError):
        return None


def checksum(root: str | Path, *, name: str, test_size: float | None = None) -> str | None:
    """16 digits that change when a picture below ``root`` is added, removed or changed; None without such a folder."""
    root = Path(root).expanduser()
    if not root.is_dir():
        return None
    train, test, _ = listings(root, name=name, test_size=test_size)
    return hashlib.sha256(f"{train.checksum()}{test.checksum()}".encode()).hexdigest()[:16]


def find_pictures(folder: Path, *, others: Counter[str] | None = None) -> list[Path]:
    """The pictures in ``folder`` and the folders in it, sorted; ``others`` counts the other files by their endings."""
    return sorted(_walk(folder, (_key(folder),), Counter() if others is None else others))


def _walk(folder: Path, above: tuple[tuple[int, int], ...], others: Counter[str]) -> Iterator[Path]:
    """``above`` are the folders around: a link to one of them is not followed, for it would never end."""
    for entry in _entries(folder):
        path = Path(entry.path)
        if entry.is_dir():
            key = _key(path)
            if key not in above:
                yield from _walk(path, (*above, key), others)
        elif path.suffix.lower() in EXTENSIONS:
            if not entry.is_file():
                kind = "a pipe or device and no file" if path.exists() else "a link to nothing"
                raise ValueError(f"{path} is {kind}: remove it")
            yield path
        else:
            others[path.suffix.lower()] += 1


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in ``folder``, but for what belongs to the system; OSError that names it if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not e.name.startswith(".") and e.name not in _OF_THE_SYSTEM]
    except OSError as error:
        raise OSError(
            f"the folder {folder} cannot be read ({error.strerror}): make it readable, or move it away"
        ) from error


def _key(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(folder) if entry.is_dir())


def _class_folders(split: Path) -> list[str]:
    """The names of the class folders in ``split``, sorted."""
    names = _folders(split)
    for entry in _entries(split):
        if entry.is_symlink() and not Path(entry.path).exists():  # a class that is away
            raise ValueError(f"{readable(entry.path)} is a link to nothing: remove it")
    loose = [e.name for e in _entries(split) if not e.is_dir() and Path(e.name).suffix.lower() in EXTENSIONS]
    if loose and not names:
        raise ValueError(
            f"{split} holds {count(len(loose), 'picture')} and no class folders: sort them into {split.name}/<class>/, "
            "one folder for each class"
        )
    if loose:
        raise ValueError(
            f"{split} holds {count(len(loose), 'picture')} outside its class folders, such as {loose[0]}: "
            "move them into one, or away"
        )
    if len(names) < 2 and split.name not in ("test", "val"):
        raise ValueError(f"{split} must hold one folder for each of at least two classes, got {len(names)}")
    return names


def _check_distinct(folders: list[Path]) -> None:
    """ValueError if two class folders are one, by links: pictures of two classes, or for both training and testing."""
    first: dict[tuple[int, int], Path] = {}
    same = [(folder, other) for folder in folders if (other := first.setdefault(_key(folder), folder)) != folder]
    if same:
        pairs = [f"{readable(str(folder))} and {readable(str(other))}" for folder, other in same]
        raise ValueError(
            f"{first_names(pairs, 3)}: one folder by two names, so its pictures would count twice: remove a link"
        )


def _class_names(folders: list[str]) -> tuple[str, ...]:
    return tuple(map(readable, folders))


def alike(name: str) -> str:
    """The same for names that some file systems hold to be one: that differ in case, or in how accents are written."""
    return unicodedata.normalize("NFC", name).casefold()


def readable(name: str) -> str:
    """The name of a folder as text that every file format takes: bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _listing(folder: Path, names: list[str], *, all_classes: bool) -> Listing:
    files, labels, others, empty = [], [], Counter[str](), []
    for label, name in enumerate(names):
        pictures = find_pictures(folder / name, others=others) if (folder / name).is_dir() else []
        empty += [] if pictures else [readable(name)]
        files += pictures
        labels += [label] * len(pictures)
    held = f", but {_count_others(others)}" if others else ""
    if not files:
        raise FileNotFoundError(f"{folder} holds no pictures ({_ENDINGS}){held}")
    if empty and all_classes:
        what = f"the class folder {folder / empty[0]} holds" if len(empty) == 1 else ""
        what = what or f"the class folders {first_names(empty)} of {folder} hold"
        raise ValueError(f"{what} no pictures ({_ENDINGS}){held}")
    return Listing(folder, files, labels, others=others)


def _count_others(others: Mapping[str, int]) -> str:
    endings = [ending or "none" for ending in sorted(others)]
    return f"{count(sum(others.values()), 'file')} with other endings ({first_names(endings)})"
