"""What networks and busy servers do to requests of S3, and to which: the policy of the proxy in `faulty_proxy`."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

INJECTED: Counter[str] = Counter()
"""How often each fault was done since this process started, of a proxy or otherwise; `make chaos` ends with it."""


@dataclass(frozen=True)
class Fault:
    """With a status: S3's answer of this code and message, and the server never sees the request. Without: one of
    the faults of the connection below."""

    name: str
    status: int | None = None
    message: str = "injected"

    def __str__(self) -> str:
        return self.name


INTERNAL_ERROR = Fault("InternalError", 500)
UNAVAILABLE = Fault("ServiceUnavailable", 503)
SLOW_DOWN = Fault("SlowDown", 503, "Please reduce your request rate.")
CONFLICT = Fault("ConditionalRequestConflict", 409)
"""S3 gives this answer to conditional writes alone; other requests get INTERNAL_ERROR instead."""
CLOCK_SKEW = Fault("RequestTimeTooSkewed", 403)

SILENCE = Fault("silence")
"""No answer for a while, and then a cut; the server never sees the request."""
CUT_BEFORE = Fault("cut before the request")
CUT_REQUEST = Fault("cut within the request")
CUT_RESPONSE = Fault("cut within the answer")
LOST_RESPONSE = Fault("lost answer")
"""Carried out, and then cut with nothing of the answer."""

TRANSIENT = (
    *(INTERNAL_ERROR, UNAVAILABLE, SLOW_DOWN, CONFLICT),
    *(SILENCE, CUT_BEFORE, CUT_REQUEST, CUT_RESPONSE, LOST_RESPONSE),
)
"""Faults that asking again may get over."""


@dataclass(frozen=True)
class Request:
    """What came by. target: path and query; fault: what was done to it, if anything."""

    method: str
    target: str
    conditional: bool
    fault: Fault | None = None


Where = Callable[[Request], bool]
"""Whether a request is of the kind that a test means."""

Choose = Callable[[Request], Fault | None]
"""What is to happen to a request. Two choices join as `lambda request: one(request) or other(request)`."""


def on(method: str, part: str = "") -> Where:
    """Requests of a method whose target has `part` in it."""
    return lambda request: request.method == method and part in request.target


def anything(request: Request) -> bool:
    """All requests."""
    return True


def nth(*numbers: int, of: Where = anything) -> Where:
    """The requests of these numbers among those of a kind to come, from 0."""
    came = count()
    return lambda request: of(request) and next(came) in numbers


def nothing(request: Request) -> None:
    """No harm."""


def each(fault: Fault, where: Where = anything) -> Choose:
    """The fault for every request of a kind."""
    return lambda request: fault if where(request) else None


def once(fault: Fault, where: Where) -> Choose:
    """The fault for the next request of a kind, and none after it."""
    left = [fault]
    return lambda request: left.pop() if left and where(request) else None


def at_rate(rate: float, where: Where = anything, seed: int = 0) -> Choose:
    """Each request of a kind fails with this probability, by any of TRANSIENT as often; the seed's dice decide."""
    dice = random.Random(seed)
    return lambda request: dice.choice(TRANSIENT) if where(request) and dice.random() < rate else None


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
