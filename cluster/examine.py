"""What one machine has of what brewline needs, as plain JSON: looked at here, or in a Ray actor on each node.

Only facts, no judgement: the machines of a cluster may hold different versions of brewline, and what a fact means is
for the one who compares them (module `verdicts`).
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import platformdirs

from pipeline.execute import versions
from pipeline.store import StoreError, open_store
from pipeline.store.node_cache import NodeCache
from stages.config import InputError

Facts = dict[str, Any]

# A process of its own: its CUDA context goes with it, and it sees the GPUs that Ray hides from a task without any.
_DEVICES = """
import json, torch
found = {"cuda": torch.version.cuda, "gpus": []}
for index in range(torch.cuda.device_count()):
    gpu = {"name": torch.cuda.get_device_name(index), "problem": None}
    try:
        gpu["gb"] = torch.cuda.get_device_properties(index).total_memory / 1e9
        ones = torch.ones(256, 256, device=f"cuda:{index}")
        right = bool(((ones @ ones) == 256).all())
        gpu["problem"] = None if right else "a matrix product came out wrong"
    except RuntimeError as error:
        gpu["problem"] = str(error).splitlines()[0]
    found["gpus"].append(gpu)
try:
    import ffcv
    found["ffcv"] = None
except Exception as error:
    found["ffcv"] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(found))
"""
DEVICES_SECONDS = 60
"""How long torch and FFCV may take to load on a cold disk, with a product on each GPU."""


def examine(store: str, mark: str | None = None) -> Facts:
    """Look at this machine.

    store: the URL whose probe is tried from here.  mark: a file that the asking machine put into the store's folder;
    null where there is none to look for.
    """
    return {
        "host": socket.gethostname(),
        "versions": versions(),
        "devices": _devices(),
        "disks": {
            "cache": _disk(NodeCache.of_node().root),
            "scratch": _disk(Path(tempfile.gettempdir())),
        },
        "shm_gb": _size(Path("/dev/shm")),
        "memory_gb": _memory(),
        "store": _store(store, mark),
        "data": _data(),
    }


def _devices() -> dict[str, Any]:
    """What torch finds: {cuda, gpus: [{name, gb, problem}], ffcv}, or {problem} where it cannot be asked."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _DEVICES],
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEVICES_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"torch and its GPUs did not answer in {DEVICES_SECONDS} s"}
    if done.returncode:
        return {"problem": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _disk(folder: Path) -> dict[str, Any]:
    """Free space where a folder is, or will be made, and whether one can write there."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            problem = None
    except OSError as error:
        problem = error.strerror
    return {"folder": str(folder), "free_gb": shutil.disk_usage(there).free / 1e9, "problem": problem}


def _size(folder: Path) -> float | None:
    return shutil.disk_usage(folder).total / 1e9 if folder.exists() else None


def _memory() -> float:
    """Memory that this process may use, in GB: the container's limit where it has one."""
    from ray._common.utils import get_system_memory

    return get_system_memory() / 1e9


def _store(url: str, mark: str | None) -> str | None:
    """What is wrong with the store as seen from here, else None."""
    try:
        store = open_store(url)
        if mark is not None and not Path(store.url, mark).exists():
            return f"{store.url} is another folder here than where this was asked: mount one on all nodes, or use s3://"
        store.probe()
    except (InputError, StoreError, OSError) as error:
        return str(error)
    return None


def _data() -> dict[str, Any]:
    """The root of the datasets and the first names in it; null where there is no such folder."""
    given = os.environ.get("BREWLINE_DATA")
    root = Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("brewline")) / "data"
    names = sorted(entry.name for entry in root.iterdir())[:20] if root.is_dir() else None
    return {"root": str(root), "given": given is not None, "names": names}
