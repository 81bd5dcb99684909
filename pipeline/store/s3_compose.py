"""An object put together by the server: ranges of others, which it copies itself, and bytes that are uploaded.

It is one multipart upload, and S3 takes no part under 5 MiB but the last: short ranges, and the neighbourhood of short
bytes, are downloaded and uploaded again. Nobody sees anything of it before it is whole.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import uuid4

from pipeline.store.manifest import StoreError
from pipeline.store.s3_client import PART
from pipeline.store.s3_errors import CHANGED, CONFLICT, S3Error
from pipeline.store.s3_objects import Objects
from stages.config import InputError
from stages.shards.pieces import Piece, Span, between, length

SMALLEST, LARGEST, MOST = 5 << 20, 5 << 30, 10_000
"""Bytes of a part but the last, bytes of a part, and parts."""
COPIED = 16 * PART
"""Bytes of a part that the server copies: so many that requests are few, so few that each is done within a minute."""
AT_ONCE = 16
"""Parts that are under way at once, each with its bytes in memory."""
BEGINNINGS = 5
"""Times that an object is begun whose last request meets another write of the same name."""

Part = list[Piece]
"""What one part is made of. One that is a single span is copied by the server, if it is not short."""
Tell = Callable[[int, int], None]
"""Told how many more bytes are copied by the server, and how many more are uploaded."""


@dataclass(frozen=True)
class Stored:
    """An object to copy from; it must stay the one of this ETag. size: bytes."""

    objects: Objects
    name: str
    size: int
    etag: str

    def read(self, start: int, length: int) -> bytes:
        """Some of its bytes. Raises StoreError where they are not there."""
        data = self.objects.read_range(self.name, start, length, self.etag)
        if len(data) != length:
            raise StoreError(
                f"{self.objects.place(self.name)}: gave {len(data)} bytes from {start} on, expected {length}"
            )
        return data


def stored(objects: Objects, name: str) -> Stored | None:
    """The object that is there now; None where there is none."""
    found = objects.head(name)
    return found and Stored(objects, name, found.size, found.etag)


def parts_of(pieces: Sequence[Piece]) -> list[Part]:
    """How an object of these pieces is put together. Raises StoreError for one that S3 does not take."""
    least, copied, uploaded = 2 * SMALLEST, COPIED, PART
    while uploaded <= LARGEST:
        parts = list(_parts(_merged(pieces), least, min(copied, LARGEST), uploaded))
        if len(parts) <= MOST:
            return parts
        least, copied, uploaded = 2 * least, 2 * copied, 2 * uploaded
    raise StoreError(f"an object of {sum(map(length, pieces)):,} bytes is larger than S3 takes")


def traffic(parts: Sequence[Part]) -> tuple[int, int]:
    """Bytes that the server copies, and bytes that are uploaded."""
    total = sum(length(piece) for part in parts for piece in part)
    copied = sum(span.length for part in parts if (span := _copied(part)))
    return copied, total - copied


def compose(
    objects: Objects, name: str, parts: Sequence[Part], sources: Sequence[Stored], replace: bool, tell: Tell
) -> Stored:
    """Make the object `name` of parts of `sources`, on one endpoint with it; gives it as it is there.

    replace: also where there is one of that name. Raises InputError where there is one and it is not to be replaced,
    S3Error where a source is no longer what it was; then nothing is left.
    """
    for left in reversed(range(BEGINNINGS)):
        try:
            _compose(objects, name, parts, sources, replace, tell)
            break
        except S3Error as error:
            if error.code not in CONFLICT or not left:
                raise
            tell(*(-moved for moved in traffic(parts)))  # it begins anew
    made, size = stored(objects, name), sum(length(piece) for part in parts for piece in part)
    if made is None or made.size != size:
        raise StoreError(f"{objects.place(name)}: has {made.size if made else 'no'} bytes, expected {size}; try again")
    return made


def _compose(
    objects: Objects, name: str, parts: Sequence[Part], sources: Sequence[Stored], replace: bool, tell: Tell
) -> None:
    """One upload in parts, from its beginning to its end."""
    mark = uuid4().hex
    kept = {"StorageClass": objects.address.storage_class} if objects.address.storage_class else {}
    begun = objects.call(
        "create_multipart_upload", name, ChecksumAlgorithm="SHA256", Metadata={"write-id": mark}, **kept
    )
    upload = {"UploadId": begun["UploadId"]}

    def put(numbered: tuple[int, Part]) -> dict[str, Any]:
        number, part = numbered
        span, place = _copied(part), upload | {"PartNumber": number}
        if span:
            source = sources[span.source]
            copied = objects.call(
                "upload_part_copy",
                name,
                CopySource={"Bucket": source.objects.address.bucket, "Key": source.objects.address.key(source.name)},
                CopySourceRange=f"bytes={span.start}-{span.start + span.length - 1}",
                CopySourceIfMatch=source.etag,
                **place,
            )["CopyPartResult"]
            tell(span.length, 0)
        else:
            body = _body(part, sources)
            copied = objects.call("upload_part", name, Body=body, ChecksumAlgorithm="SHA256", **place)
            tell(0, len(body))
        facts = {field: copied[field] for field in ("ETag", "ChecksumSHA256") if copied.get(field)}
        return {"PartNumber": number, **facts}

    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            done = list(pool.map(put, enumerate(parts, 1)))
        try:
            condition = {} if replace else {"IfNoneMatch": "*"}
            objects.call("complete_multipart_upload", name, MultipartUpload={"Parts": done}, **condition, **upload)
        except S3Error as error:
            if not _is_ours(objects, name, mark):  # else the answer got lost, and it was asked again
                if error.code in CHANGED:
                    raise exists(objects.place(name)) from None
                raise
    except BaseException:
        with suppress(S3Error):
            objects.call("abort_multipart_upload", name, **upload)
        raise


def exists(place: str) -> InputError:
    """What is said of an object that is in the way."""
    return InputError(f"{place}: is there already; choose another place, or give --overwrite")


def _is_ours(objects: Objects, name: str, mark: str) -> bool:
    with suppress(S3Error):
        return bool(objects.call("head_object", name).get("Metadata", {}).get("write-id") == mark)
    return False


def _copied(part: Part) -> Span | None:
    """The span that the server copies as this part, if it does."""
    first = part[0]
    return first if len(part) == 1 and isinstance(first, Span) and first.length >= SMALLEST else None


def _parts(pieces: Sequence[Piece], least: int, copied: int, uploaded: int) -> Iterator[Part]:
    """Spans from `least` bytes on in parts of up to `copied` bytes; what is gathered between them in parts of up to
    `uploaded`, and what that lacks of the smallest part is taken of the next span."""
    gathered: Part = []
    for piece in pieces:
        if not isinstance(piece, Span) or piece.length < least:
            gathered.append(piece)
            continue
        lacks = max(0, SMALLEST - sum(map(length, gathered))) if gathered else 0
        yield from _cut([*gathered, *between([piece], 0, lacks)], uploaded)
        yield from _cut(list(between([piece], lacks, piece.length)), copied)
        gathered = []
    yield from _cut(gathered, uploaded)


def _cut(pieces: Sequence[Piece], most: int) -> Iterator[Part]:
    """Pieces cut into parts of up to `most` bytes, all about the same."""
    size = sum(map(length, pieces))
    count = -(-size // most)
    part: Part = []
    at, done = 0, 0
    for piece in pieces:
        taken = 0
        while taken < length(piece):
            end = (done + 1) * size // count
            step = min(length(piece) - taken, end - at)
            part += between([piece], taken, taken + step)
            at, taken = at + step, taken + step
            if at == end:
                yield part
                part, done = [], done + 1


def _merged(pieces: Sequence[Piece]) -> list[Piece]:
    """The same with spans that go on from each other made one."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if (
            isinstance(piece, Span)
            and isinstance(last, Span)
            and (last.source, last.start + last.length) == (piece.source, piece.start)
        ):
            merged[-1] = Span(last.source, last.start, last.length + piece.length)
        else:
            merged.append(piece)
    return merged


def _body(part: Part, sources: Sequence[Stored]) -> bytearray:
    """A part's bytes. Spans that lie in their source as they lie here are read at once, with what is put over them."""
    starts = [0]
    for piece in part:
        starts.append(starts[-1] + length(piece))
    body = bytearray(starts[-1])
    spans = [(at, piece) for at, piece in zip(starts, part, strict=False) if isinstance(piece, Span)]
    for (source, _), group in groupby(spans, key=lambda one: (one[1].source, one[1].start - one[0])):
        (at, first), (last_at, last) = (run := list(group))[0], run[-1]
        end = last_at + last.length
        body[at:end] = sources[source].read(first.start, end - at)
    for at, piece in zip(starts, part, strict=False):
        if not isinstance(piece, Span):
            body[at : at + len(piece)] = piece
    return body
