"""The proxy is itself tried on the real server, with the real client: a tool that breaks nothing proves nothing."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from faults import (
    CLOCK_SKEW,
    CONFLICT,
    CUT_REQUEST,
    CUT_RESPONSE,
    INJECTED,
    LOST_RESPONSE,
    TRANSIENT,
    Fault,
    at_rate,
    on,
    once,
)
from faulty_proxy import FaultyProxy
from s3_server import BUCKET, S3Server

CUT = (ConnectionClosedError, ReadTimeoutError, ResponseStreamingError, IncompleteReadError)
BODY = bytes(range(256)) * 1024

Connect = Callable[..., Any]


@pytest.fixture
def connect(s3_environment: dict[str, str]) -> Connect:
    """A client that asks once, or as often as it is told."""

    def new(url: str, attempts: int = 1) -> Any:
        config = Config(retries={"total_max_attempts": attempts}, read_timeout=1, connect_timeout=2)
        return boto3.client("s3", endpoint_url=url, config=config)

    return new


@pytest.fixture
def direct(s3_server: S3Server) -> Any:
    """A client that goes around the proxy."""
    return s3_server.client()


def exists(client: Any, key: str) -> bool:
    try:
        client.head_object(Bucket=BUCKET, Key=key)
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 404
        return False
    return True


def test_it_passes_everything_on(proxy: FaultyProxy, direct: Any, connect: Connect) -> None:
    client, key = connect(proxy.endpoint), uuid4().hex
    client.put_object(Bucket=BUCKET, Key=key, Body=BODY, IfNoneMatch="*")
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == BODY
    assert client.get_object(Bucket=BUCKET, Key=key, Range="bytes=10-19")["Body"].read() == BODY[10:20]
    assert client.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == len(BODY)
    assert key in [found["Key"] for found in client.list_objects_v2(Bucket=BUCKET, Prefix=key[:16])["Contents"]]
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"", IfNoneMatch="*")
    client.delete_object(Bucket=BUCKET, Key=key)
    assert not exists(client, key)
    assert proxy.injected == {}
    assert [(request.method, request.conditional) for request in proxy.requests] == [
        ("PUT", True),
        *[(method, False) for method in ("GET", "GET", "HEAD", "GET")],
        ("PUT", True),
        *[(method, False) for method in ("DELETE", "HEAD")],
    ]


@pytest.mark.parametrize("fault", [*TRANSIENT, CLOCK_SKEW], ids=str)
def test_each_fault_of_a_write(proxy: FaultyProxy, direct: Any, connect: Connect, fault: Fault) -> None:
    client, key = connect(proxy.endpoint), uuid4().hex
    before = INJECTED[fault.name]
    proxy.choose = once(fault, on("PUT", key))
    with pytest.raises((ClientError, *CUT)) as caught:
        client.put_object(Bucket=BUCKET, Key=key, Body=BODY, IfNoneMatch="*")
    if fault.status:
        assert isinstance(caught.value, ClientError)
        said = caught.value.response
        assert (said["ResponseMetadata"]["HTTPStatusCode"], said["Error"]["Code"]) == (fault.status, fault.name)
    assert exists(direct, key) == (fault in (LOST_RESPONSE, CUT_RESPONSE))
    assert proxy.injected == {fault: 1} and INJECTED[fault.name] == before + 1
    if not exists(direct, key):
        client.put_object(Bucket=BUCKET, Key=key, Body=BODY, IfNoneMatch="*")
    assert direct.get_object(Bucket=BUCKET, Key=key)["Body"].read() == BODY


@pytest.mark.parametrize("fault", [fault for fault in TRANSIENT if fault not in (CONFLICT, CUT_REQUEST)], ids=str)
def test_each_fault_of_a_read(proxy: FaultyProxy, direct: Any, connect: Connect, fault: Fault) -> None:
    client, key = connect(proxy.endpoint), uuid4().hex
    direct.put_object(Bucket=BUCKET, Key=key, Body=BODY)
    proxy.choose = once(fault, on("GET", key))
    with pytest.raises((ClientError, *CUT)):
        client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == BODY


def test_a_lost_response_makes_the_retry_fail(proxy: FaultyProxy, direct: Any, connect: Connect) -> None:
    key = uuid4().hex
    proxy.choose = once(LOST_RESPONSE, on("PUT", key))
    with pytest.raises(ClientError, match="PreconditionFailed"):
        connect(proxy.endpoint, 3).put_object(Bucket=BUCKET, Key=key, Body=BODY, IfNoneMatch="*")
    assert exists(direct, key)


def test_rates_are_kept_and_repeat_with_the_seed(s3_server: S3Server, connect: Connect) -> None:
    def faults(seed: int) -> list[Fault | None]:
        with FaultyProxy(s3_server.endpoint) as proxy:
            client = connect(proxy.endpoint)
            with proxy.failing(at_rate(0.5, on("GET"), seed)):
                for _ in range(100):
                    _tried(client)
            counted = [request.fault for request in proxy.requests]
            assert proxy.injected.total() == 100 - counted.count(None)
            assert _tried(client)
            return counted

    first = faults(1)
    assert 30 < 100 - first.count(None) < 70
    assert set(first) >= {None, *TRANSIENT} - {CONFLICT}
    assert faults(1) == first
    assert faults(2) != first


def _tried(client: Any) -> bool:
    try:
        client.list_objects_v2(Bucket=BUCKET, Prefix="nothing")
    except (BotoCoreError, ClientError):
        return False
    return True


def test_a_server_that_is_gone_and_comes_back(proxy: FaultyProxy, direct: Any, connect: Connect) -> None:
    client = connect(proxy.endpoint)
    assert _tried(client)
    proxy.cut_off()
    with pytest.raises((EndpointConnectionError, ConnectionClosedError)):
        client.list_objects_v2(Bucket=BUCKET)
    with pytest.raises(EndpointConnectionError):
        client.list_objects_v2(Bucket=BUCKET)
    proxy.restore()
    assert _tried(client)


@pytest.mark.parametrize("carried_out", [False, True])
def test_a_request_that_is_held(proxy: FaultyProxy, direct: Any, connect: Connect, carried_out: bool) -> None:
    key, client = uuid4().hex, connect(proxy.endpoint, 1)
    dropped = proxy.stall(on("PUT", key), carried_out)
    with pytest.raises(ReadTimeoutError):
        client.put_object(Bucket=BUCKET, Key=key, Body=BODY)
    dropped.wait()
    assert exists(direct, key) == carried_out
    dropped.drop()
    held = proxy.stall(on("PUT", key), carried_out)
    threading.Timer(0.2, held.release).start()
    client.put_object(Bucket=BUCKET, Key=key, Body=b"held")
    assert held.reached.is_set()
    assert direct.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"held"


def test_a_clock_that_is_off(proxy: FaultyProxy, direct: Any, connect: Connect) -> None:
    client, key = connect(proxy.endpoint), uuid4().hex
    proxy.clock_offset = timedelta(hours=5)
    client.put_object(Bucket=BUCKET, Key=key, Body=b"")
    ahead = client.head_object(Bucket=BUCKET, Key=key)["LastModified"] - datetime.now(UTC)
    assert timedelta(hours=4.9) < ahead < timedelta(hours=5.1)
