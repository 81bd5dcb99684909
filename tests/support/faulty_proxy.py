"""A network that fails on purpose: a proxy before a real S3 server, which refuses, drops, loses and cuts requests.

Signatures stay valid, as the proxy passes the Host that the client signed.
"""

import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Kind = Literal["refuse", "drop", "lose", "cut"]


@dataclass(frozen=True)
class Fault:
    """refuse: an answer of this status and code; drop: no connection; lose: done, but the answer never comes;
    cut: the answer breaks off in the middle."""

    kind: Kind
    status: int = 503
    code: str = "SlowDown"
    message: str = "Please reduce your request rate."


Choose = Callable[[str, str], Fault | None]
"""What happens to a request of this method and path."""

KINDS: tuple[Fault, ...] = (
    Fault("refuse"),
    Fault("refuse", 500, "InternalError"),
    Fault("drop"),
    Fault("lose"),
    Fault("cut"),
)


def at_rate(rate: float, seed: int = 0) -> Choose:
    """Each request fails with this probability, in any of the ways."""
    rng, guard = random.Random(seed), threading.Lock()

    def choose(method: str, path: str) -> Fault | None:
        with guard:
            return rng.choice(KINDS) if rng.random() < rate else None

    return choose


@dataclass
class FaultyProxy:
    """A running proxy. What it does may be changed at any time."""

    port: int
    target: int
    choose: Choose
    seen: "Counter[str]"
    """Requests by method."""
    headers: dict[str, str]
    """Headers of answers that are replaced, as by a server whose clock is off."""

    @property
    def endpoint(self) -> str:
        """The address to give as the server's."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def faulty_proxy(target: int) -> Iterator[FaultyProxy]:
    """A proxy before the server at this port for the length of the block; it does no harm until it is told to."""
    proxy = FaultyProxy(0, target, lambda method, path: None, Counter(), {})

    class Handler(_Handler):
        of = proxy

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    of: FaultyProxy

    def handle_one_request(self) -> None:
        """One request of a client, which may have gone."""
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def parse_request(self) -> bool:
        """Every method is passed on alike."""
        parsed = super().parse_request()
        if parsed:
            setattr(self, f"do_{self.command}", self._pass)
        return parsed

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.of.seen[self.command] += 1
        fault = self.of.choose(self.command, self.path)
        if fault is not None and fault.kind == "refuse":
            text = f"<Error><Code>{fault.code}</Code><Message>{fault.message}</Message></Error>".encode()
            self._answer(fault.status, [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else text)
        elif fault is not None and fault.kind == "drop":
            self._hang_up()
        else:
            self._forward(body, None if fault is None else fault.kind)

    def _forward(self, body: bytes, kind: Kind | None) -> None:
        connection = HTTPConnection("127.0.0.1", self.of.target, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer: HTTPResponse = connection.getresponse()
            data = answer.read()
        except (OSError, HTTPException):
            self._hang_up()
            return
        finally:
            connection.close()
        if kind == "lose" or (kind == "cut" and not data):
            self._hang_up()
            return
        headers = [(n, v) for n, v in answer.getheaders() if n.lower() not in ("connection", "transfer-encoding")]
        self._answer(answer.status, headers, data, cut=kind == "cut")

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        given = {name.lower() for name, _ in headers}
        for name, value in headers:
            self.send_header(name, self.of.headers.get(name.lower(), value))
        if "date" not in given:
            self.send_header("Date", self.of.headers.get("date", self.date_time_string()))
        if "content-length" not in given:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the tests say what they saw."""
