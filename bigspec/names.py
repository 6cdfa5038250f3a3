"""Names as they may be shown: without secrets, and without anything that a terminal obeys.

Names of sources, checkpoints and fields come from outside. Matrices, errors and rows of a history
pass them through `shown`; identities pass them through `bare`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any
from urllib.parse import unquote

__all__ = ["MARK", "NOWHERE", "bare", "escaped", "redacted", "shown"]

MARK = "***"
NOWHERE = "of unknown place"
"""The place in an identity by which no other process can recognise the matrix."""

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{1,2})([^\s/?#]*)@")
"""Code that takes a URL for a path leaves one slash."""
_ODD_PASSWORD = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*:/{1,2})([^\s/?#@\[:]*:(?!\d*(?:[/?#\s:]|$))\S*)@"
)
"""A password with a slash or a question mark; the part after the colon is not a port."""
_QUERY = re.compile(r"([?#])((?:(?!::)[^\s\"'<>?#])+)")

_NO_SECRET = {"github", "git"}
"""In these, ``org:repo@`` and ``path:branch@`` name a place."""
_TOKEN_FOR_USER = {"http", "https", "webdav", "webdavs", "dav", "davs", "git+https"}
"""In these a user without a password is a token; elsewhere (abfs, sftp, hdfs) it names a place."""

_SECRET = re.compile(
    r"(?:^|[-_.])(?:sig|signature|sas|hmac|jwt|token|secret|password|passwd|pwd|pass|key|code|"
    r"credentials?|auth|authorization|key-pair-id)$|"
    r"(?:token|secret|password|signature|apikey|accesskey|secretkey|accesskeyid|accessid|"
    r"credential)$"
)
_OF_A_SIGNATURE = re.compile(
    r"x-(?:amz|goog|oss|cos|obs|ms)-.*|expires|expiry|exp|policy|q-.*|"
    r"sv|ss|srt|sp|se|st|spr|sip|sr|skoid|sktid|skt|ske|sks|skv|saoid|suoid|scid|sdd|ses|rscd|rsct"
)
"""These belong to a signature, and change with it. Without a signature they are no secret."""

_HARMLESS = {"\u200c", "\u200d"}  # joiners, which scripts and emoji need


def redacted(text: str) -> str:
    """Return a text with the secrets of every URL replaced by ``***``.

    Secrets are user and password, and in a query a key, a token or a signature, with all that
    belongs to that signature.
    """
    return _without_secrets(text, MARK)


def bare(value: Any) -> Any:
    """Return a place for an identity, with the secrets removed from URLs.

    So a new signature or password still names the same matrix. A place without a secret stays
    exactly as it is.

    Parameters
    ----------
    value : JSON-ready value
        Texts in it, at any depth.
    """
    if isinstance(value, str):
        return _without_secrets(value, "") if "://" in value else value
    if isinstance(value, dict):
        return {key: bare(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [bare(inner) for inner in value]
    return value


def escaped(text: str) -> str:
    r"""Return a text with its control characters written out, such as ``\x1b`` and ``\n``.

    Characters that turn the direction of writing count too; bytes that are not UTF-8 stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        ch.encode("unicode_escape").decode()
        if unicodedata.category(ch) in {"Cc", "Cf", "Zl", "Zp"} and ch not in _HARMLESS
        else ch
        for ch in text
    )


def shown(text: str) -> str:
    """Return a name for messages, results and logs: one line, without secrets."""
    return escaped(redacted(text))


def _without_secrets(text: str, mark: str) -> str:
    if "@" not in text and "?" not in text and "#" not in text:
        return text

    def user(match: re.Match[str]) -> str:
        scheme, held = match[1].rstrip(":/").lower(), match[2]
        secret = ":" in held or scheme in _TOKEN_FOR_USER
        if scheme in _NO_SECRET or not secret or held == MARK:
            return match[0]
        return f"{match[1]}{mark}@" if mark else match[1]

    text = _ODD_PASSWORD.sub(user, _USER.sub(user, text))
    return _QUERY.sub(lambda match: _query(match, mark), text)


def _query(match: re.Match[str], mark: str) -> str:
    pairs = re.split("[&;]", match[2])
    names = [unquote(pair.partition("=")[0]).lower() if "=" in pair else "" for pair in pairs]
    if not any(_SECRET.search(name) for name in names):
        return match[0]
    held = [
        pair
        for pair, name in zip(pairs, names, strict=True)
        if pair != MARK and not (_SECRET.search(name) or _OF_A_SIGNATURE.fullmatch(name))
    ]
    held += [mark] if mark else []
    return match[1] + "&".join(held) if held else ""
