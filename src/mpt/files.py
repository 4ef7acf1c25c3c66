"""Files that are written whole or not at all, with digests; where mpt's own files are, and on what machine.

A sealed file ends with a mark and the digest of everything before it. The digest is the BLAKE2b of the BLAKE2b of each
4 MiB, so that all cores compute it. A reader that checks it notices a flipped bit anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import platform
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PACKAGE = Path(__file__).resolve().parent
HOME = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parents[1]  # in a wheel the package, else the checkout
CONF = HOME / "conf"
DISTRIBUTION = "multiprize"  # the package index's name of mpt
_DAY = 86_400  # seconds; no write takes that long
_SEAL = b"\nmpt:blake2b:"  # before the digits of the digest
_DIGITS = 32
_PART = 2**22  # bytes that are digested at a time


class DamagedError(ValueError):
    """The content of a file does not match its digest, or it has none."""


def version() -> str:
    """Version of the installed mpt. Asking takes a tenth of a second, so a command asks only where it needs it."""
    from importlib import metadata

    return metadata.version(DISTRIBUTION)


def processor() -> str:
    """Name of this machine's CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write_atomically(path: str | Path, content: bytes | str | memoryview, *, seal: bool = False) -> None:
    """Write ``content`` to ``path``; a reader or a later run sees the old file or the new one, never a part.

    Args:
        path: of the file.
        content: text is written as UTF-8.
        seal: add the digest that :func:`check_seal` compares.
    """
    with replacing(path, seal=seal) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: str | Path, *, seal: bool = False) -> Iterator[BinaryIO]:
    """Open a binary file that replaces ``path`` if the block succeeds, and is removed if it fails.

    The content goes to ``<name>.<machine>.<process>.part`` in the same folder, which is synced and then renamed; then
    the folder is synced. A full disk or a missing permission raises OSError, keeps the old file and leaves no part
    behind. If a writer was killed, the next writer of the same file removes its part. A link stays: the file that it
    names is replaced. What is no regular file, such as /dev/stdout or a pipe, is written to as it is.

    Args:
        path: of the file.
        seal: add the digest that :func:`check_seal` compares.
    """
    place = _follow(Path(path))
    if place is None:
        try:
            with _open_device(Path(path)) as file:
                yield file
        except OSError as error:
            error.filename = str(path) if error.errno else None
            raise
        return
    part = place.with_name(f"{place.name}.{platform.node()}.{os.getpid()}.part")
    _remove_abandoned(place)
    try:
        with part.open("w+b") as file:
            yield file
            file.flush()
            if seal:
                file.write(_SEAL + _digest(file, os.fstat(file.fileno()).st_size))
                file.flush()
            os.fsync(file.fileno())
        part.replace(place)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(part)):
            error.filename = str(path)  # the name that the user knows
        raise
    _sync_folder(place.parent)


def _follow(path: Path) -> Path | None:
    """The file that ``path`` is or will be, without links; None for a device, a pipe or an open file of a process."""
    named = path
    for _ in range(40):  # as many links as Linux follows
        folder = os.path.realpath(path.parent)
        if folder.startswith(("/proc/", "/dev/")) and folder.endswith("/fd"):
            return None
        path = Path(folder, path.name)
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    else:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(named))
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            return None
    return path


def is_stream(path: Path) -> bool:
    """Whether ``path`` is a device, a pipe or an open file of a process, to which :func:`replacing` writes as it is."""
    return _follow(path) is None


def _open_device(path: Path) -> BinaryIO:
    """``path`` opened as it is; an open file of this process, such as /dev/stdout, goes on where it stands."""
    while path.is_symlink() and not os.path.realpath(path.parent).endswith("/fd"):
        path = path.parent / path.readlink()
    ours = (os.path.realpath("/proc/self/fd"), "/dev/fd")
    if os.path.realpath(path.parent) in ours and path.name.isdigit():
        sys.stdout.flush()
        sys.stderr.flush()
        return os.fdopen(os.dup(int(path.name)), "wb")
    return path.open("wb")


