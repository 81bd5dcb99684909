"""Steps that lose their worker or their machine: why, and how often a step may before it counts as failed."""

from collections import Counter

from pipeline.work import Progress

ATTEMPTS = 5
"""Times in a row that a step may lose its worker, or have its output damaged, before it counts as failed."""
NODE_ATTEMPTS = 50
"""The same where the whole machine went: spot machines do, and it is not the step's fault."""
PROGRESS_SECONDS = 60.0
"""What ran for so long, and got further than ever before, has left a checkpoint: its losses count anew."""


class Losses:
    """The losses of each step of one run, by its key."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._furthest: dict[str, int] = {}

    def explained(self, key: str, report: Progress | None, error: Exception) -> tuple[str, int]:
        """Why a task ended without a result, and how many times in a row that may be.

        report: the task's last.  error: what Ray raises for it.
        """
        import ray

        if report is not None and report.done > self._furthest.get(key, 0):
            self._furthest[key] = report.done
            if report.seconds > PROGRESS_SECONDS:
                self._counts[key] = 0
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            return "it was ended because its machine ran out of memory; ask for more with runtime.memory_gb", ATTEMPTS
        if isinstance(error, ray.exceptions.NodeDiedError) or (report is not None and report.node not in alive):
            return "its machine is gone", NODE_ATTEMPTS
        return f"its worker died ({type(error).__name__})", ATTEMPTS

    def too_many(self, key: str, attempts: int) -> bool:
        """Count a loss; whether it is one too many."""
        self._counts[key] += 1
        return self._counts[key] >= attempts
