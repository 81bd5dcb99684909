"""A way to write tars, for the tests of data that come in them."""

import io
import tarfile
from collections.abc import Callable, Iterable

import pytest


def _tar_of(files: Iterable[tuple[str, bytes]], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_300_000_000.25
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.fixture
def tar_of() -> Callable[..., bytes]:
    """Makes a tar of files, given as pairs of name and bytes, in one of tarfile's formats; their times have a fraction,
    for which the pax format needs headers of its own."""
    return _tar_of
