"""Connecting to Ray: a cluster at an address, or one of this process alone that ends with it."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.resources import Machine, machines
from stages.config import InputError

# Set before Ray is imported, in the driver and so in its local workers.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's default to come: a task that asks for no GPU sees none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_DEDUP_LOGS": "0",
}
OBJECT_STORE_BYTES = 100 * 2**20
"""A local cluster's shared memory. Steps pass keys and read from the store, so almost nothing goes through it."""


@contextmanager
def connected(address: str | None) -> Iterator[list[Machine]]:
    """A connection to Ray for the length of the block; gives what each machine of the cluster has, or will have.

    address: null starts a cluster on this machine, which ends with the block, and with this process however it ends;
    `auto` or `host:port` joins one that is running. Raises InputError where none answers.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        # Without a name Ray would join a cluster of RAY_ADDRESS, or any that was started on this machine.
        address = "local"
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    elif address != "auto":
        _check(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"no Ray cluster lets us in at {address!r}: {error}. Is it of this version of Ray ({ray.__version__}), and "
            "does it ask for a token (then set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN)?"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place
    try:
        yield machines()
    finally:
        ray.shutdown()


def _check(address: str) -> None:
    """Raise InputError where nothing listens at `host:port`: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise InputError(f"--address {address}: expected auto, or host:port as in 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--address {address}: no Ray cluster listens there ({error}); is its head running?"
        ) from error
