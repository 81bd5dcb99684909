"""The manifest: one small JSON file that says a step is done, what it left and how it came about.

A step is done if and only if its manifest is in the store. So every kind of store writes and reads it through this
module, which refuses to guess: a manifest that is not whole is an error, never an empty result.
"""

import json
from typing import Annotated, Any, Final, Literal
from uuid import uuid4

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from stages.config import Config

SCHEMA_VERSION: Final = 1
"""Raised when a manifest is laid out differently; older programs then refuse to read it."""


class StoreError(RuntimeError):
    """The store cannot do what was asked. The message names the file, says what was found and what to do."""

    away = False
    """Whether the same may work later: the store did not answer for a long time, or only that it is busy."""


class DamagedBlob(StoreError):
    """A blob of a committed step is absent or holds other bytes; running the step again repairs it."""

    def __init__(self, stage: str, key: str, name: str, problem: str) -> None:
        super().__init__(stage, key, name, problem)
        self.stage, self.key, self.name, self.problem = stage, key, name, problem

    def __str__(self) -> str:
        return f"{self.stage} {self.key[:12]}: output {self.name} {self.problem}; run the step again to repair it"


def new_write_id() -> str:
    """A name for one attempt at a step, 32 hex characters, never used before."""
    return uuid4().hex


def _relative(name: str) -> str:
    """`name` if it is a relative POSIX path that stays in its folder."""
    if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or not name.isprintable():
        raise ValueError(f"{name!r} is no output name; expected a relative path with '/', without '.', '..' or a root")
    return name


def _json_ready(values: dict[str, Any]) -> dict[str, Any]:
    """`values` as reading them back from JSON gives them: tuples are lists. Raises ValueError naming a bad entry."""
    ready = {}
    for name, value in values.items():
        try:
            ready[name] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name!r} does not go into JSON ({error}); give finite numbers, text or null") from error
    return ready


def _unique(blobs: "tuple[Blob, ...]") -> "tuple[Blob, ...]":
    names = [blob.name for blob in blobs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"output {twice[0]!r} is listed more than once")
    return blobs


Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A whole sha256 in lower-case hex: a step's key, or a blob's content."""

JsonDict = Annotated[dict[str, Any], AfterValidator(_json_ready)]


class Blob(Config):
    """One output file of a step."""

    name: Annotated[str, AfterValidator(_relative)]
    """Where the file lies in the step's output folder: a relative POSIX path."""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    sha256: Digest
    """The file's content, and so its name in the store."""


class Manifest(Config):
    """What a step is and what it left. As a draft, before it is committed, it has no blobs."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    key: Digest
    version: int
    """The stage's VERSION."""
    params: JsonDict
    """The identity of the stage's params."""
    inputs: dict[str, Digest]
    """The key of the step that fills each role."""
    write_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    """The attempt that committed: tells a store whether a manifest that is there is its own."""
    blobs: Annotated[tuple[Blob, ...], AfterValidator(_unique)] = ()
    metrics: JsonDict = Field(default_factory=dict)
    provenance: JsonDict = Field(default_factory=dict)
    """Where and when it ran and with which versions; for people, nothing depends on it."""

    def to_json(self) -> bytes:
        """The manifest as it lies in a store: UTF-8 JSON, every field written."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False).encode()

    @staticmethod
    def from_json(data: bytes, where: str, stage: str, key: str) -> "Manifest":
        """The manifest of step (`stage`, `key`) that `where` in a store holds.

        Raises StoreError that names `where` if it is no JSON, of another schema version, not whole, or of another step.
        """
        try:
            fields = json.loads(data)
        except ValueError as error:
            raise _unreadable(where, f"is no JSON ({error})") from error
        found = fields.get("schema_version") if isinstance(fields, dict) else None
        if found != SCHEMA_VERSION:
            raise _unreadable(where, f"has schema_version {found!r}, and this brewline reads {SCHEMA_VERSION}")
        try:
            manifest = Manifest.model_validate(fields)
        except ValidationError as error:
            raise _unreadable(where, f"is not a manifest: {error}") from error
        if lacking := sorted(set(Manifest.model_fields) - manifest.model_fields_set):
            raise _unreadable(where, f"lacks {', '.join(lacking)}")
        if (manifest.stage, manifest.key) != (stage, key):
            raise _unreadable(where, f"is of {manifest.stage} {manifest.key}, not of {stage} {key}")
        return manifest


def _unreadable(where: str, problem: str) -> StoreError:
    return StoreError(
        f"manifest {where} {problem}. Nothing was deleted: whether this step is done is not known. Read it with the "
        "brewline that wrote it, or move the file away, and the step runs again"
    )
