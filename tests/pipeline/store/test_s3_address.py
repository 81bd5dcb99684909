"""The one string that opens a store in S3."""

import pytest

from pipeline.store import open_store
from pipeline.store.s3_address import Address, parse
from stages.config import InputError

WHOLE = "s3://bucket/a/b?endpoint=http://10.0.0.1:8333&region=eu-west-1&storage_class=STANDARD_IA"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("s3://bucket", Address("bucket")),
        ("s3://bucket/", Address("bucket")),
        ("s3://my.bucket/a/b/", Address("my.bucket", "a/b")),
        (WHOLE, Address("bucket", "a/b", "http://10.0.0.1:8333", "eu-west-1", "STANDARD_IA")),
        ("s3://bucket/with%20space%23?region=r", Address("bucket", "with space#", region="r")),
    ],
)
def test_an_address_is_read_and_written(url: str, address: Address) -> None:
    assert parse(url) == address
    assert parse(address.url) == address
    assert open_store(url).url == address.url


def test_a_place_is_without_options() -> None:
    assert open_store(WHOLE).place("runs/one") == "s3://bucket/a/b/runs/one"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://bucket/p?endpiont=http://h", "unknown 'endpiont' .*did you mean 'endpoint'"),
        ("s3://bucket/p?region=a&region=b", "given twice"),
        ("s3:/bucket/p", "expected s3://bucket/prefix, with two slashes"),
        ("s3://", "no bucket's name"),
        ("s3://Bucket_1/p", "no bucket's name"),
        ("s3://bucket/a/../b", r"without '//', '\.' and '\.\.'"),
        ("s3://bucket/p#x", "%23"),
        ("s3://bucket/p?endpoint=minio:9000", "expected https://host or http://host:port"),
        ("s3://bucket/p?endpoint=http://h:port", "cannot be read"),
        ("s3://bucket/p?region=eu west", "S3 region 'eu west'"),
        ("s3://bucket/p?storage_class=cold", "S3 storage class 'cold'"),
        ("s3://bucket/p?storage_class=DEEP_ARCHIVE", "cannot be read until it is restored"),
    ],
)
def test_a_wrong_address_is_refused(url: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/p?endpoint=http://user:hidden@host:9000",
        "s3://key:hidden@bucket/p",
        "s3://bucket/p?endpoint=https://host/?X-Amz-Signature=hidden",
        "s3://bucket/p?endpoint=http://user:hidden@host:port",
        "s3://bucket/p?secret_key=hidden",
        "s3://key:hidden/hidden@bucket/p",
        "s3a://key:hidden@bucket/p",
        "http://key:hid/hidden@host:9000/bucket",
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError) as caught:
        open_store(url)
    assert "hidden" not in f"{caught.value!r} {caught.value.__cause__!r}"
