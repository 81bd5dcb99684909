"""Connecting to Ray: a cluster at an address, or one of this process alone that ends with it.

Ray by itself tries for minutes where a cluster does not answer, is of another version, or has no node on this machine.
So a cluster is greeted first, and what is wrong with it is said within seconds.
"""

import json
import logging
import os
import platform
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
JOINING = {
    # A head that is there answers at once; these bound how long one is tried that dies or hangs as we connect.
    "RAY_py_gcs_connect_timeout_s": "5",
    "RAY_NUM_REDIS_GET_RETRIES": "2",
    # A job's own environment variables are ours too, with the same values: no conflict.
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
}
"""Set besides in a driver that joins a cluster."""
FORWARDED = ("BREWLINE_DATA", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")
"""Variables of the driver that the workers of a joined cluster get. Never a credential: Ray shows them to everybody."""
OBJECT_STORE_BYTES = 100 * 2**20
"""A local cluster's shared memory. Steps pass keys and read from the store, so almost nothing goes through it."""


@contextmanager
def connected(address: str | None) -> Iterator[list[Machine]]:
    """A connection to Ray for the length of the block; gives what each machine of the cluster has, or will have.

    address: null starts a cluster on this machine, which ends with the block, and with this process however it ends;
    `auto` or `host:port` joins one that is running and that this machine is a node of. Raises InputError where none
    answers, or where its Ray or Python is not this one.
    """
    for name, value in (ENVIRONMENT if address is None else ENVIRONMENT | JOINING).items():
        os.environ.setdefault(name, value)
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        # Without a name Ray would join a cluster of RAY_ADDRESS, or any that was started on this machine.
        address = "local"
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    else:
        address = _greeted(address)
        options["runtime_env"] = {"env_vars": {name: os.environ[name] for name in FORWARDED if name in os.environ}}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, **options)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise InputError(f"no Ray cluster lets us in at {address!r}: {error}. {TOKEN}") from error
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place
    try:
        yield machines()
    finally:
        ray.shutdown()


TOKEN = "Is its head running, and does it ask for a token (then set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN)?"


def _greeted(address: str) -> str:
    """The address as `host:port`, of a cluster that answers, is of our version and has a node on this machine.

    Raises InputError where it is not so.
    """
    from ray._private import services
    from ray._private.utils import check_version_info
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import RayError

    if address == "auto":
        try:
            found = str(services.canonicalize_bootstrap_address_or_die("auto"))
        except (ConnectionError, ValueError) as error:
            raise InputError(
                "--address auto: no Ray cluster runs on this machine, and RAY_ADDRESS names none; start one with "
                "`ray start --head`, or leave --address out for a Ray of this command's own"
            ) from error
    else:
        found = address
    _check_listens(address, found)
    try:
        head = GcsClient(address=found)
        metadata = head.internal_kv_get(b"CLUSTER_METADATA", namespace=b"cluster", timeout=10)
        nodes = {node.hex() for node in head.get_all_node_info(timeout=10)}
    except (RayError, RuntimeError, OSError) as error:
        raise InputError(
            f"--address {address}: something listens, but no Ray head answers ({error}). {TOKEN}"
        ) from error
    if metadata is not None:
        theirs = json.loads(metadata)
        try:
            check_version_info(theirs, "this machine")
        except RuntimeError as error:
            import ray

            raise InputError(
                f"--address {address}: the cluster has Ray {theirs['ray_version']} on Python "
                f"{theirs['python_version']}, and this is Ray {ray.__version__} on Python {platform.python_version()}; "
                "Ray needs both the same, so install brewline with its constraints.txt in one Python on all machines"
            ) from error
    if not nodes.intersection(services.find_node_ids()):
        raise InputError(
            f"--address {address}: the cluster runs, but this machine is no node of it, as Ray needs; run this on its "
            "head or another node, or hand the run over with `brewline submit --address http://HEAD:8265`"
        )
    return found


def _check_listens(address: str, found: str) -> None:
    """Raise InputError where nothing listens at `found`, a `host:port`: Ray itself would try for minutes."""
    host, colon, port = found.rpartition(":")
    if not colon or not port.isdigit():
        raise InputError(f"--address {address}: expected auto, or host:port as in 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--address {address}: no Ray cluster listens there ({error}); is its head running?"
        ) from error
