"""Objects that a real S3 server puts together of ranges of others and of bytes."""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faults import CONFLICT, LOST_RESPONSE, at_rate, each, nth, on, once
from faulty_proxy import FaultyProxy
from pipeline.store.s3_address import Address, parse
from pipeline.store.s3_client import PART, Patience
from pipeline.store.s3_compose import BEGINNINGS, LARGEST, MOST, SMALLEST, Stored, compose, parts_of, stored, traffic
from pipeline.store.s3_errors import S3Error
from pipeline.store.s3_objects import Objects
from s3_server import BUCKET, S3Server
from stages.config import InputError
from stages.shards.pieces import Piece, Span, between, length

MIB = 1 << 20
QUICK = Patience(deadline=60, longest=0.02)


def quiet(copied: int, uploaded: int) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def random_bytes() -> bytes:
    return np.random.default_rng(0).bytes(44 * MIB)


@pytest.fixture
def objects(s3_url: str) -> Objects:
    return Objects(parse(s3_url), QUICK)


@pytest.fixture
def sources(objects: Objects, random_bytes: bytes) -> list[Stored]:
    """Two objects, of 40 MiB and of 4."""
    for name, data in (("blobs/large", random_bytes[: 40 * MIB]), ("blobs/small", random_bytes[40 * MIB :])):
        objects.put(name, data)
    found = [stored(objects, name) for name in ("blobs/large", "blobs/small")]
    return [source for source in found if source]


def whole(pieces: Sequence[Piece], data: Sequence[bytes]) -> bytes:
    return b"".join(
        data[piece.source][piece.start : piece.start + piece.length] if isinstance(piece, Span) else piece
        for piece in pieces
    )


def uploads(server: S3Server, objects: Objects) -> list[Any]:
    found = server.client().list_multipart_uploads(Bucket=BUCKET, Prefix=objects.address.key(""))
    return list(found.get("Uploads", ()))


def some(count: int) -> memoryview:
    return memoryview(bytes([count % 251]) * count)


@pytest.mark.parametrize(
    ("pieces", "copied"),
    [
        ([Span(0, 0, 40 * MIB)], 40 * MIB),
        ([Span(1, 0, 4 * MIB)], 0),  # one part, too short for a copy
        ([some(10)], 0),
        # a patch in the middle takes its neighbourhood along, to the smallest part
        ([Span(0, 0, 20 * MIB), some(1000), Span(0, 20 * MIB + 1000, 20 * MIB - 1000)], 35 * MIB),
        # patches right at the borders of parts, at the start and at the end
        (
            [
                some(7),
                Span(0, 7, PART - 7),
                some(9),
                Span(0, PART + 9, PART - 9),
                some(3),
                Span(0, 0, 8 * MIB),
                some(1),
            ],
            2 * (PART - SMALLEST),
        ),
        # spans of the same source in a row are one; two short ones of another, out of order, are uploaded
        ([Span(0, 0, 6 * MIB), Span(0, 6 * MIB, 6 * MIB), Span(1, 5, MIB), Span(1, 1, 2 * MIB)], 12 * MIB),
        # bytes larger than a part
        ([some(40 * MIB), Span(0, 3, 12 * MIB)], 12 * MIB),
    ],
)
def test_the_object_is_what_its_pieces_say(
    objects: Objects, sources: list[Stored], random_bytes: bytes, pieces: list[Piece], copied: int
) -> None:
    parts, told = parts_of(pieces), []
    made = compose(objects, "made", parts, sources, False, lambda *moved: told.append(moved))
    expected = whole(pieces, [random_bytes[: 40 * MIB], random_bytes[40 * MIB :]])
    got = objects.get("made")
    assert got and got[0] == expected
    assert made.size == len(expected) and made.read(3, 5) == expected[3:8]
    assert traffic(parts) == tuple(np.sum(told, axis=0)) == (copied, len(expected) - copied)


kinds = st.tuples(st.booleans(), st.sampled_from([1, 7, 150_000, SMALLEST - 1, SMALLEST, 11 * MIB, 700 * MIB, LARGEST]))


@settings(deadline=None)
@given(st.lists(st.tuples(kinds, st.integers(1, 50)), min_size=1, max_size=12))
def test_parts_are_as_s3_takes_them_and_lose_nothing(drawn: list[Any]) -> None:
    pieces: list[Piece] = []
    at = 0
    for (copied, size), times in drawn:
        for _ in range(times):
            pieces.append(Span(0, at, size) if copied or size > MIB else some(size))
            at += size + 1
    parts = parts_of(pieces)
    assert len(parts) <= MOST
    sizes = [sum(map(length, part)) for part in parts]
    assert all(SMALLEST <= size <= LARGEST for size in sizes[:-1]) and 0 < sizes[-1] <= LARGEST
    assert _joined([piece for part in parts for piece in part]) == _joined(pieces)


def _joined(pieces: Sequence[Piece]) -> list[tuple[int, bytes]]:
    """Where each byte comes from: (first byte of a span, length) with spans in a row joined, and bytes as they are."""
    runs: list[list[Any]] = []
    for piece in pieces:
        if isinstance(piece, Span):
            if runs and runs[-1][0] == "span" and runs[-1][1] + runs[-1][2] == piece.start:
                runs[-1][2] += piece.length
            else:
                runs.append(["span", piece.start, piece.length])
        elif runs and runs[-1][0] == "bytes":
            runs[-1][1] += bytes(piece)
        else:
            runs.append(["bytes", bytes(piece)])
    return [tuple(run) for run in runs]


