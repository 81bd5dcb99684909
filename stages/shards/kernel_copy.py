"""Copies of files that the kernel makes: a `.beton` of ImageNet is 100 GB and more, and no byte passes through Python.

Where the file system can (XFS, Btrfs), a clone shares its blocks with its source until one of them is written: it takes
no time and no space, so a poisoned copy costs what is poisoned.
"""

import errno
import fcntl
import os
from pathlib import Path

_FICLONE = 0x40049409
"""linux/fs.h; the fcntl module names it from Python 3.12 on."""

_CANNOT = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}
"""What kernels and file systems answer where they cannot clone, or copy between these two files."""


def clone(source: Path, target: Path) -> bool:
    """Make `target` a copy of `source`: True where it shares the blocks (a reflink), False where they were copied.

    Raises FileExistsError where `target` exists; after any other error there is no `target`.
    """
    with source.open("rb") as read, target.open("xb") as write:
        try:
            try:
                fcntl.ioctl(write, _FICLONE, read.fileno())
                return True
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
            copy_range(read.fileno(), 0, write.fileno(), 0, os.fstat(read.fileno()).st_size)
            return False
        except BaseException:
            target.unlink()
            raise


def copy_range(source: int, start: int, target: int, at: int, count: int) -> None:
    """Copy `count` bytes at `start` of one open file to `at` in another (file descriptors; bytes).

    Raises EOFError where the source is shorter.
    """
    end = start + count
    while start < end:
        copied = _copy_some(source, start, target, at, end - start)
        if copied == 0:
            raise EOFError(f"the file that is copied ends at {start} bytes, expected {end}")
        start, at = start + copied, at + copied


def _copy_some(source: int, start: int, target: int, at: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, count, start, at)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    os.lseek(target, at, os.SEEK_SET)
    return os.sendfile(target, source, start, count)
