"""Tar files as ImageNet is published in: where each member's bytes lie, so that images are read without extraction.

Python's tarfile would do, at five times the time, and ImageNet has 1.28 million members. So headers are parsed here, of
plain files alone: what else a tar may hold is refused by name.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from stages.config import InputError

PAX_AT_MOST = 1 << 20
"""Bytes of a header with times and the like, which are tens in any real one."""

BLOCK = 512

OVERRIDES = re.compile(rb"^\d+ (path|size|linkpath|GNU\.sparse[^=]*)=", re.MULTILINE)
"""What a pax header may say that makes the plain header after it untrue."""


class Member(NamedTuple):
    """A file in a tar: its name there, and where its bytes begin and how many they are."""

    name: str
    offset: int
    size: int


def members(file: Path, within: Member | None = None) -> list[Member]:
    """The plain files in a tar, or in a tar that is itself a member of `file`, in their order; folders are left out.

    Only headers are read. Raises InputError that names the file where it cannot be read, is no tar, is cut short (its
    end mark is missing), or holds links, sparse files or names of more than 100 bytes.
    """
    where = f"{file}: {within.name}" if within else str(file)
    found: list[Member] = []
    try:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            # Headers are 100 KB apart: what the kernel would read ahead is never looked at.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            end = within.offset + within.size if within else os.fstat(descriptor).st_size
            position = within.offset if within else 0
            while True:
                header = os.pread(descriptor, BLOCK, position) if position + BLOCK <= end else b""
                if len(header) < BLOCK:
                    raise InputError(f"{where}: a tar that is cut short at byte {position}; get it again")
                if not header[0] and not any(header):
                    return found
                name, kind, size = _parsed(header, where, position)
                data = position + BLOCK
                if kind in b"0\0":
                    found.append(Member(name, data, size))
                elif kind in b"xg" and size <= PAX_AT_MOST and not OVERRIDES.search(os.pread(descriptor, size, data)):
                    pass  # times and the like
                elif kind != b"5":
                    raise InputError(
                        f"{where}: {name} at byte {position} is no plain file with a name of up to 100 bytes (type "
                        f"{kind!r}); make the tar again of plain files, with --format=ustar"
                    )
                position = data + (size + BLOCK - 1) // BLOCK * BLOCK
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error})") from error


def read(file: Path, name: str, offset: int, size: int) -> bytes:
    """A member's bytes. Raises InputError where its header, with this last part of its name and this size, is no longer
    before them: the tar is another one now."""
    where = f"{file}: {name}"
    try:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            header = os.pread(descriptor, BLOCK, offset - BLOCK)
            data = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error})") from error
    if len(header) < BLOCK or len(data) < size:
        raise InputError(f"{where}: is not there any more, the tar is shorter than when it was listed; plan again")
    found, _, found_size = _parsed(header, where, offset - BLOCK)
    if (found.rpartition("/")[2], found_size) != (name, size):
        raise InputError(
            f"{where}: was {size} bytes from byte {offset} on when the tar was listed; now {found} of {found_size} "
            "bytes is there; plan again"
        )
    return data


def _parsed(header: bytes, where: str, position: int) -> tuple[str, bytes, int]:
    """Name, type and size that a header states (POSIX.1-1988 ustar, and its older forms)."""
    try:
        stated, size = int(header[148:156].rstrip(b" \0"), 8), int(header[124:136].rstrip(b" \0") or b"0", 8)
    except ValueError:
        stated, size = -1, -1
    if stated != sum(header) - sum(header[148:156]) + 8 * ord(" ") or size < 0:
        raise InputError(f"{where}: no tar header at byte {position}; it is damaged or no tar, get it again")
    name = header[:100].rstrip(b"\0")
    if prefix := header[345:500].rstrip(b"\0") if header[257:263] == b"ustar\0" else b"":
        name = prefix + b"/" + name
    return os.fsdecode(name), header[156:157], size
