"""Before a run starts on several machines: each of them must reach the same store, with the rights that it needs."""

import socket
from typing import Any
from uuid import uuid4

from pipeline.store import Store, StoreError, open_store
from stages.config import InputError

SECONDS = 60.0
"""Machines that have not answered by then are left to themselves: a step that they run will tell."""
TOKENS = "preflight.jsonl"
"""The file of a run that all machines must see. Each process that starts it adds a line: several may at once."""


def check_machines(store: Store, run: str) -> None:
    """Try the store from each machine of the connected cluster, where there are several.

    Raises InputError that names the machines from which it does not work, and why.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    token = uuid4().hex
    announce(store, run, token)
    look = ray.remote(num_cpus=0, max_retries=0)(problem)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            store.url, run, token
        ): host
        for node, host in nodes.items()
    }
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=SECONDS)
    problems = [_answer(reference, asked[reference]) for reference in answered]
    for reference in late:
        ray.cancel(reference, force=True)
    if found := sorted(set(filter(None, problems))):
        raise InputError("\n".join([f"store {store.url} does not work from all machines of the cluster:", *found]))


def announce(store: Store, run: str, token: str) -> None:
    """Write what `problem` looks for."""
    store.append_run(run, TOKENS, f'"{token}"\n')


def _answer(reference: Any, host: str) -> str | None:
    """What a machine that answered says is wrong; a machine that went just now says nothing."""
    import ray

    try:
        found: str | None = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return f"  {host}: it cannot try ({str(error).strip().splitlines()[-1]}); is this brewline installed there?"
    except ray.exceptions.RayError:
        return None
    return found


def problem(url: str, run: str, token: str) -> str | None:
    """What keeps this machine from using the store, if anything."""
    host = socket.gethostname()
    try:
        store = open_store(url)
        store.probe()
        seen = store.read_run(run, TOKENS) or b""
    except (InputError, StoreError) as error:
        return f"  {host}: {error}"
    if f'"{token}"'.encode() in seen.splitlines():
        return None
    return (
        f"  {host}: it does not see what was just written there; a folder must be the same one on all machines, "
        "by a mount; or give a store in S3"
    )
