"""Gives back what a Ray Train group has reserved where the group fails while it starts, or is lost with its leader.

Ray Train 2.60 forgets a placement group whose workers die between being placed and being launched, and one that still
waits for machines when its leader dies; of others it looks after those alone whose cluster has a dashboard. Their
resources would stay reserved until the driver ends, and the group that starts anew would wait for them. Imports Ray:
see `train_group`.
"""

from typing import Any

import ray
from ray._private.state import state
from ray.core.generated import gcs_pb2
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.util import get_current_placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup


class Release(ControllerCallback, WorkerGroupCallback):
    """Remembers the placement group of the last start, and removes it before the next one and at the end."""

    def __init__(self) -> None:
        self._reserved: Any = None

    def before_init_train_context(self, workers: list[Any]) -> dict[str, list[Any]]:
        """The first time that workers can be asked; before it Ray Train itself removes the group."""
        self._reserved = ray.get(workers[0].actor.execute.remote(get_current_placement_group))
        return {}

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Before the next group is placed."""
        self._release()

    async def before_controller_shutdown(self) -> None:
        """However it ends."""
        self._release()

    def _release(self) -> None:
        if self._reserved is not None:
            remove_placement_group(self._reserved)  # nothing happens where it is removed
            self._reserved = None


def release_ownerless() -> None:
    """Remove the placement groups of this job whose owner, Ray Train's controller, is dead."""
    messages: Any = gcs_pb2
    job = ray.get_runtime_context().get_job_id()
    for told in state._connect_and_get_accessor().get_placement_group_table():
        group = messages.PlacementGroupTableData.FromString(told)
        ours = group.creator_job_id.hex() == job and group.creator_actor_dead and not group.is_detached
        if ours and group.state != group.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
