"""The commands that look into a store, and how every command is told where a store in S3 is."""

import json
import socket
import time
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.store import Manifest, Store, new_write_id, open_store
from s3_server import S3Server
from stages.config import InputError
from tiny_pipeline import Brewline, refused


def committed(store: Store, folder: Path, name: str) -> Manifest:
    folder.mkdir()
    (folder / "data").write_bytes(name.encode() * 500_000)
    provenance = {"seconds": 1.5, "started": "2026-01-01T00:00:00+00:00", "host": "here"}
    key = sha256(name.encode()).hexdigest()
    fields = {"params": {}, "inputs": {}, "write_id": new_write_id(), "provenance": provenance}
    return store.commit(folder, Manifest(stage="brew", key=key, version=1, **fields))


def test_cache_lists_verifies_and_removes(brewline: Brewline, copied: Path, finished: Any) -> None:
    listed = brewline("cache", "ls", "--store", copied)
    assert len(listed.stdout.splitlines()) == finished.result["steps"]["total"]
    only = brewline("cache", "ls", "--stage", "brew", "--store", copied).stdout.splitlines()
    assert [line.split()[0] for line in only] == ["brew", "brew"]
    assert brewline("cache", "verify", "--store", copied).returncode == 0
    key = only[0].split()[1]
    manifest = json.loads(next((copied / "steps" / "brew").glob(f"{key}*.json")).read_text())
    blob = copied / "blobs" / manifest["blobs"][0]["sha256"]
    blob.chmod(0o644)
    blob.write_bytes(bytes(blob.stat().st_size))
    damaged = brewline("cache", "verify", "--store", copied)
    assert damaged.returncode == 1
    assert f"brew {key}: {manifest['blobs'][0]['name']}" in damaged.stdout
    refused(brewline("cache", "rm", key, "0000", "--store", copied), "nothing was removed")
    assert len(brewline("cache", "ls", "--stage", "brew", "--store", copied).stdout.splitlines()) == 2
    removed = brewline("cache", "rm", key, "--store", copied)
    assert (removed.returncode, removed.stdout) == (0, f"removed brew {key}\n")
    assert len(brewline("cache", "ls", "--stage", "brew", "--store", copied).stdout.splitlines()) == 1


def test_cache_lists_verifies_and_removes_in_s3(
    s3_url: str, s3_environment: dict[str, str], s3_server: S3Server, brewline: Brewline, tmp_path: Path
) -> None:
    one, two = (committed(open_store(s3_url), tmp_path / name, name) for name in ("one", "two"))
    address = urlsplit(s3_url)
    where = ("--store", f"s3://{address.netloc}{address.path}", "--s3-endpoint", s3_server.endpoint)
    listed = brewline("cache", "ls", *where, **s3_environment)
    assert listed.returncode == 0, listed.stderr
    assert {(line.split()[1], line.split()[2]) for line in listed.stdout.splitlines()} == {
        (one.key[:12], "1.50"),
        (two.key[:12], "1.50"),
    }
    in_environment = {**s3_environment, "BREWLINE_STORE": where[1], "BREWLINE_S3_ENDPOINT": s3_server.endpoint}
    assert brewline("cache", "ls", **in_environment).stdout == listed.stdout
    assert brewline("cache", "verify", **in_environment).stdout == "2 steps, 0 damaged outputs\n"

    data = b"evil" + b"one" * 500_000
    name = f"{address.path.strip('/')}/blobs/{one.blobs[0].sha256}"
    s3_server.client().put_object(Bucket=address.netloc, Key=name, Body=data[: one.blobs[0].size])
    damaged = brewline("cache", "verify", **in_environment)
    assert damaged.returncode == 1
    assert f"brew {one.key[:12]}: data (s3://" in damaged.stdout
    assert "holds other bytes" in damaged.stdout
    removed = brewline("cache", "rm", one.key[:8], **in_environment)
    assert removed.stdout == f"removed brew {one.key[:12]}\n"
    assert len(brewline("cache", "ls", **in_environment).stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--store", "DIR", "--s3-endpoint", "http://h"), "--s3-endpoint http://h: --store DIR is a folder"),
        (("--store", "DIR", "--s3-endpoint", "http://me:word@h"), "--s3-endpoint http://…@h: --store DIR is"),
        (("--store", "s3://bucket/p?region=a", "--s3-region", "b"), "the store's own region is a; give one of the two"),
        (
            ("--store", "s3://bucket/p", "--s3-endpoint", "minio:9000"),
            "S3 endpoint 'minio:9000': expected https://host",
        ),
        (("--store", "s3://bucket/p?regoin=a"), "did you mean 'region'?"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: tuple[str, ...], says: str, brewline: Brewline) -> None:
    refused(brewline("cache", "ls", *arguments), says)


def test_every_command_with_a_store_takes_the_options(brewline: Brewline) -> None:
    export = ("export", "run", "--case", "0", "--format", "beton", "-o", "folder")
    add = ("results", "add", "run", "name")
    verify, remove = ("cache", "verify"), ("cache", "rm", "abcd")
    planned = (("run", "quickstart"), ("plan", "quickstart"))
    for command in (*planned, ("status",), ("why", "abcd"), export, add, verify, remove):
        done = brewline(*command, "--store", "s3://bucket/p", "--s3-endpoint", "minio:9000")
        assert "S3 endpoint 'minio:9000'" in done.stderr


def test_the_environments_endpoint_is_not_for_folders(brewline: Brewline, tmp_path: Path) -> None:
    done = brewline("cache", "ls", "--store", tmp_path, BREWLINE_S3_ENDPOINT="http://h")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("command", "answers"),
    [
        ("status", "silence"),
        ("why abcd", "no connection"),
        ("export quickstart --case 0 --format image-folder --out x", "no connection"),
        ("cache ls", "no connection"),
        ("cache verify", "no connection"),
        ("cache rm abcd", "no connection"),
        ("cache copy quickstart --to ./there", "no connection"),
        ("results add quickstart name", "no connection"),
    ],
)
def test_a_store_that_does_not_answer_is_told_within_seconds(
    command: str, answers: str, s3_environment: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if answers == "silence" else 1
        words = [*command.split(), "--store", f"s3://bucket/x?endpoint=http://127.0.0.1:{port}"]
        started = time.monotonic()
        with pytest.raises(InputError, match=r"S3 did not answer .* Check the endpoint"):
            CliRunner().invoke(app, words, catch_exceptions=False)
    assert time.monotonic() - started < 15
