"""What takes long is made once for all of pytest-xdist's processes: each waits until the first has made it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

Make = Callable[[Path], Any]
Once = Callable[[str, Make], Any]
"""Called as once(name, make): gives what `make(folder)` gave, which is JSON. The folder is for all to read."""


def made_once(shared: Path, name: str, make: Make) -> Any:
    """What `make` gives, by whichever process came first; one that fails leaves it to the next."""
    folder, kept = shared / name, shared / f"{name}.json"
    with FileLock(shared / f"{name}.lock"):
        if not kept.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            kept.write_text(json.dumps(make(folder)))
    return json.loads(kept.read_text())
