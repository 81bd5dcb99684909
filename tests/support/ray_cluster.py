"""A Ray cluster of several nodes on this machine, whose nodes can be killed as a cloud takes spot machines away.

It lives in a process of its own, which is told by lines what to do: a test may have another Ray besides. What is
private to Ray is used here alone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

CPUS_OF_HEAD = 1


class RayCluster:
    """Runs for the length of the block. Each node has one CPU and a node cache of its own, unless told else."""

    def __init__(self, folder: Path, nodes: int, hides: Path | None = None, **environment: str) -> None:
        """folder: of the nodes' caches.  hides: a folder that the cluster's machines do not share with the driver's.

        Raises PermissionError where it may not mount what hides it.
        """
        self._folder = folder
        folder.mkdir(exist_ok=True)
        command = [sys.executable, __file__]
        if hides is not None:
            if os.geteuid() != 0:
                raise PermissionError("only root mounts file systems")
            script = 'mount -t tmpfs none "$0" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", script, str(hides), *command]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = inherited | environment | {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        """What its nodes run with, and what a driver needs to join."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
            start_new_session=True,
        )
        self.address = str(self._tell("start", folder=str(folder / "head"), cpus=CPUS_OF_HEAD))
        self.nodes = [self.add() for _ in range(nodes)]

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate("", timeout=60)

    def add(self, cpus: float = 1, **resources: float) -> int:
        """Start a node and give its number."""
        number = len(list(self._folder.glob("node-*")))
        folder = self._folder / f"node-{number}"
        folder.mkdir()
        self._tell("add", number=number, folder=str(folder), cpus=cpus, resources=resources)
        return number

    def kill(self, number: int) -> None:
        """End a node, its workers and all, without notice."""
        self._tell("kill", number=number)

    def _tell(self, what: str, **facts: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"what": what, **facts}), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the cluster's process ended with {self._process.wait()}")
        return json.loads(answer)


def _serve() -> None:
    from ray.cluster_utils import Cluster

    cluster, nodes = Cluster(), {}
    answers, sys.stdout = sys.stdout, sys.stderr  # Ray prints
    small: dict[str, Any] = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    for line in sys.stdin:
        told = json.loads(line)
        answer = None
        if told["what"] == "kill":
            cluster.remove_node(nodes.pop(told["number"]), allow_graceful=False)
        else:
            own = {"env_vars": {"BREWLINE_NODE_CACHE": told["folder"]}, "num_cpus": told["cpus"]}
            node = cluster.add_node(**small, **own, resources=told.get("resources"))
            if told["what"] == "start":
                answer = cluster.address
            else:
                nodes[told["number"]] = node
        print(json.dumps(answer), file=answers, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _serve()
