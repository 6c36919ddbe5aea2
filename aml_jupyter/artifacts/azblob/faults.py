"""What Blob storage and the way to it answer, as errors of a store with one code for each cause."""

from __future__ import annotations

from aml_jupyter.errors import ArtifactError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from azure.core.exceptions import AzureError

    from aml_jupyter.artifacts.azblob.account import Account

# clocks that differ by less are taken by the store
SKEW = 300.0
_PUSH = "Nothing is lost: what is not stored yet stays here, and `aml push` stores it later."
# code of the store -> (our code, what it means, what to do)
_CODES = {
    "ContainerNotFound": (
        "store.missing",
        "there is no container {container}",
        "az storage container create --name {container}, or name another in artifacts.store.",
    ),
    "ContainerBeingDeleted": (
        "store.missing",
        "the container {container} is being deleted",
        "It can be made again after about half a minute.",
    ),
    "ContainerDisabled": ("store.denied", "the container {container} is disabled", ""),
    "AccountIsDisabled": ("store.denied", "the storage account is disabled", ""),
    "InsufficientAccountPermissions": ("store.denied", "the account does not allow this", ""),
    "AuthorizationPermissionMismatch": (
        "store.denied",
        "these credentials do not allow this",
        "A shared access signature needs read, write, create, list and delete for the container.",
    ),
    "AuthorizationProtocolMismatch": ("store.denied", "the signature is for another protocol", "Use https."),
    "AuthorizationSourceIPMismatch": ("store.denied", "this address may not use the signature", ""),
    "AuthorizationServiceMismatch": ("store.denied", "the signature is not for Blob storage", ""),
    "AuthorizationResourceTypeMismatch": (
        "store.denied",
        "the signature is not for this kind of thing",
        "It needs to be for the container, or for service, container and object of the account.",
    ),
    "KeyBasedAuthenticationNotPermitted": (
        "store.denied",
        "the account takes no keys",
        "Log in with az login, and pip install 'aml_jupyter[aad]'.",
    ),
    "PublicAccessNotPermitted": ("store.auth", "the account asks for credentials", ""),
    "BlobImmutableDueToPolicy": ("store.denied", "a policy forbids to change it", ""),
    "SnapshotsPresent": ("store.denied", "it has snapshots", ""),
    "LeaseIdMissing": ("store.denied", "somebody holds a lease on it", "az storage blob lease break"),
    "BlobArchived": ("store.denied", "it is in the archive tier", "Rehydrate it: az storage blob set-tier."),
    "BlobNotFound": ("artifact.unknown", "it is not in the store", ""),
    "ResourceNotFound": ("artifact.unknown", "it is not in the store", ""),
    "OutOfRangeInput": ("store.url", "a name is too short or too long for the store", ""),
    "InvalidResourceName": ("store.url", "the store does not take this name", ""),
    "RequestBodyTooLarge": ("artifact.too_big", "it is too large for the store", ""),
    "BlockCountExceedsLimit": ("artifact.too_big", "it is too large for the store", ""),
}
# sent again: what came was not what was sent
_DAMAGED = frozenset(["Md5Mismatch", "Crc64Mismatch", "InvalidMd5"])
_PASSING = frozenset([408, 429, 500, 502, 503, 504])


class Fault(Value):
    """An error, and what it is worth: `passing` tried again, `renewable` with other credentials."""

    error: ArtifactError
    passing: bool = False
    renewable: bool = False
    # seconds that the store asks to be left alone
    after: float = 0.0

    def given_up(self, tries: int, seconds: float) -> ArtifactError:
        """The error when patience is at its end."""
        times = "once" if tries == 1 else f"{tries} times"
        return ArtifactError(
            f"{self.error.message}; tried {times} in {seconds:.0f} s",
            code=self.error.code,
            hint=self.error.hint,
        )


def understand(error: AzureError, key: str, account: Account) -> Fault:
    """What an error of the SDK means."""
    from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, IncompleteReadError

    if isinstance(error, IncompleteReadError):
        return Fault(error=_unreachable(error), passing=True)
    if isinstance(error, HttpResponseError) and error.response is not None:
        headers: Mapping[str, str] = getattr(error.response, "headers", {})
        return _answered(error.status_code or 0, code_of(error), headers, key, account, _said(error))
    if type(error).__name__ == "AzureSigningError":  # which the SDK does not export
        words = "the key of the storage account is malformed: it is base64, as the portal shows it"
        return Fault(error=ArtifactError(words, code="store.credentials", hint=_PUSH), renewable=True)
    if isinstance(error, ClientAuthenticationError):
        # of azure-identity: a page of what it tried
        return Fault(error=_not_logged_in(account), renewable=True)
    return Fault(error=_unreachable(error), passing=True)


def _answered(
    status: int, code: str, headers: Mapping[str, str], key: str, account: Account, said: str
) -> Fault:
    """What an answer means that is no success."""
    if status in (401, 403):
        return _forbidden(status, code, headers, account)
    if code in _DAMAGED:
        words = f"{key} arrived damaged at the store"
        return Fault(error=ArtifactError(words, code="store.corrupt", hint=_PUSH), passing=True)
    if code in _CODES or status == 404:
        return Fault(error=_known(code if code in _CODES else "BlobNotFound", key, account))
    passing = status in _PASSING
    what = "is busy or out of order" if passing else f"refuses {key}"
    words = f"Azure Blob storage {what}: {status} {code}{said and ': '}{said}".rstrip()
    return Fault(
        error=ArtifactError(words, code="store.unavailable", hint=_PUSH),
        passing=passing,
        after=_after(headers),
    )


