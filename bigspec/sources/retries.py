"""Which read failures may pass by themselves, and how long to wait for that."""

from __future__ import annotations

import errno
import gzip
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import tenacity

from bigspec.errors import BigspecError, ChunkError, SourceError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bigspec.kernels.buffers import Buffers

__all__ = [
    "POLICY",
    "RetryPolicy",
    "as_os_error",
    "cause_of",
    "http_status",
    "is_forbidden",
    "is_transient",
    "named_failure",
    "with_retries",
]

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff: `first_wait`, then twice as long each time, up to `longest_wait`.

    Attributes
    ----------
    attempts : int
        The number of tries in all.
    first_wait, longest_wait : float
        Seconds.
    budget : float
        Seconds after which no attempt begins: client libraries retry too (botocore takes
        eight seconds over a refused connection).
    """

    attempts: int = 5
    first_wait: float = 0.5
    longest_wait: float = 4.0
    budget: float = 8.0


POLICY = RetryPolicy()
"""Five attempts with 7.5 s of waiting between them, or fewer if each is slow."""

_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_FULL_OR_READ_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_NETWORK_ERRORS = {
    # Classes of libraries that need not be installed, by module and name.
    "aiohttp": {"ClientError"},
    "azure": {"IncompleteReadError", "ServiceRequestError", "ServiceResponseError"},
    "botocore": {"ConnectionError", "HTTPClientError", "IncompleteReadError"},
    "google": {"TransportError"},
    "urllib3": {"HTTPError"},
}


_NO_CREDENTIALS = {
    "azure": {"ClientAuthenticationError"},
    "google": {"DefaultCredentialsError", "RefreshError"},
}
_CLIENTS = {"azure", "gcsfs", "google", "obstore"}
"""Packages whose errors are no OSErrors."""

_PASSING_STATUSES = {408, 425, 429}
"""The HTTP statuses from 400 to 499 that may be gone at the next request."""


_DEBUG = "\n\nDebug source:"
_STATUS = re.compile(r"status code: (\d{3})\b")
_CODE = re.compile(r"<Code>(\w+)</Code>|ErrorCode:(\w+)")
_TOOK = re.compile(r" in [\d.]+(?:ns|µs|ms|s)(?: - |\b)")
MOST_TEXT = 300
_ANSWERS = {"AlreadyExistsError", "NotModifiedError", "NotSupportedError", "PreconditionError"}
"""Errors of obstore's that are answers."""
_CREDENTIALS = ("://169.254.169.254", "://169.254.170.2", "://metadata.google.internal")
"""Where machines in a cloud find credentials: an error from there says that there are none."""


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status in an error of a client library, or None."""
    names = ("status", "code", "status_code")
    status = next((found for name in names if (found := getattr(error, name, None))), None)
    if status is None and _of_obstore(error):
        found = _STATUS.search(str(error).partition(_DEBUG)[0])
        status = found[1] if found else None
    try:
        number = int(status)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if 400 <= number < 600 else None


def _of_obstore(error: BaseException) -> bool:
    return type(error).__module__ == "obstore.exceptions"


def _is_one_of(error: BaseException, classes: dict[str, set[str]]) -> bool:
    """Tell whether an error is of a class by its package and name, which may not be here."""
    return any(
        kind.__name__ in classes.get(kind.__module__.partition(".")[0], ())
        for kind in type(error).__mro__
    )


def cause_of(error: BaseException) -> str:
    """Return the kind and text of an error for a message."""
    return f"{type(error).__name__}: {_text_of(error)}"


def _text_of(error: BaseException) -> str:
    """Return what an error says, in one line.

    obstore appends its own structures, the time that a request took, and what the server said;
    Azure's and Google's clients append what the server said.
    """
    text = str(error)
    if not (_of_client(error) or _DEBUG in text or _says_forbidden(error)):
        return text
    whole = text.partition(_DEBUG)[0]
    first = _TOOK.sub(" ", whole.partition("\n")[0]).partition(": <?xml")[0]
    first = first[:MOST_TEXT] + "..." * (len(first) > MOST_TEXT)
    code = _CODE.search(whole)
    return first if code is None else f"{first} ({code[1] or code[2]})"


def _of_client(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _CLIENTS


def _says_forbidden(error: BaseException) -> bool:
    """Tell whether it is what gcsfs makes of a status 403: an OSError without a number."""
    return type(error) is OSError and str(error).startswith("Forbidden: ")


def is_forbidden(error: BaseException) -> bool:
    """Tell whether the store said that this process may not read, or there are no credentials."""
    if _of_obstore(error):
        kind, text = type(error).__name__, str(error).partition(_DEBUG)[0]
        if kind in ("PermissionDeniedError", "UnauthenticatedError"):
            return True
        if any(place in text for place in _CREDENTIALS) or "credential error" in text:
            return True
    if _says_forbidden(error) or _is_one_of(error, _NO_CREDENTIALS):
        return True
    return isinstance(error, PermissionError) or http_status(error) in (401, 403)


def is_transient(error: BaseException) -> bool:
    """Tell whether the same read may succeed a moment later."""
    if _of_obstore(error):
        return _passes_in_obstore(error)
    if type(error).__name__ == "ReferenceNotReachable" and error.__cause__ is not None:
        return is_transient(error.__cause__)  # fsspec hides the real failure behind it
    if is_forbidden(error):
        return False
    if (status := http_status(error)) is not None:
        return status >= 500 or status in _PASSING_STATUSES
    if isinstance(error, (*_FINAL, BigspecError, gzip.BadGzipFile)):
        return False
    if isinstance(error, OSError):  # TimeoutError, ConnectionError, and EIO of a network disk
        # bz2 reports damaged data as a bare OSError with this text; a retry would not help.
        return error.errno not in _FULL_OR_READ_ONLY and error.args != ("Invalid data stream",)
    return _is_one_of(error, _NETWORK_ERRORS)


def as_os_error(error: Exception) -> Exception:
    """Return an error of a client's as the OSError that other clients would raise.

    Its kind decides whether a read or a write goes on, is repeated or ends.
    """
    if isinstance(error, OSError) and _DEBUG in str(error):  # obstore raises FileNotFoundError
        return type(error)(_text_of(error))
    if _says_forbidden(error):
        return PermissionError(_text_of(error))
    if not _of_client(error) or type(error).__name__ in _ANSWERS:
        return error
    text = cause_of(error)
    if is_forbidden(error):
        return PermissionError(text)
    status, passing = http_status(error), is_transient(error)
    if status is None and not passing:
        return error
    if status == 404 and not _of_obstore(error):
        return FileNotFoundError(text)
    made = ConnectionError(text) if passing else OSError(text)
    if status is not None:
        made.status = status  # type: ignore[attr-defined]
    return made


def _passes_in_obstore(error: BaseException) -> bool:
    """Tell whether an error of obstore's may pass; its final errors have classes of their own."""
    if type(error).__name__ == "JoinError":  # a task of its runtime ended
        return True
    if type(error).__name__ not in ("GenericError", "BaseError") or is_forbidden(error):
        return False
    if (status := http_status(error)) is not None:
        return status >= 500 or status in _PASSING_STATUSES
    text = str(error)
    return "HTTP error" in text and "builder error" not in text.partition(_DEBUG)[0]