def test_more_pieces_than_parts_make_parts_of_many() -> None:
    """200 GB with a poison every 10 MB: alone with their neighbours they would be 40,000 parts."""
    every, poison = 10 * MIB + 4 * SMALLEST, 150_528
    pieces: list[Piece] = []
    for at in range(0, 400 << 30, every):
        pieces += [some(poison), Span(0, at + poison, every - poison)]
    parts = parts_of(pieces)
    assert len(pieces) > 2 * MOST and len(parts) <= MOST
    assert sum(traffic(parts)) == sum(map(length, pieces))


def test_an_object_in_the_way_stays_unless_it_is_to_be_replaced(
    s3_server: S3Server, objects: Objects, sources: list[Stored], random_bytes: bytes
) -> None:
    objects.put("made", b"theirs")
    parts = parts_of([Span(0, 0, 12 * MIB), some(5)])
    with pytest.raises(InputError, match="made: is there already; choose another place, or give --overwrite"):
        compose(objects, "made", parts, sources, False, quiet)
    assert objects.get("made")[0] == b"theirs" and not uploads(s3_server, objects)  # type: ignore[index]
    compose(objects, "made", parts, sources, True, quiet)
    assert objects.get("made")[0] == random_bytes[: 12 * MIB] + some(5)  # type: ignore[index]


@pytest.mark.parametrize("pieces", [[Span(0, 0, 12 * MIB)], [some(7 * MIB), Span(0, 0, 6 * MIB)]], ids=["copy", "read"])
def test_a_source_that_is_another_by_now_leaves_nothing(
    s3_server: S3Server, objects: Objects, sources: list[Stored], random_bytes: bytes, pieces: list[Piece]
) -> None:
    objects.put("blobs/large", random_bytes[: 40 * MIB][::-1])
    with pytest.raises(S3Error, match=r"PreconditionFailed|412"):
        compose(objects, "made", parts_of(pieces), sources, False, quiet)
    assert objects.head("made") is None and not uploads(s3_server, objects)


def test_an_interruption_leaves_no_upload_behind(s3_server: S3Server, objects: Objects, sources: list[Stored]) -> None:
    def interrupt(copied: int, uploaded: int) -> None:
        assert len(uploads(s3_server, objects)) == 1, "it is under way"
        raise KeyboardInterrupt

    pieces = [piece for _ in range(10) for piece in (Span(0, 0, 11 * MIB), some(100))]
    with pytest.raises(KeyboardInterrupt):
        compose(objects, "made", parts_of(pieces), sources, False, interrupt)
    assert objects.head("made") is None and not uploads(s3_server, objects)


def test_an_object_over_a_network_that_fails(
    s3_server: S3Server, objects: Objects, sources: list[Stored], random_bytes: bytes
) -> None:
    """A third of the requests, in every way; and the answer to the last, that all is done, is lost."""
    often, last = at_rate(0.33), on("POST", "uploadId")
    lost = once(LOST_RESPONSE, last)
    pieces = [Span(0, 0, 15 * MIB), some(1000), Span(0, 15 * MIB + 1000, 15 * MIB), Span(1, 7, 2 * MIB)]
    with FaultyProxy(s3_server.endpoint) as proxy:
        proxy.choose = lambda request: lost(request) or often(request)
        through = Objects(Address(BUCKET, objects.address.prefix, proxy.endpoint), QUICK)
        theirs = [Stored(through, source.name, source.size, source.etag) for source in sources]
        name = uuid4().hex
        compose(through, name, parts_of(pieces), theirs, False, quiet)
        assert LOST_RESPONSE in [request.fault for request in proxy.requests if last(request)]
    expected = whole(pieces, [random_bytes[: 40 * MIB], random_bytes[40 * MIB :]])
    assert objects.get(name)[0] == expected  # type: ignore[index]


@pytest.mark.parametrize("conflicts", [2, BEGINNINGS])
def test_an_object_whose_end_meets_another_write_begins_anew(
    s3_server: S3Server, objects: Objects, sources: list[Stored], random_bytes: bytes, conflicts: int
) -> None:
    pieces, told = [Span(0, 0, 12 * MIB), some(1000)], []
    with FaultyProxy(s3_server.endpoint) as proxy:
        proxy.choose = each(CONFLICT, nth(*range(conflicts), of=on("POST", "uploadId")))
        through = Objects(Address(BUCKET, objects.address.prefix, proxy.endpoint), QUICK)
        theirs = [Stored(through, source.name, source.size, source.etag) for source in sources]
        parts, name = parts_of(pieces), uuid4().hex
        if conflicts == BEGINNINGS:
            with pytest.raises(S3Error, match="ConditionalRequestConflict"):
                compose(through, name, parts, theirs, False, quiet)
            assert objects.head(name) is None
        else:
            compose(through, name, parts, theirs, False, lambda *moved: told.append(moved))
            assert objects.get(name)[0] == whole(pieces, [random_bytes])  # type: ignore[index]
            assert tuple(np.sum(told, axis=0)) == traffic(parts)
    refused = [request.target for request in proxy.requests if request.fault is CONFLICT]
    assert len(refused) == len(set(refused)) == conflicts, "each of an upload of its own"
    assert not uploads(s3_server, objects)


def test_pieces_between_two_places() -> None:
    pieces = [some(10), Span(3, 100, 20), some(5)]
    assert list(between(pieces, 8, 32)) == [some(10)[8:], Span(3, 100, 20), some(5)[:2]]
    assert list(between(pieces, 12, 14)) == [Span(3, 102, 2)]
    assert not list(between(pieces, 10, 10))
