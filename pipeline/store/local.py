"""A store in a folder: a local disk, or a file system that all machines of a cluster mount.

It needs three things of the file system, which `probe` tries out: hard links that refuse to overwrite, fsync, and
locks (for repairs, and to keep blobs from `cache gc`). Outputs are linked into place, not copied, where scratch and
blobs share a disk.
"""

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from pipeline.store.files import (
    ADVICE,
    explained,
    link_anew,
    link_or_copy,
    locked,
    plain_files,
    sha256_of,
    sha256_once,
    sync,
    temporary_file,
    write_down,
)
from pipeline.store.local_lease import Leases
from pipeline.store.local_runs import Runs
from pipeline.store.local_upkeep import Upkeep
from pipeline.store.manifest import Blob, DamagedBlob, Manifest, StoreError
from pipeline.store.names import KEY, MANY, key_prefix, whole_key
from stages.config import InputError

log = logging.getLogger(__name__)


class LocalStore(Leases, Runs, Upkeep):
    """The store in folder `root` (absolute). Holds no open files, so it may be sent to other processes."""

    def __init__(self, root: Path) -> None:
        self.url = str(root)
        self._root = root
        self._blobs = root / "blobs"
        self._steps = root / "steps"
        self._lock = root / "repair.lock"

    def probe(self) -> None:
        """Make the folder; write, link and read back a file in it."""
        try:
            with temporary_file(self._root) as first, temporary_file(self._root) as second:
                write_down(first, b"probe")
                link_anew(first, second)
                if second.read_bytes() != b"probe" or link_anew(first, second):
                    raise InputError(f"store {self.url}: files do not read back as written; choose another file system")
                with locked(self._lock):
                    pass
        except OSError as error:
            if error.filename2 is not None:
                raise InputError(
                    f"store {self.url}: its file system makes no hard links ({error.strerror}), "
                    "and a commit needs them; choose a folder on another file system"
                ) from error
            advice = ADVICE.get(error.errno or 0, "choose a folder that can be made and written")
            raise InputError(f"store {self.url}: cannot be written ({error.strerror}); {advice}") from error

    def reach(self) -> None:
        """A file system answers at once."""

    def read(self, stage: str, key: str) -> Manifest | None:
        """The step's manifest."""
        path = self._manifest(stage, key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"manifest {path} cannot be read ({error.strerror}); nothing was deleted") from error
        return Manifest.from_json(data, str(path), stage, key)

    def missing(self, manifest: Manifest) -> list[Blob]:
        """The blobs that are absent or of another size."""
        return [blob for blob in manifest.blobs if self._problem(blob, None)]

    def look(self, steps: Iterable[tuple[str, str]]) -> Iterator[tuple[Manifest, list[Blob]]]:
        """One after the other, as a file system answers at once; of many, those that a listing shows."""
        wanted = list(steps)
        if len(wanted) >= MANY:
            there = {stage: self.keys(stage) for stage in {stage for stage, _ in wanted}}
            wanted = [(stage, key) for stage, key in wanted if key in there[stage]]
        for stage, key in wanted:
            if (manifest := self.read(stage, key)) is not None:
                yield manifest, self.missing(manifest)

    def verify(self, manifest: Manifest) -> list[str]:
        """Every blob hashed anew."""
        problems = [(blob, self._problem(blob, sha256_of)) for blob in manifest.blobs]
        return [f"{blob.name} ({self._blob(blob)}) {problem}" for blob, problem in problems if problem]

    def fetch(self, manifest: Manifest, folder: Path) -> None:
        """Symbolic links to the blobs, so that it costs no space."""
        folder.mkdir(parents=True, exist_ok=True)
        for blob in manifest.blobs:
            if problem := self._problem(blob, partial(sha256_once, remembered=self._root / "hashed")):
                raise DamagedBlob(manifest.stage, manifest.key, blob.name, problem)
            source, target = self._blob(blob), folder / blob.name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.symlink_to(source)
            except FileExistsError as error:
                if not target.is_symlink() or target.readlink() != source:
                    raise StoreError(
                        f"{target} is there already and is not {source}; fetch into a new folder"
                    ) from error

    def commit(self, folder: Path, draft: Manifest, again: bool = False) -> Manifest:
        """Blobs first, then the manifest. Files are near: what is there is read and checked, `again` or not."""
        needed = 0
        try:
            outputs = plain_files(folder, lambda path: path.parent == self._blobs.resolve())
            needed = sum(path.stat().st_size for _, path in outputs)
            blobs = tuple(self._store(name, path) for name, path in outputs)
            if blobs:
                sync(self._blobs)
            return self._settle(draft.model_copy(update={"blobs": blobs}))
        except FileNotFoundError as error:
            # Another attempt that committed this step has cleared its scratch, and this folder with it.
            theirs = self.read(draft.stage, draft.key)
            if theirs is None or self.verify(theirs):
                raise StoreError(f"output {error.filename} of {draft.stage} is gone; run the step again") from error
            return theirs
        except OSError as error:
            raise explained(error, self._root, folder, needed) from error

    @contextmanager
    def blob_file(self, blob: Blob) -> Iterator[Path]:
        """The blob itself."""
        if problem := self._problem(blob, sha256_of):
            raise StoreError(f"blob {self._blob(blob)} {problem}; run the step again to repair it")
        yield self._blob(blob)

    def upload(self, blob: Blob, source: Path) -> None:
        """Copied: a link to another store's file would tie the two together."""
        try:
            self._place(blob, source, partial(shutil.copyfile, source))
            sync(self._blobs)
        except OSError as error:
            raise explained(error, self._root, source, blob.size) from error

    def give_up(self) -> None:
        """A file is copied to its end."""

    def settle(self, manifest: Manifest) -> Manifest:
        """Refresh the blobs, so that `cache gc` leaves them alone, look whether they are there, and write."""
        try:
            for blob in manifest.blobs:
                with suppress(FileNotFoundError):
                    self._refresh(self._blob(blob))
            if missing := self.missing(manifest):
                raise StoreError(f"blob {self._blob(missing[0])} is missing or cut short; store it first")
            return self._settle(manifest)
        except OSError as error:
            raise explained(error, self._root, self._manifest(manifest.stage, manifest.key), 0) from error

    def scratch(self, key: str) -> Path:
        """`scratch/<key>`, made if need be."""
        folder = self._root / "scratch" / whole_key(key)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explained(error, self._root, folder, 0) from error
        return folder

    def push_scratch(self, key: str, name: str) -> str:
        """Nothing to bring: all machines see the folder."""
        return str(self.scratch(key) / name)

    def pull_scratch(self, key: str, name: str, better: Callable[[Path], bool] = lambda _: True) -> None:
        """Nothing to bring: all machines see the folder."""

    def manifests(self, stage: str | None = None) -> Iterator[Manifest]:
        """All committed steps."""
        for of, key in self._committed(stage or "*"):
            if (manifest := self.read(of, key)) is not None:
                yield manifest

    def keys(self, stage: str) -> set[str]:
        """The files' names."""
        return {key for _, key in self._committed(stage)}

    def find(self, prefix: str) -> list[tuple[str, str]]:
        """By the files' names."""
        return self._committed("*", key_prefix(prefix))

    def remove(self, stage: str, key: str) -> bool:
        """Drop the step's manifest."""
        path = self._manifest(stage, key)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        sync(path.parent)
        return True

    def place(self, name: str) -> str:
        """A path."""
        return str(self._root / name)

    def _committed(self, stage: str, prefix: str = "") -> list[tuple[str, str]]:
        """The (stage, key) of each manifest, by the files' names. What others put beside them is not ours."""
        found = (path for path in self._steps.glob(f"{stage}/{prefix}*.json") if KEY.fullmatch(path.stem))
        return sorted((path.parent.name, path.stem) for path in found)

    def _manifest(self, stage: str, key: str) -> Path:
        return self._steps / stage / f"{whole_key(key)}.json"

    def _blob(self, blob: Blob) -> Path:
        return self._blobs / blob.sha256

    def _problem(self, blob: Blob, digest: Callable[[Path], str] | None) -> str | None:
        """What is wrong with a stored blob, if anything; its content is looked at if `digest` is given."""
        path = self._blob(blob)
        try:
            size = path.stat().st_size
            if size != blob.size:
                return f"has {size} bytes, not {blob.size}"
            if digest is not None and digest(path) != blob.sha256:
                return "holds other bytes than its sha256 says"
        except FileNotFoundError:
            return "is not in the store"
        except OSError as error:
            raise StoreError(
                f"blob {path} cannot be read ({error.strerror}), so whether it is whole is not known. If its disk is "
                "damaged, delete that file and run again"
            ) from error
        return None

    def _store(self, name: str, source: Path) -> Blob:
        """Bring one output file in as a blob: kept if it is there and whole, put in its place if it is damaged.

        An output that is a link to a blob is that blob: it was hashed when it was fetched, and is not read again.
        """
        if source.is_symlink():
            self._refresh(source.resolve())
            return Blob(name=name, size=source.stat().st_size, sha256=source.resolve().name)
        source.chmod(0o444)
        blob = Blob(name=name, size=source.stat().st_size, sha256=sha256_of(source))
        target = self._blob(blob)
        with suppress(FileNotFoundError):
            self._refresh(target)
        problem = self._problem(blob, sha256_of)
        if problem is None:
            return blob
        repaired = target.exists()
        self._place(blob, source, partial(link_or_copy, source))
        if repaired:
            log.warning("repaired %s of %s: it %s", name, target, problem)
        return blob

    def _place(self, blob: Blob, source: Path, bring: Callable[[Path], object]) -> None:
        """Put a file where the blob belongs. bring: makes it, under a name on the store's disk."""
        with temporary_file(self._blobs) as temporary:
            bring(temporary)
            # What was linked is the very file that was hashed.
            if not temporary.samefile(source) and sha256_of(temporary) != blob.sha256:
                raise StoreError(f"{source} did not arrive whole in {self._blobs}; run again")
            temporary.chmod(0o444)
            sync(temporary)
            temporary.replace(self._blob(blob))

    def _settle(self, manifest: Manifest) -> Manifest:
        """Write the manifest unless a whole one is there: the one that counts."""
        path = self._manifest(manifest.stage, manifest.key)
        with temporary_file(path.parent) as temporary:
            write_down(temporary, manifest.to_json())
            while not link_anew(temporary, path):
                found = self.read(manifest.stage, manifest.key)
                if found is None:
                    continue  # removed since
                if found.write_id == manifest.write_id:
                    manifest = found  # a network file system made the link and lost the answer
                    break
                problems = self.verify(found)
                if not problems:
                    return found
                if self._replace(found, temporary):
                    log.warning("replaced manifest %s: %s", path, "; ".join(problems))
                    break
        sync(path.parent)
        return manifest

    def _replace(self, damaged: Manifest, temporary: Path) -> bool:
        """Put `temporary` in place of a manifest unless that has changed: several attempts may repair at once."""
        with locked(self._lock):
            found = self.read(damaged.stage, damaged.key)
            if found is None or found.write_id != damaged.write_id:
                return False
            temporary.replace(self._manifest(damaged.stage, damaged.key))
            return True