def _forbidden(status: int, code: str, headers: Mapping[str, str], account: Account) -> Fault:
    """The clock, the rights, or the credentials."""
    if skewed := _skew(headers):
        return Fault(error=skewed)
    if code in _CODES:
        return Fault(error=_known(code, "", account), renewable=True)
    return Fault(error=_refused(_expiry(account, headers) or code or str(status), account), renewable=True)


def code_of(error: AzureError) -> str:
    """The store's own code of an error, such as `BlobNotFound`, or ""."""
    code = getattr(error, "error_code", None)
    if code:
        code = str(getattr(code, "value", code))
        # Azurite's word for it
        return "Md5Mismatch" if code == "InvalidOperation" and "contentMD5" in str(error) else code
    response = getattr(error, "response", None)
    return str(response.headers.get("x-ms-error-code", "")) if response is not None else ""


def _known(code: str, key: str, account: Account) -> ArtifactError:
    ours, meaning, hint = _CODES[code]
    about = key if ours.startswith("artifact.") else f"azblob://{account.container}"
    words = f"{about}: {meaning.format(container=account.container)} ({code})"
    return ArtifactError(words, code=ours, hint=hint.format(container=account.container))


def _refused(why: str, account: Account) -> ArtifactError:
    return ArtifactError(
        f"azblob://{account.container} refuses the credentials: {why}",
        code="store.auth",
        hint=f"Set new ones (AZURE_STORAGE_...). {_PUSH}",
    )


def _not_logged_in(account: Account) -> ArtifactError:
    return ArtifactError(
        f"nobody is logged in to Azure here who could open azblob://{account.container}",
        code="store.auth",
        hint=f"az login, or set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN. {_PUSH}",
    )


def _unreachable(error: AzureError) -> ArtifactError:
    words = _words(error)
    hint = _PUSH
    if "NameResolution" in words or "Name or service" in words or "getaddrinfo" in words:
        hint = f"Is the name of the storage account right, and is this computer online? {_PUSH}"
    return ArtifactError(f"Azure Blob storage does not answer: {words}", code="store.unavailable", hint=hint)


def _words(error: AzureError) -> str:
    """What went wrong below, without addresses: they may carry a signature."""
    cause: BaseException = error
    for _ in range(8):
        inner = cause.__cause__ or cause.__context__ or getattr(cause, "inner_exception", None)
        reason = next((one for one in cause.args if isinstance(one, BaseException)), None)
        reason = getattr(cause, "reason", None) if reason is None else reason
        if isinstance(reason, BaseException):
            inner = reason
        if inner is None or inner is cause:
            break
        cause = inner
    words = getattr(cause, "strerror", None) or str(cause)
    return f"{type(cause).__name__}: {_without_addresses(str(words))[:160]}".rstrip(": ")


def _said(error: AzureError) -> str:
    """The store's own sentence, without the numbers of the request below it."""
    first = next(iter(str(getattr(error, "message", "")).strip().splitlines()), "")
    return _without_addresses(first)[:300]


def _without_addresses(words: str) -> str:
    import re

    return re.sub(r"\S*(?:://|sig=|\?)\S*", "...", " ".join(words.split()))


def _skew(headers: Mapping[str, str]) -> ArtifactError | None:
    """The error where this computer's clock and the store's differ so much that nothing can be signed."""
    there = _date(headers)
    if there is None:
        return None
    from datetime import UTC, datetime

    seconds = (datetime.now(UTC) - there).total_seconds()
    if abs(seconds) < SKEW:
        return None
    way = "ahead of" if seconds > 0 else "behind"
    return ArtifactError(
        f"the clock of this computer is {_span(abs(seconds))} {way} that of Azure Blob storage,"
        " which therefore refuses what it signs",
        code="store.clock",
        hint=f"Set the clock (timedatectl set-ntp true). {_PUSH}",
    )


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours"


def _date(headers: Mapping[str, str]) -> datetime | None:
    from email.utils import parsedate_to_datetime

    try:
        found = parsedate_to_datetime(headers.get("Date", ""))
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else None


def _expiry(account: Account, headers: Mapping[str, str]) -> str:
    """That the shared access signature has expired, where it has; it says until when it holds."""
    from datetime import UTC, datetime
    from urllib.parse import parse_qs

    times = parse_qs(account.signature.replace(";", "&").replace("SharedAccessSignature=", "&")).get("se")
    try:
        until = datetime.fromisoformat(times[0]) if times else None
    except ValueError:
        return ""
    if until is None:
        return ""
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    now = _date(headers) or datetime.now(UTC)
    return f"the shared access signature expired at {until:%Y-%m-%d %H:%M} UTC" if until < now else ""


def _after(headers: Mapping[str, str]) -> float:
    try:
        return max(0.0, min(600.0, float(headers.get("Retry-After", "0"))))
    except ValueError:
        return 0.0
