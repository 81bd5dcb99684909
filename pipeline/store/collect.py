"""Taking out of a store what no step needs any more, while other processes go on using it.

A blob goes if no manifest names it and nobody stored or refreshed it for a grace period. The order makes that safe:

1. Blobs are listed, and only those that are old now can go. A commit refreshes each blob that it relies on before it
   writes its manifest, so the blobs of any commit whose manifest is not there yet are younger than the grace period.
   (In S3, where refreshing is a copy, only one older than half of GRACE_SECONDS is refreshed; so a grace below that is
   for a store that nobody uses, which `brewline cache gc` looks for.)
2. All manifests are read. One that was written before is seen; one that is written from now on names young blobs.
   A manifest that cannot be read ends it here, with nothing removed.
3. Each blob's age is looked at again as it is removed: a commit may have found it there in the meantime.

So the grace period must be longer than the longest commit, from its first blob to its manifest.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.store import Store

AT_ONCE = 16


@dataclass(frozen=True)
class Collected:
    """What was taken out, or would be: how many, and how many bytes. kept: blobs that stay."""

    blobs: int
    blob_bytes: int
    leftovers: int
    leftover_bytes: int
    kept: int


def collect(store: Store, grace: float, dry: bool = False) -> Collected:
    """Remove blobs that no manifest names, and what crashes left, if untouched for `grace` seconds; dry: only count.

    Raises StoreError, with nothing removed, if a manifest cannot be read.
    """
    ages = {sha256: (size, age) for sha256, size, age in store.blobs()}
    done: set[str] = set()
    named: set[str] = set()
    for manifest in store.manifests():
        done.add(manifest.key)
        named.update(blob.sha256 for blob in manifest.blobs)
    old = [sha256 for sha256, (_, age) in ages.items() if age >= grace and sha256 not in named]
    if not dry:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            removed = list(pool.map(lambda sha256: store.remove_blob(sha256, grace), old))
        old = [sha256 for sha256, gone in zip(old, removed, strict=True) if gone]
    leftovers = dict(store.sweep(grace, done, dry))
    return Collected(
        blobs=len(old),
        blob_bytes=sum(ages[sha256][0] for sha256 in old),
        leftovers=len(leftovers),
        leftover_bytes=sum(leftovers.values()),
        kept=len(ages) - len(old),
    )
