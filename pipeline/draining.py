"""Whether the machine that a step runs on is about to be taken away, as far as Ray knows: a spot machine that is called
back, or a node that an autoscaler or `ray drain-node` ends."""

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

ASK_SECONDS = 3.0


def node_draining() -> Callable[[], bool]:
    """What says whether this process's node is being drained. It asks Ray every few seconds at most, however often it
    is called."""
    import ray
    from ray._private.state import state

    node, asked, answer = ray.get_runtime_context().get_node_id(), 0.0, False

    def draining() -> bool:
        nonlocal asked, answer
        if not answer and time.monotonic() - asked > ASK_SECONDS:
            try:
                answer = node in state.get_draining_nodes()
            except Exception as error:  # noqa: BLE001  (whatever Ray raises: a head that restarts must not end a step)
                log.warning("whether this machine is about to go is not known for now: %s", error)
            asked = time.monotonic()
        return answer

    return draining


def group_draining() -> bool:
    """Whether a node of this Ray Train worker's group is being drained: Ray Train asks, and tells each worker.

    `ray.train.get_preemption_info` would make the workers wait for each other at every call.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None
