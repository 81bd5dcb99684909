"""A proxy before a real S3 server that does what networks and busy servers do: at given rates, by the dice of a seed.

It listens on a port of its own on 127.0.0.1 and passes requests on byte for byte, the Host header too: S3's signatures
cover it. Faults come by chance (`rates`), once for a request that a test waits for (`once`, `stall`), or all at once
(`cut_off`).
"""

import asyncio
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from itertools import count
from urllib.parse import urlsplit

from chaos import INJECTED
from chaos.http_relay import Head, body, body_length, read_head

ANSWERS = {
    "internal_error": (500, "InternalError"),
    "unavailable": (503, "ServiceUnavailable"),
    "slow_down": (503, "SlowDown"),
    "conflict": (409, "ConditionalRequestConflict"),
    "clock_skew": (403, "RequestTimeTooSkewed"),
}
"""Faults that are an answer of S3's: the server never sees the request."""

CUTS = ("silence", "cut_before", "cut_request", "cut_response", "lost_response")
"""Faults of the connection: no answer for `silence_seconds`; cut before the server sees the request, within what is
sent, within what is received; or carried out, and then cut with nothing of the answer."""

TRANSIENT = (*(name for name in ANSWERS if name != "clock_skew"), *CUTS)
"""Faults that asking again may get over."""

TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
BROKEN = (ConnectionError, asyncio.IncompleteReadError, OSError)


@dataclass(frozen=True)
class Request:
    """What came by. target: path and query; fault: what was done to it, if anything."""

    method: str
    target: str
    conditional: bool
    fault: str | None = None


Where = Callable[[Request], bool]


def on(method: str, part: str = "") -> Where:
    """Requests of a method whose target has `part` in it."""
    return lambda request: request.method == method and part in request.target


def nth(number: int) -> Where:
    """The request of this number among those to come, from 0."""
    numbers = count()
    return lambda request: next(numbers) == number


def spread(rate: float, faults: tuple[str, ...] = TRANSIENT) -> dict[str, float]:
    """Rates that make `rate` of all requests fail, by each fault as often."""
    return {name: rate / len(faults) for name in faults}


@dataclass
class Stall:
    """A request that is held until it is released or dropped."""

    where: Where
    carried_out: bool
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    dropped: bool = False

    def release(self) -> None:
        """Let it, or its answer, go on."""
        self.released.set()

    def drop(self) -> None:
        """Cut its connection: who sent it is dead."""
        self.dropped = True
        self.released.set()

    def wait(self, seconds: float = 60.0) -> None:
        """Wait until the request is held. Raises TimeoutError."""
        if not self.reached.wait(seconds):
            raise TimeoutError(f"no such request came within {seconds:g} s")


