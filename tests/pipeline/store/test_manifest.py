"""A manifest is read back as it was written, or refused with a reason."""

import json
import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.store.manifest import Blob, DamagedBlob, Manifest, StoreError, new_write_id

KEY = "ab" * 32


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "stage": "brew",
        "key": KEY,
        "version": 3,
        "params": {"eps": 16, "lr": 0.1, "nested": {"δ": [1, None, True]}, "h_rel": 1e-2},
        "inputs": {"surrogate.0": "cd" * 32},
        "write_id": new_write_id(),
        "blobs": (Blob(name="poisons/images.npy", size=7, sha256="ef" * 32),),
        "metrics": {"objective": 0.1 + 0.2, "steps": 150},
        "provenance": {"host": "here", "seconds": 1.5},
    }
    return Manifest(**fields | changes)


def changed(**changes: Any) -> bytes:
    """The JSON of a manifest with some fields replaced; None takes one out."""
    fields = json.loads(manifest().to_json()) | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def test_reads_back_exactly() -> None:
    written = manifest()
    assert Manifest.from_json(written.to_json(), "here", "brew", KEY) == written


def test_tuples_are_what_json_makes_of_them() -> None:
    written = manifest(metrics={"curve": (1.0, 0.5)})
    assert written.metrics == {"curve": [1.0, 0.5]}
    assert Manifest.from_json(written.to_json(), "here", "brew", KEY) == written


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no JSON"),
        (manifest().to_json()[:-40], "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[]", "schema_version None"),
        (changed(schema_version=2), "schema_version 2, and this brewline reads 1"),
        (changed(schema_version=None), "schema_version None"),
        (changed(blobs=None), "lacks blobs"),
        (changed(write_id=None), "write_id"),
        (changed(metrics=None, provenance=None), "lacks metrics, provenance"),
        (changed(colour="red"), "colour"),
        (changed(key="cd" * 32), f"is of brew {'cd' * 32}, not of brew {KEY}"),
        (changed(stage="retrain"), f"is of retrain {KEY}, not of brew"),
        (changed(blobs=[{"name": "../../etc/passwd", "size": 1, "sha256": KEY}]), "no output name"),
    ],
)
def test_refuses_what_is_not_whole(data: bytes, reason: str) -> None:
    with pytest.raises(StoreError) as caught:
        Manifest.from_json(data, "/store/steps/brew/x.json", "brew", KEY)
    assert reason in str(caught.value)
    assert "/store/steps/brew/x.json" in str(caught.value)
    assert "Nothing was deleted" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "..", "a/../b", "./a", "a//b", "a/", "a\\b", "a\nb", "a\0b", "a\udc80"]
)
def test_refuses_names_that_leave_the_folder(name: str) -> None:
    with pytest.raises(ValidationError, match="no output name"):
        Blob(name=name, size=0, sha256=KEY)


@pytest.mark.parametrize("name", ["a", "poisons/images.npy", "..a", "a..b/.hidden", "épsilon δ.json"])
def test_takes_ordinary_names(name: str) -> None:
    assert Blob(name=name, size=0, sha256=KEY).name == name


@pytest.mark.parametrize(
    "changes",
    [
        {"key": KEY[:12]},
        {"key": KEY.upper()},
        {"key": KEY + "\n"},
        {"stage": "../brew"},
        {"inputs": {"base": "cd" * 31}},
        {"write_id": "mine"},
        {"blobs": (Blob(name="a", size=0, sha256=KEY), Blob(name="a", size=1, sha256=KEY))},
    ],
)
def test_refuses_fields_that_would_mislead(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        manifest(**changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes", [float("nan")]])
def test_names_a_metric_that_json_cannot_hold(value: object) -> None:
    with pytest.raises(ValidationError, match="'objective' does not go into JSON"):
        manifest(metrics={"fine": 1, "objective": value})


def test_a_damaged_blob_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DamagedBlob("brew", KEY, "images.npy", "is not in the store")))
    assert (error.stage, error.key, error.name) == ("brew", KEY, "images.npy")
    assert str(error) == "brew abababababab: output images.npy is not in the store; run the step again to repair it"
