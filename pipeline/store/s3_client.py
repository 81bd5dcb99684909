"""The client of S3, and the one policy of what is tried again and for how long.

Every request of boto3 and of its parallel transfers passes `Patience`, which answers botocore's question whether to
try again. botocore's own policies give up within seconds, and a server that throttles needs minutes.
"""

import random
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.store.s3_address import Address
from pipeline.store.s3_errors import CONFLICT, may_pass, redaction
from stages.config import InputError

THREADS = 32
"""Requests that are under way at once, for a process."""
PART = 16 << 20
"""Bytes of a part of a large file; S3 takes 10,000 of them, and larger ones for larger files."""
CUTS = 100
"""Times that one part of a download may break off in the middle."""


@dataclass(frozen=True)
class Patience:
    """How long to go on trying. All in seconds."""

    deadline: float = 300.0
    """A request that fails for so long has failed."""
    longest: float = 4.0
    """The longest pause between two tries; they grow from a twentieth of a second, with full jitter."""
    connect: float = 10.0
    read: float = 60.0

    def pause(self, tries: int) -> float:
        """How long to wait after so many tries that failed."""
        return random.uniform(0, min(self.longest, 0.05 * 2 ** min(tries, 20)))

    def needs_retry(
        self,
        response: Any,
        operation: Any,
        caught_exception: Exception | None,
        attempts: int,
        request_dict: Any,
        **_: Any,
    ) -> float | None:
        """Botocore's question after every request: the pause before the next try, null for none."""
        if caught_exception is not None:
            again = broke_off(caught_exception) and "CERTIFICATE" not in str(caught_exception)
        else:
            status, code = response[0].status_code, response[1].get("Error", {}).get("Code")
            # A conflict at the end of an upload in parts, on a condition, ends that upload: it must begin anew.
            ended = operation.name == "CompleteMultipartUpload" and "If-None-Match" in request_dict["headers"]
            again = may_pass(status, code) and not (ended and code in CONFLICT)
        if not again:
            return None
        began = request_dict["context"].setdefault("brewline_failed_first", time.monotonic())
        pause = self.pause(attempts)
        return pause if time.monotonic() + pause < began + self.deadline else None


HASTY = Patience(deadline=3.0, longest=0.5, connect=3.0, read=4.0)
"""For `probe`: somebody waits for its answer."""


class Connection(NamedTuple):
    """boto3's session, its client, and what moves large files in parallel; threads may share them."""

    session: Any
    client: Any
    transfers: Any


def connect(address: Address, patience: Patience) -> Connection:
    """boto3's client. Raises InputError where the user's settings of AWS do not make one."""
    import boto3
    from boto3.s3.transfer import TransferConfig, create_transfer_manager
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=patience.connect,
        read_timeout=patience.read,
        max_pool_connections=2 * THREADS,
        tcp_keepalive=True,
        response_checksum_validation="when_required",  # blobs have their sha256, which says more
    )
    try:
        session = boto3.session.Session()
        client = session.client(
            "s3", endpoint_url=address.endpoint or None, region_name=address.region or None, config=config
        )
    except (BotoCoreError, ValueError) as error:
        raise InputError(
            f"store {address.place}: the settings of AWS on this machine do not work ({redaction(list)(error)}); "
            "check AWS_PROFILE, ~/.aws/config and --s3-endpoint"
        ) from None
    client.meta.events.register("needs-retry.s3", patience.needs_retry)
    transfer = TransferConfig(
        multipart_threshold=4 * PART,
        multipart_chunksize=PART,
        max_concurrency=THREADS // 2,
        num_download_attempts=CUTS,
        preferred_transfer_client="classic",  # the other one has a policy of retries of its own
    )
    return Connection(session, client, create_transfer_manager(client, transfer))


def broke_off(error: Exception) -> bool:
    """Whether there was no connection, or it broke off. Some errors of urllib3 get out of botocore as they are."""
    from botocore import exceptions as boto
    from urllib3.exceptions import HTTPError

    kinds = (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError, HTTPError)
    return isinstance(error, (*kinds, ConnectionError, TimeoutError))