class FaultProxy:
    """Stands before `target`, a URL. Between `start` and `stop`; also a context manager."""

    def __init__(self, target: str, seed: int = 0, silence_seconds: float = 0.3) -> None:
        self.rates: Mapping[str, float] = {}
        """Fault -> how often, 0 to 1; together at most 1. May be changed at any time."""
        self.only: Where = lambda request: True
        """The requests that `rates` are for."""
        self.clock_offset = timedelta()
        """How far the server's clock seems to be ahead."""
        self.injected: Counter[str] = Counter()
        """How often each fault was done."""
        self.requests: list[Request] = []
        """All that came by, in order."""
        self._target, self._silence, self._random = urlsplit(target), silence_seconds, random.Random(seed)
        self._once: list[tuple[str, Where]] = []
        self._stalls: list[Stall] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """The endpoint for clients; it stays the same."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Take connections."""
        self._thread.start()
        self._do(self._listen())

    def stop(self) -> None:
        """End for good; what is held is cut."""
        self._do(self._close())
        for stall in self._stalls:
            stall.drop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> "FaultProxy":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def cut_off(self) -> None:
        """The server is gone: every connection is cut, and no new one is let in, until `restore`."""
        INJECTED["server gone"] += 1
        self._do(self._close())

    def restore(self) -> None:
        """The server is back."""
        self._socket = socket.create_server(("127.0.0.1", self._port))
        self._do(self._listen())

    def once(self, fault: str, where: Where) -> None:
        """Do a fault to the next request of a kind, whatever the rates."""
        self._once.append((fault, where))

    def stall(self, where: Where, carried_out: bool = False) -> Stall:
        """Hold the next request of a kind before the server sees it, or, carried out, with the answer in hand."""
        stall = Stall(where, carried_out)
        self._stalls.append(stall)
        return stall

    @contextmanager
    def failing(self, rates: Mapping[str, float], only: Where = lambda request: True) -> Iterator[None]:
        """These rates for the length of a block, and none after it."""
        self.rates, self.only = rates, only
        try:
            yield
        finally:
            self.rates = {}

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
        fault = self._chosen(request)
        self.requests.append(Request(method, target, request.conditional, fault))
        if fault:
            self.injected[fault] += 1
            INJECTED[fault] += 1
        stall = next((one for one in self._stalls if not one.reached.is_set() and one.where(request)), None)
        if stall and not stall.carried_out:
            await _held(stall)
            if stall.dropped:
                return False
        if fault in ANSWERS:
            return await _answer(fault, head, reader, writer)
        if fault == "silence":
            await asyncio.sleep(self._silence)
        if fault in ("silence", "cut_before"):
            return False
        return await self._relay(head, fault, stall, reader, writer)

    def _chosen(self, request: Request) -> str | None:
        fault = self._drawn(request)
        # S3 gives this answer to conditional writes alone.
        return "internal_error" if fault == "conflict" and not request.conditional else fault

    def _drawn(self, request: Request) -> str | None:
        for planned in self._once:
            if planned[1](request):
                self._once.remove(planned)
                return planned[0]
        if not self.only(request):
            return None
        at, reached = self._random.random(), 0.0
        for name, rate in self.rates.items():
            reached += rate
            if at < reached:
                return name
        return None

    async def _relay(
        self,
        head: Head,
        fault: str | None,
        stall: Stall | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        there, to = await asyncio.open_connection(self._target.hostname, self._target.port, limit=1 << 20)
        self._open.add(to)
        sending = asyncio.create_task(self._send(head, fault, reader, to))
        try:
            answer = await read_head(there)
            while answer.status < 200:
                writer.write(answer.raw)
                answer = await read_head(there)
            raw, blocks = self._shifted(answer), self._later(answer, body(there, answer, head.start[0]))
            if fault == "lost_response" or (stall and stall.carried_out):
                rest = b"".join([block async for block in blocks])
                if stall:
                    await _held(stall)
                if fault == "lost_response" or (stall and stall.dropped):
                    return False
                writer.write(raw + rest)
            elif fault == "cut_response":
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

    @staticmethod
    async def _send(head: Head, fault: str | None, reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        length = body_length(head)
        left = None if fault != "cut_request" else (length or 0) // 2
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

    def _shifted(self, answer: Head) -> bytes:
        """The answer's head, by the clock that the server seems to have."""
        raw = answer.raw
        for name in ("date", "last-modified") if self.clock_offset else ():
            if found := answer.headers.get(name):
                moved = format_datetime(parsedate_to_datetime(found) + self.clock_offset, usegmt=True)
                raw = raw.replace(found.encode(), moved.encode())
        return raw

    async def _later(self, answer: Head, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The answer's body; in a list of objects, by the same clock."""

        def moved(found: re.Match[bytes]) -> bytes:
            return (datetime.fromisoformat(found[0].decode()) + self.clock_offset).isoformat()[:19].encode()

        if self.clock_offset and "xml" in answer.headers.get("content-type", ""):
            yield TIME.sub(moved, b"".join([block async for block in blocks]))
        async for block in blocks:
            yield block


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def _held(stall: Stall) -> None:
    stall.reached.set()
    await asyncio.to_thread(stall.released.wait)


async def _answer(fault: str, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answer as S3 would. Who waits for `100 Continue` has not sent its body."""
    waits = "expect" in head.headers
    if not waits:
        async for _ in body(reader, head):
            pass
    status, code = ANSWERS[fault]
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>injected</Message><RequestId>chaos</RequestId></Error>"
    )
    sent = "" if head.start[0] == "HEAD" else text
    closing = "close" if waits else "keep-alive"
    writer.write(
        f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(sent)}\r\n"
        f"Connection: {closing}\r\n\r\n{sent}".encode()
    )
    await writer.drain()
    return not waits


async def _half(raw: bytes, blocks: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
    """The answer's head and half of its body; nothing where it has none, as a head comes in one packet."""
    whole = b"".join([block async for block in blocks])
    writer.write(raw + whole[: len(whole) // 2] if whole else b"")
    await writer.drain()
