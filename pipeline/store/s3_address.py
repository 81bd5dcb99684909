"""The one string that opens an S3 store on any machine: s3://bucket/prefix?endpoint=…&region=…&storage_class=…

It goes to workers, into logs and into results, so it never holds a secret: credentials come from boto3's own chain.
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from stages.config import InputError, nearest

OPTIONS = ("endpoint", "region", "storage_class")
ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")
CREDENTIALS = (
    "credentials come from boto3's own places: the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, "
    "or the machine's role"
)


@dataclass(frozen=True)
class Address:
    """Where a store lies in S3. What is empty is left to boto3: AWS itself, the user's region, the standard class."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    storage_class: str = ""

    def __post_init__(self) -> None:
        """Raises InputError naming what is wrong."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", self.bucket):
            raise InputError(
                f"store s3://{self.bucket}: {self.bucket!r} is no bucket's name; expected s3://bucket/prefix, with "
                "3 to 63 of a-z, 0-9, '.' and '-' as the bucket"
            )
        if not self.prefix.isprintable() or any(part in ("", ".", "..") for part in self.prefix.split("/")[1:]):
            raise InputError(
                f"store s3://{self.bucket}/{self.prefix}: expected a prefix such as brewline/mine, "
                "without '//', '.' and '..'"
            )
        if self.endpoint:
            _check_endpoint(self.endpoint)
        if not re.fullmatch(r"[a-z0-9-]*", self.region):
            raise InputError(f"S3 region {self.region!r}: expected a name such as eu-central-1")
        if not re.fullmatch(r"[A-Z0-9_]*", self.storage_class):
            raise InputError(f"S3 storage class {self.storage_class!r}: expected a name such as STANDARD_IA")
        if self.storage_class in ARCHIVES:
            raise InputError(
                f"S3 storage class {self.storage_class}: what lies in it cannot be read until it is restored, and "
                "steps read what others stored a moment ago; choose STANDARD_IA or GLACIER_IR"
            )

    @property
    def place(self) -> str:
        """Bucket and prefix alone."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, name: str) -> str:
        """The whole key of the object that is called `name` below the prefix."""
        return f"{self.prefix}/{name}".lstrip("/")

    @property
    def url(self) -> str:
        """All of it, as `parse` reads it."""
        given = {name: value for name in OPTIONS if (value := getattr(self, name))}
        query = f"?{urlencode(given, safe=':/', quote_via=quote)}" if given else ""
        return f"s3://{self.bucket}/{quote(self.prefix)}".rstrip("/") + query


def without_user(url: str) -> str:
    """`url` as it may be shown. A secret key that somebody writes before an '@' may hold '/' itself."""
    return re.sub("//.*@", "//…@", url)


def parse(url: str) -> Address:
    """The address that `url` says. Raises InputError, which repeats no secret."""
    parts = urlsplit(url)
    shown = f"s3:{without_user(f'//{parts.netloc}{parts.path}')}"
    if re.search("[@:]", parts.netloc):
        raise InputError(f"store {shown}: a bucket takes no user, password or port; {CREDENTIALS}")
    if not url.startswith("s3://"):
        raise InputError(f"store {shown}: expected s3://bucket/prefix, with two slashes")
    if parts.fragment:
        raise InputError(f"store {shown}: expected no '#' in it; write it as %23")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    for name, _ in pairs:
        if name not in OPTIONS:
            raise InputError(f"store {shown}: unknown {name!r} behind the '?'; {nearest(name, OPTIONS)}")
    if len(dict(pairs)) < len(pairs):
        raise InputError(f"store {shown}: something behind the '?' is given twice; known are {', '.join(OPTIONS)}")
    return Address(parts.netloc, unquote(parts.path).strip("/"), **dict(pairs))


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError(
            "S3 endpoint: its host or port cannot be read; expected https://host or http://host:port"
        ) from None
    if "@" in endpoint:
        raise InputError(f"S3 endpoint at {host}: it may hold no user or password; {CREDENTIALS}")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise InputError(f"S3 endpoint {endpoint.partition('?')[0]!r}: expected https://host or http://host:port")
