"""What S3 answers, for people: what is wrong, and what to do about it. Never a secret.

Servers and libraries may repeat a key, a token or a signed address in what they say, so their words pass `redacted`.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from pipeline.store.manifest import StoreError
from pipeline.store.s3_address import CREDENTIALS

CONFLICT = ("ConditionalRequestConflict",)
"""Two wrote on a condition at once, and neither is known to have won."""
AGAIN_STATUS = (409, 429, 500, 502, 503, 504)
AGAIN_CODES = (
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "RequestTimeout",
    "RequestTimeoutException",
    "InternalError",
    "ServiceUnavailable",
    *CONFLICT,
    "OperationAborted",
)
ABSENT = ("NoSuchKey", "404", "NotFound")
CHANGED = ("PreconditionFailed", "412")
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
INVALID = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
)
OTHER_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301")
DENIED = ("AccessDenied", "Forbidden", "403", "AllAccessDisabled", "AccountProblem")
UNSUPPORTED = ("NotImplemented", "501")
ACTIONS = {
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
    "DeleteObject": "s3:DeleteObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListParts": "s3:ListMultipartUploadParts",
}
"""The right that an operation needs; all others write, which is s3:PutObject."""

RIGHTS = ("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload")


def may_pass(status: int | None, code: str | None) -> bool:
    """Whether a refusal of this HTTP status and code is one that asking again may get over."""
    return status in AGAIN_STATUS or code in AGAIN_CODES


class S3Error(StoreError):
    """What S3 refused, or did not answer. code: S3's own name of the error, empty where there was no answer."""

    def __init__(self, message: str, code: str = "", away: bool = False) -> None:
        super().__init__(message, code, away)
        self.code, self.away = code, away

    def __str__(self) -> str:
        return str(self.args[0])


def server_clock(response: Any) -> datetime | None:
    """The server's clock when it answered, to the second."""
    said = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return parsedate_to_datetime(said).astimezone(UTC) if said else None
    except ValueError:
        return None


def clock_off(response: Any) -> float:
    """Seconds by which this machine's clock is ahead of the server's; 0 where the answer has no date."""
    theirs = server_clock(response)
    return (datetime.now(UTC) - theirs).total_seconds() if theirs else 0.0


def clock_advice(seconds: float) -> str:
    """What is wrong with this machine's clock, and what to do."""
    return (
        f"this machine's clock is {abs(seconds) / 60:.0f} minutes {'ahead of' if seconds > 0 else 'behind'} the "
        "server's, and S3 refuses requests beyond 15; set it right (chrony or ntpd keep it so)"
    )


def redaction(secrets: Callable[[], list[str]]) -> Callable[[object], str]:
    """Takes what must not be seen out of a text: the values of `secrets`, users in addresses, signed queries."""

    def redacted(text: object) -> str:
        words = str(text)
        for secret in filter(None, secrets()):
            words = words.replace(secret, "…")
        words = re.sub(r"://[^/@\s]+@", "://…@", words)
        return re.sub(
            r"(?i)\b((?:x-amz-|aws)[a-z-]*(?:signature|credential|token|accesskeyid)[=:]\s*)[^\s&\"'<]+", r"\1…", words
        )

    return redacted


def explained(error: Exception, place: str, bucket: str, redacted: Callable[[object], str]) -> S3Error:
    """An error of botocore or s3transfer, about `place`, as people need it."""
    from botocore import exceptions as boto

    response: Any = getattr(error, "response", None)
    if isinstance(error, boto.ClientError) and isinstance(response, dict):
        code = str(response.get("Error", {}).get("Code", ""))
        away = may_pass(response.get("ResponseMetadata", {}).get("HTTPStatusCode"), code)
        return S3Error(f"{place}: {_refusal(error, response, code, bucket, redacted)}", code, away)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return S3Error(f"{place}: no credentials for S3 were found ({redacted(error)}); {CREDENTIALS}")
    if isinstance(error, boto.SSOError | boto.TokenRetrievalError | boto.UnauthorizedSSOTokenError):
        return S3Error(f"{place}: the credentials have expired ({redacted(error)}); log in again, then run it again")
    if isinstance(error, boto.SSLError):
        return S3Error(f"{place}: no safe connection ({redacted(error)}); check the endpoint's https and certificate")
    return S3Error(
        f"{place}: S3 did not answer ({redacted(error)}). Check the endpoint and the network, then run it again; "
        "nothing that was committed is lost",
        away=True,
    )


def _refusal(error: Any, response: dict[str, Any], code: str, bucket: str, redacted: Callable[[object], str]) -> str:
    said = response.get("Error", {})
    operation = error.operation_name
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if code in OTHER_REGION:
        expecting = re.search(r"expecting '([a-z0-9-]+)'", str(said.get("Message", "")))
        right = headers.get("x-amz-bucket-region") or said.get("Region") or (expecting[1] if expecting else "")
        advice = f"give --s3-region {right}" if right else "give its --s3-region"
        return f"bucket {bucket!r} is in another region; {advice}"
    if code == "RequestTimeTooSkewed":
        return clock_advice(clock_off(response))
    known = {
        **dict.fromkeys(
            EXPIRED, f"the credentials have expired ({code}); renew them and run the same command, it goes on from here"
        ),
        **dict.fromkeys(
            INVALID, f"the credentials are not valid here ({code}); check them and the endpoint: {CREDENTIALS}"
        ),
        **dict.fromkeys(
            DENIED,
            f"these credentials may not do {ACTIONS.get(operation, 's3:PutObject')} on bucket {bucket!r} ({operation}: "
            f"{code}); a store needs {', '.join(RIGHTS)}",
        ),
        "NoSuchBucket": f"there is no bucket {bucket!r}; make it, or check its name, the endpoint and the region",
        "InvalidStorageClass": "the endpoint has no such storage class; leave --s3-storage-class out, or give another",
    }
    if code in known:
        return known[code]
    if operation == "ListObjectsV2" and code in ABSENT:
        return f"nothing there speaks S3 ({code}); check the endpoint"
    tries = response.get("ResponseMetadata", {}).get("RetryAttempts") or 0
    again = f", after {tries + 1} tries" if tries else ""
    return f"{operation} was refused{again}: {code} {redacted(said.get('Message', ''))}".rstrip()
