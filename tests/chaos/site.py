"""A store in a bucket of a real server, reached through the proxy that breaks things, and directly."""

from functools import cached_property
from uuid import uuid4

from faulty_proxy import FaultyProxy
from pipeline.store import Store, open_store
from pipeline.store.s3 import S3Store
from pipeline.store.s3_address import parse
from pipeline.store.s3_client import Patience
from s3_server import BUCKET


class Site:
    """An empty store of its own. `url` leads through the proxy, `direct_url` around it."""

    def __init__(self, proxy: FaultyProxy, endpoint: str) -> None:
        self.proxy, self.name = proxy, uuid4().hex
        self.url = f"s3://{BUCKET}/{self.name}?endpoint={proxy.endpoint}"
        self.direct_url = f"s3://{BUCKET}/{self.name}?endpoint={endpoint}"

    def connect(self) -> Store:
        """The store anew, through the proxy; its pauses are short, as faults are many here."""
        return S3Store(parse(self.url), Patience(longest=0.2))

    @cached_property
    def direct(self) -> Store:
        """The store as it is."""
        return open_store(self.direct_url)
