"""Bringing steps, and a run's files, from one store to another: from a folder to a bucket, say, or back.

Each step's blobs first, then its manifest as it is, byte for byte: so the target is a store in its own right at any
moment, and a copy that was interrupted goes on where it was.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

from pipeline.store import Blob, Manifest, Store, StoreError

AT_ONCE = 8
LOG_SUFFIX = ".jsonl"
"""Of files that grow at their end."""


@dataclass(frozen=True)
class Transfer:
    """What a copy has to bring."""

    steps: tuple[Manifest, ...]
    """Those that the target lacks."""
    blobs: dict[str, Blob]
    """By sha256, those that the target lacks."""
    there: int
    """Steps that the target has."""
    absent: int
    """Steps that the source does not have: they did not run yet."""

    @property
    def size(self) -> int:
        """Bytes to bring."""
        return sum(blob.size for blob in self.blobs.values())


def compare(source: Store, target: Store, steps: Iterable[tuple[str, str]]) -> Transfer:
    """What of the steps (stage, key) has to be brought to `target`. Raises StoreError if one is damaged in `source`."""
    wanted, found = list(steps), {}
    for manifest, missing in source.look(wanted):
        if missing:
            raise StoreError(
                f"{manifest.stage} {manifest.key[:12]} in {source.url}: output {missing[0].name} is missing or cut "
                "short; run the step again to repair it, then copy. Nothing was copied"
            )
        found[manifest.stage, manifest.key] = manifest
    there = {manifest.key for manifest, missing in target.look(found) if not missing}
    lacking = tuple(manifest for manifest in found.values() if manifest.key not in there)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        blobs = {blob.sha256: blob for missing in pool.map(target.missing, lacking) for blob in missing}
    return Transfer(lacking, blobs, len(there), len(wanted) - len(found))


def transfer(source: Store, target: Store, what: Transfer, brought: Callable[[int], None]) -> None:
    """Bring the steps over, several at once. brought: is told the bytes of each blob that has arrived.

    Every blob is checked for its sha256 as it leaves and as it arrives. Raises StoreError if one is damaged, or the
    target cannot take it; what has arrived stays, and the next copy goes on from there. Who is interrupted does not
    wait for files under way in S3.
    """

    interrupted = Event()

    def bring(blob: Blob) -> None:
        with source.blob_file(blob) as file:
            if interrupted.is_set():
                raise CancelledError
            target.upload(blob, file)
        brought(blob.size)

    def finish(manifest: Manifest) -> None:
        for blob in manifest.blobs:
            if blob.sha256 in arriving:
                arriving[blob.sha256].result()
        target.settle(manifest)

    with ThreadPoolExecutor(AT_ONCE) as carriers, ThreadPoolExecutor(AT_ONCE) as finishers:
        arriving: dict[str, Future[None]] = {
            digest: carriers.submit(bring, blob) for digest, blob in what.blobs.items()
        }
        finished = [finishers.submit(finish, manifest) for manifest in what.steps]
        try:
            for step in finished:
                step.result()
        except BaseException as error:
            finishers.shutdown(wait=False, cancel_futures=True)
            carriers.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, Exception):
                interrupted.set()
                source.give_up()
                target.give_up()
            raise


def copy_run(source: Store, target: Store, run: str) -> int:
    """Bring a run's files over; returns how many. A log that has gone on in the target by itself stays as it is."""
    count = 0
    for name in source.run_files(run):
        ours, theirs = source.read_run(run, name) or b"", target.read_run(run, name)
        if ours == theirs:
            continue
        if not name.endswith(LOG_SUFFIX):
            target.write_run(run, name, ours)
            count += 1
        elif ours.startswith(theirs or b"") and (lines := _whole_lines(ours.removeprefix(theirs or b""))):
            target.append_run(run, name, lines)
            count += 1
    return count


def _whole_lines(data: bytes) -> str:
    """All but a last line that was cut short."""
    return data[: data.rfind(b"\n") + 1].decode()
