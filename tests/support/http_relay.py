"""The little of HTTP/1.1 that a proxy needs which passes bytes on unchanged, so that signatures hold."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

BLOCK = 1 << 16
END = b"\r\n\r\n"


@dataclass(frozen=True)
class Head:
    """The first part of a request or an answer. raw: its bytes; start: the first line's words; headers: lower case."""

    raw: bytes
    start: tuple[str, ...]
    headers: dict[str, str]

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.start[1])


async def read_head(reader: asyncio.StreamReader) -> Head:
    """The next head. Raises IncompleteReadError where the connection ends before one."""
    raw = await reader.readuntil(END)
    first, *lines = raw.removesuffix(END).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Head(raw, tuple(first.split(" ", 2)), {name.lower(): value.strip() for name, _, value in pairs})


def body_length(head: Head, answers: str | None = None) -> int | None:
    """Bytes of a body as its head says; None where only reading it tells. answers: the method that an answer is to."""
    if answers == "HEAD" or (answers and (head.status in (204, 304) or head.status < 200)):
        return 0
    if "content-length" in head.headers:
        return int(head.headers["content-length"])
    return None if answers or "transfer-encoding" in head.headers else 0


async def body(reader: asyncio.StreamReader, head: Head, answers: str | None = None) -> AsyncIterator[bytes]:
    """The body's bytes as they come, chunk marks included. Raises IncompleteReadError where it is cut short."""
    left = body_length(head, answers)
    if left is not None:
        while left:
            block = await reader.read(min(left, BLOCK))
            if not block:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(block)
            yield block
    elif "chunked" in head.headers.get("transfer-encoding", ""):
        size = -1
        while size:
            mark = await reader.readuntil(b"\r\n")
            size = int(mark.partition(b";")[0], 16)
            yield mark + (await reader.readexactly(size + 2) if size else b"")
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            yield line
        yield line
    else:
        while block := await reader.read(BLOCK):
            yield block
