"""What must hold after any chaos: three assertions on a store, for a handful of steps as for a whole cluster's run.

Each raises AssertionError that names the steps. They read the store as it is, so call them when the faults have ended.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.store import Manifest, Store

Ref = tuple[str, str]
"""A step's stage and key."""


def write_ids(store: Store) -> dict[Ref, str]:
    """The attempt that committed each step that is in the store now."""
    return {(manifest.stage, manifest.key): manifest.write_id for manifest in store.manifests()}


def one_manifest_a_key(store: Store, answers: Iterable[Manifest] = ()) -> None:
    """Each step has one manifest, whole with all its blobs, and everyone was given that one.

    answers: what commits returned to anybody, anywhere.
    """
    found = {(manifest.stage, manifest.key): manifest for manifest in store.manifests()}
    damaged = {ref: problems for ref, manifest in found.items() if (problems := store.verify(manifest))}
    assert not damaged, f"committed, and not whole: {damaged}"
    assert all(store.find(key) == [(stage, key)] for stage, key in found), "a key has two manifests"
    strangers = [answer for answer in answers if found.get((answer.stage, answer.key)) != answer]
    assert not strangers, f"somebody was given another manifest than the store has: {strangers}"


def same_content(store: Store, undisturbed: Store, ignore: Iterable[str] = ()) -> None:
    """The steps of the undisturbed run are all there, and are the same but for who ran them where and when.

    ignore: names of outputs, and of metrics, that are never the same twice.
    """
    expected, found = _content(undisturbed, set(ignore)), _content(store, set(ignore))
    lacking = sorted(expected.keys() - found.keys())
    assert not lacking, f"not committed: {lacking}"
    other = {ref: (found[ref], content) for ref, content in expected.items() if found[ref] != content}
    assert not other, f"other content than undisturbed, as (found, expected): {other}"


def nothing_computed_again(store: Store, earlier: Mapping[Ref, str]) -> None:
    """What was committed once is what counts still: nobody ran it again and put another in its place.

    earlier: `write_ids` of the store at any moment before, or those that commits returned.
    """
    now = write_ids(store)
    again = {ref: (now.get(ref), write_id) for ref, write_id in earlier.items() if now.get(ref) != write_id}
    assert not again, f"committed anew, as (write-id now, before): {again}"


def all_hold(
    store: Store, undisturbed: Store, answers: Iterable[Manifest] = (), earlier: Mapping[Ref, str] | None = None
) -> None:
    """All three."""
    one_manifest_a_key(store, answers)
    same_content(store, undisturbed)
    nothing_computed_again(store, earlier or {})


def _content(store: Store, ignore: set[str]) -> dict[Ref, tuple[Any, ...]]:
    return {
        (manifest.stage, manifest.key): (
            manifest.version,
            manifest.params,
            manifest.inputs,
            {name: value for name, value in manifest.metrics.items() if name not in ignore},
            {blob.name: (blob.size, blob.sha256) for blob in manifest.blobs if blob.name not in ignore},
        )
        for manifest in store.manifests()
    }
