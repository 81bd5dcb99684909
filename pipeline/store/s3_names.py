"""Where things lie in a store in S3: the names of its objects, below its prefix."""

import re
from collections.abc import Iterable

from pipeline.store.names import KEY, whole_key
from pipeline.store.s3_facts import Listed


def blob_name(sha256: str) -> str:
    """Of a blob."""
    return f"blobs/{sha256}"


def manifest_name(stage: str, key: str) -> str:
    """Of a step's manifest."""
    return f"steps/{stage}/{whole_key(key)}.json"


def keys_of(found: Iterable[Listed]) -> list[str]:
    """The keys of manifests. What others put beside them, such as the marks that a console makes for folders, is not
    ours."""
    matches = (re.fullmatch(rf"steps/[^/]+/({KEY.pattern})\.json", manifest.name) for manifest in found)
    return [match[1] for match in matches if match]