def _sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` outlast a power failure; file systems that cannot are left alone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def digest(content: bytes | memoryview) -> str:
    """BLAKE2b of ``content``, 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=_DIGITS // 2).hexdigest()


def checksum(path: str | Path) -> str:
    """The digest of a whole file, 32 hexadecimal digits; OSError if it cannot be read."""
    with Path(path).open("rb") as file:
        return _digest(file, os.fstat(file.fileno()).st_size).decode()


def check_seal(path: str | Path, *, needed: bool = True) -> int:
    """The length of the content of a sealed file, after comparing its digest.

    Args:
        path: of the file.
        needed: refuse a file without a digest.

    Raises:
        OSError: the file cannot be read.
        DamagedError: the digest is missing, or the content is not the one that was written.
    """
    place = Path(path)
    if place.exists() and not place.is_file() and not place.is_dir():  # opening a pipe would wait for its writer
        raise DamagedError(f"{path} is not a regular file")
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size - len(_SEAL) - _DIGITS
        end = os.pread(file.fileno(), len(_SEAL) + _DIGITS, size) if size >= 0 else b""
        if not end.startswith(_SEAL):
            if not needed:
                return size + len(_SEAL) + _DIGITS
            raise DamagedError(f"{path} has no digest: it was cut short, or this mpt did not write it")
        if _digest(file, size) != end.removeprefix(_SEAL):
            raise DamagedError(f"{path} does not match its digest: it was damaged or altered")
    return size


def read_sealed(path: str | Path) -> bytes:
    """The content of a sealed file; OSError and DamagedError as :func:`check_seal`."""
    size = check_seal(path)
    return Path(path).read_bytes()[:size]


def _digest(file: BinaryIO, size: int) -> bytes:
    """The digest of the first ``size`` bytes of an open file, in hexadecimal digits."""

    def part(start: int) -> bytes:
        return hashlib.blake2b(os.pread(file.fileno(), min(_PART, size - start), start)).digest()

    starts = range(0, size, _PART)
    if len(starts) < 2:
        parts = [part(start) for start in starts]
    else:
        from concurrent.futures import ThreadPoolExecutor  # only a large file pays for it

        with ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1)) as pool:
            parts = list(pool.map(part, starts))
    return digest(b"".join(parts)).encode()


def _remove_abandoned(path: Path) -> None:
    """Remove the parts of ``path`` whose process has ended, as far as this machine can tell, or older than a day."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        machine, _, process = part.name.removeprefix(f"{path.name}.").removesuffix(".part").rpartition(".")
        with contextlib.suppress(OSError):  # another process removed it first, or we lack the permission
            here = machine == platform.node() and process.isdigit() and os.name == "posix"
            if (here and not _is_running(int(process))) or time.time() - part.stat().st_mtime > _DAY:
                part.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


LFS = "a pointer of Git LFS and not the file itself: run git lfs pull"
_KINDS = (  # first bytes of a file -> what it is
    (b"version https://git-lfs", LFS),
    (b"PK\x03\x04", "a PyTorch checkpoint or a zip archive"),
    (b"\x80", "a pickle, as old PyTorch checkpoints are"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x7fELF", "a program or object file"),
    (b"{", "a JSON file"),
    (b"<", "a web page or XML file"),
    (b"\x08", "an ONNX file"),
)


def kind_of(path: str | Path) -> str | None:
    """What a file is by its first bytes, in words; None if they say nothing. OSError if it is unreadable."""
    with Path(path).open("rb") as file:
        start = file.read(24)
    if not start:
        return "an empty file"
    if start[8:9] == b"{" and start[3:8] == bytes(5):  # a length of less than 16 MB, then JSON
        return "a safetensors file"
    return next((kind for magic, kind in _KINDS if start.startswith(magic)), None)
