"""What is odd about a folder of pictures and does not stop a run: said in a line each."""

from __future__ import annotations

from collections import Counter

from mpt.data.listing import Listing, alike
from mpt.schema import printable
from mpt.words import count, first_names

# endings of pictures that are not read
UNREAD = {
    *(".apng", ".arw", ".avif", ".cr2", ".dcm", ".dds", ".dng", ".eps", ".heic", ".heif", ".ico", ".j2k"),
    *(".jfif", ".jp2", ".jpe", ".jpf", ".jpx", ".jxl", ".nef", ".pbm", ".pcx", ".pfm", ".pnm", ".psd"),
    *(".raw", ".svg", ".tga"),
}


def remarks(train: Listing, test: Listing, class_names: tuple[str, ...]) -> list[str]:
    """Sentences about classes without test pictures, files that may be pictures, and classes with almost one name."""
    sentences = []
    if missing := missing_classes(test, class_names):
        names = first_names([printable(name) for name in missing], 5)
        sentences.append(
            f"{printable(str(test.folder), 500)} has no pictures of {count(len(missing), 'class')} ({names}): the test "
            f"accuracy is over the other {len(class_names) - len(missing)}"
        )
    for listing in {each.folder: each for each in (train, test)}.values():
        unread = {ending: number for ending, number in listing.others.items() if ending in UNREAD}
        if unread:
            files, endings = count(sum(unread.values()), "file"), first_names(sorted(unread))
            sentences.append(
                f"{printable(str(listing.folder), 500)} has {files} of kinds that are not read ({endings}) and are "
                "left out: convert them to PNG or JPEG"
            )
    numbers = Counter(map(alike, class_names))
    if twins := [printable(name) for name in class_names if numbers[alike(name)] > 1]:
        sentences.append(
            f"the classes {first_names(twins)} are several, although names differ in case or accents alone"
        )
    return sentences


def missing_classes(listing: Listing, class_names: tuple[str, ...]) -> list[str]:
    """The classes of which ``listing`` has no picture."""
    present = set(listing.labels)
    return [name for label, name in enumerate(class_names) if label not in present]
