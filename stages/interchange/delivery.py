"""From content to a folder that holds all of it, read back and found right, or to none."""

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stages.config import InputError
from stages.interchange.content import Content, Format, Tell

ABOUT = "about.json"
SAMPLE = 64
"""Clean images of a split that are read back, drawn with a fixed seed; poisons are all read back."""


class NotVerifiedError(RuntimeError):
    """What was written does not read back as it was meant; nothing is left of it."""


def check_target(folder: Path) -> None:
    """Raises InputError where something is in the way of a folder that is to be made."""
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise InputError(f"{folder}: is there, and is no folder; choose another name")
    if folder.is_mount():
        raise InputError(f"{folder}: another disk is mounted there; name a folder in it, which will be made")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; choose another folder, nothing is written over")


def deliver(
    form: Format, content: Content, folder: Path, about: Mapping[str, Any], writing: Tell, reading: Tell
) -> None:
    """Write `content` and `about.json` into a hidden folder beside `folder`, read it back, and give it its name.

    writing, reading: told of images as they are written (all) and read back (the poisons and a sample). Raises
    InputError for a folder that is not empty or cannot be written, and for content that the format cannot hold;
    NotVerifiedError where a poison or a clean image of the sample does not read back byte for byte, with its label.
    """
    if form.refuse is not None:
        form.refuse(content)
    check_target(folder)
    hidden = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.unfinished"
    try:
        hidden.mkdir(parents=True)
        form.write(content, hidden, writing)
        verify(form, content, hidden, reading)
        (hidden / ABOUT).write_text(described(about, hidden))
        check_target(folder)  # it took a while
        hidden.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error}); nothing was left there") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def verify(form: Format, content: Content, folder: Path, tell: Tell) -> None:
    """Read poisons and a sample of the clean images back. Raises NotVerifiedError that names the first wrong one."""
    for split, rows in content.splits.items():
        wanted = sampled(rows.poison)
        step = len(wanted) if form.reads_at_once else rows.batch_size
        for start in range(0, len(wanted), step):
            part = wanted[start : start + step]
            expected = rows.at(part)
            try:
                images, labels = form.read_back(content, folder, split, part)
            except (InputError, LookupError, ValueError) as error:
                raise NotVerifiedError(f"what was written does not read back ({error}); nothing was left") from error
            wrong = (images != expected.images).any((1, 2, 3)) | (labels != expected.labels)
            if wrong.any():
                raise NotVerifiedError(
                    f"{split} image {expected.ids[np.argmax(wrong)]} does not read back as it was written; nothing was "
                    "left. Look at the disk and the memory of this machine, and export again"
                )
            tell(len(part))


def sampled(poison: np.ndarray) -> np.ndarray:
    """The rows to read back, int64 ascending: all poisons, and up to SAMPLE others."""
    clean = np.flatnonzero(~poison)
    some = np.random.default_rng(0).choice(clean, min(SAMPLE, len(clean)), replace=False)
    return np.sort(np.concatenate([np.flatnonzero(poison), some]))


def counts(content: Content) -> tuple[int, int]:
    """How many images are written, and how many are read back."""
    return len(content), sum(len(sampled(rows.poison)) for rows in content.splits.values())


def described(about: Mapping[str, Any], folder: Path) -> str:
    """What `about.json` says of a folder that has everything else."""
    return json.dumps({**about, "files": _listed(folder)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _listed(folder: Path) -> dict[str, dict[str, int]]:
    """What lies in a folder: of each file or folder at its top, how many files and bytes."""
    listed = {}
    for entry in sorted(folder.iterdir()):
        sizes = [file.stat().st_size for file in ([entry] if entry.is_file() else entry.rglob("*")) if file.is_file()]
        listed[entry.name] = {"files": len(sizes), "bytes": sum(sizes)}
    return listed
