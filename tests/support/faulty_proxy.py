"""A proxy before a real S3 server that does to requests what networks and busy servers do, as a test chooses.

It listens on a port of its own on 127.0.0.1 and passes requests on byte for byte, the Host header too: S3's signatures
cover it. Faults come as `choose` says; `stall` holds a request that a test waits for; `cut_off` takes the server away.
"""

import asyncio
import re
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from urllib.parse import urlsplit

from faults import (
    CONFLICT,
    CUT_BEFORE,
    CUT_REQUEST,
    CUT_RESPONSE,
    INJECTED,
    INTERNAL_ERROR,
    LOST_RESPONSE,
    SILENCE,
    Choose,
    Fault,
    Request,
    Stall,
    Where,
    nothing,
)
from http_relay import Head, body, body_length, read_head

SILENCE_SECONDS = 0.1
DATED = re.compile(rb"^(date|last-modified): *([^\r]+)", re.IGNORECASE | re.MULTILINE)
LISTED = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
BROKEN = (ConnectionError, asyncio.IncompleteReadError, OSError)


class FaultyProxy:
    """Stands before `target`, a URL, for the length of a block; it does no harm until it is told to."""

    def __init__(self, target: str) -> None:
        self.choose: Choose = nothing
        """What happens to each request; called for one at a time. May be changed at any time."""
        self.clock_offset = timedelta()
        """How far the server's clock seems to be ahead."""
        self.passed = timedelta()
        """How long ago what the server holds seems to have been written, beyond the truth."""
        self.requests: list[Request] = []
        """All that came by, in order."""
        self._target = urlsplit(target)
        self._stalls: list[Stall] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def endpoint(self) -> str:
        """The address to give as the server's; it stays the same."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def injected(self) -> Counter[Fault]:
        """How often each fault was done."""
        return Counter(request.fault for request in self.requests if request.fault)

    def count(self, method: str) -> int:
        """How many requests of a method came by."""
        return sum(request.method == method for request in self.requests)

    def __enter__(self) -> "FaultyProxy":
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        for stall in self._stalls:
            stall.drop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @contextmanager
    def failing(self, choose: Choose) -> Iterator[None]:
        """This choice for the length of a block, and no harm after it."""
        self.choose = choose
        try:
            yield
        finally:
            self.choose = nothing

    def stall(self, where: Where, carried_out: bool = False) -> Stall:
        """Hold the next request of a kind before the server sees it, or, carried out, with the answer in hand."""
        stall = Stall(where, carried_out)
        self._stalls.append(stall)
        return stall

    def cut_off(self) -> None:
        """The server is gone: every connection is cut, and no new one is let in, until `restore`."""
        INJECTED["server gone"] += 1
        self._do(self._close())

    def restore(self) -> None:
        """The server is back."""
        self._socket = socket.create_server(("127.0.0.1", self._port))
        self._do(self._listen())

    def _do(self, work: Awaitable[None]) -> None:
        asyncio.run_coroutine_threadsafe(_awaited(work), self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._socket, limit=1 << 20)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with suppress(*BROKEN):
                while await self._handle(reader, writer):
                    pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection may have another."""
        head = await read_head(reader)
        method, target = head.start[:2]
        request = Request(method, target, "if-none-match" in head.headers or "if-match" in head.headers)
        fault = self.choose(request)
        if fault == CONFLICT and not request.conditional:
            fault = INTERNAL_ERROR
        self.requests.append(replace(request, fault=fault))
        if fault:
            INJECTED[fault.name] += 1
        stall = next((one for one in self._stalls if not one.reached.is_set() and one.where(request)), None)
        if stall and not stall.carried_out:
            await _held(stall)
            if stall.dropped:
                return False
        if fault and fault.status:
            return await self._answer(fault, head, reader, writer)
        if fault == SILENCE:
            await asyncio.sleep(SILENCE_SECONDS)
        if fault in (SILENCE, CUT_BEFORE):
            return False
        return await self._relay(head, fault, stall, reader, writer)

    async def _answer(
        self, fault: Fault, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer as S3 would. Who waits for `100 Continue` has not sent its body."""
        waits = "expect" in head.headers
        if not waits:
            async for _ in body(reader, head):
                pass
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{fault.name}</Code><Message>{fault.message}</Message><RequestId>chaos</RequestId></Error>"
        )
        sent = "" if head.start[0] == "HEAD" else text
        raw = (
            f"HTTP/1.1 {fault.status} {fault.name}\r\nContent-Type: application/xml\r\nContent-Length: {len(sent)}\r\n"
            f"Date: {format_datetime(datetime.now(UTC), usegmt=True)}\r\n"
            f"Connection: {'close' if waits else 'keep-alive'}\r\n\r\n{sent}"
        )
        writer.write(self._dated(raw.encode()))
        await writer.drain()
        return not waits

    async def _relay(
        self,
        head: Head,
        fault: Fault | None,
        stall: Stall | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        there, to = await asyncio.open_connection(self._target.hostname, self._target.port, limit=1 << 20)
        self._open.add(to)
        sending = asyncio.create_task(_send(head, fault, reader, to))
        try:
            answer = await read_head(there)
            while answer.status < 200:
                writer.write(answer.raw)
                answer = await read_head(there)
            raw, blocks = self._dated(answer.raw), self._listed(answer, body(there, answer, head.start[0]))
            if fault == LOST_RESPONSE or (stall and stall.carried_out):
                rest = b"".join([block async for block in blocks])
                if stall:
                    await _held(stall)
                if fault == LOST_RESPONSE or (stall and stall.dropped):
                    return False
                writer.write(raw + rest)
            elif fault == CUT_RESPONSE:
                await _half(raw, blocks, writer)
                return False
            else:
                writer.write(raw)
                async for block in blocks:
                    writer.write(block)
                    await writer.drain()
            await writer.drain()
            whole = "content-length" in answer.headers or "transfer-encoding" in answer.headers
            return sending.done() and (whole or body_length(answer, head.start[0]) == 0)
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError, *BROKEN):
                await sending
            self._open.discard(to)
            to.transport.abort()

    def _dated(self, raw: bytes) -> bytes:
        """An answer's head, by the clock that the server seems to have."""

        def moved(line: re.Match[bytes]) -> bytes:
            ahead = self.clock_offset + (self.passed if line[1].lower() == b"date" else timedelta())
            date = parsedate_to_datetime(line[2].decode()) + ahead
            return line[1] + b": " + format_datetime(date, usegmt=True).encode()

        return DATED.sub(moved, raw) if self.clock_offset or self.passed else raw

    async def _listed(self, answer: Head, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The answer's body; in a list of objects, by the same clock."""

        def moved(found: re.Match[bytes]) -> bytes:
            return (datetime.fromisoformat(found[0].decode()) + self.clock_offset).isoformat()[:19].encode()

        if self.clock_offset and "xml" in answer.headers.get("content-type", ""):
            yield LISTED.sub(moved, b"".join([block async for block in blocks]))
        async for block in blocks:
            yield block


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def _held(stall: Stall) -> None:
    stall.reached.set()
    await asyncio.to_thread(stall.released.wait)


async def _send(head: Head, fault: Fault | None, reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    length = body_length(head)
    left = None if fault != CUT_REQUEST else (length or 0) // 2
    if left == 0:
        to.transport.abort()
        return
    to.write(head.raw)
    async for block in body(reader, head):
        to.write(block[:left])
        await to.drain()
        if left is not None and (left := left - len(block)) <= 0:
            to.transport.abort()
            return


async def _half(raw: bytes, blocks: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
    """The answer's head and half of its body; nothing where it has none, as a head comes in one packet."""
    whole = b"".join([block async for block in blocks])
    writer.write(raw + whole[: len(whole) // 2] if whole else b"")
    await writer.drain()