def with_retries(call: Callable[[], T], buffers: Buffers | None = None) -> T:
    """Call until it succeeds, and raise its error if it fails for good or `POLICY` is used up.

    Repetitions are counted in ``buffers.retries``. An error of a client's is an OSError then; see
    `as_os_error`.
    """
    try:  # nearly always enough, and tenacity takes longer than a small chunk
        return call()
    except Exception as error:  # noqa: BLE001, RUF100 - tenacity tells which may pass
        failures = [error]
    try:
        return _repeated(call, failures, buffers)
    except Exception as error:
        if as_os_error(error) is error:
            raise
        raise as_os_error(error) from None  # it has the text, without pages of debugging


def _repeated(call: Callable[[], T], failures: list[Exception], buffers: Buffers | None) -> T:
    """Repeat a call after the failure in a list, which is taken out so that nothing holds it."""
    # A loop, because `retrying(call)` ends in reference cycles: a pass's buffers would stay until
    # the garbage collector comes.
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(POLICY.attempts)
        | tenacity.stop_after_delay(POLICY.budget),
        wait=tenacity.wait_exponential(multiplier=POLICY.first_wait, max=POLICY.longest_wait),
        retry=tenacity.retry_if_exception(is_transient),
        reraise=True,
    )
    for attempt in retrying:
        with attempt:
            if failures:
                raise failures.pop()
            if buffers is not None:
                buffers.retries += 1
            return call()
    raise AssertionError


def named_failure(error: Exception, name: str, key: str) -> Exception:
    """Return the error for a chunk that could not be read; raise `error` if it says enough.

    It is raised here because an error raised from itself is its own cause, and Dask's workers
    would follow the causes for ever.

    Parameters
    ----------
    error : Exception
        The last failure, after retries.
    name, key : str
        The matrix, and the chunk's key in its store.
    """
    if isinstance(error, (BigspecError, MemoryError)):
        raise error
    cause = cause_of(error)
    if is_forbidden(error):
        return SourceError(f"{name}: chunk {key} may not be read by this process ({cause})")
    if is_transient(error):
        return StoreUnavailableError(
            f"{name}: chunk {key} could not be read, and the store went on failing after "
            f"retries; the last failure was {cause}. Run the same command again when the "
            "store answers"
        )
    if type(error).__name__ == "ReferenceNotReachable":
        return ChunkError(
            f"{name}: chunk {key} has a reference to a file that is not there "
            f"({error.__cause__!r}). Put it back, or make the references again"
        )
    if http_status(error) is not None:
        return ChunkError(f"{name}: the store refuses chunk {key} for good ({cause})")
    return ChunkError(
        f"{name}: chunk {key} is damaged and cannot be decoded ({cause}). "
        "Write it again from where the matrix came from"
    )
