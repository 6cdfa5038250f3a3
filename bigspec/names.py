"""What may be shown of a name: no secret, and nothing that a terminal obeys.

A name of a source, a checkpoint or a field comes from outside. Every matrix, every error and every
row of a history passes it through `shown`; an identity passes it through `bare`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any
from urllib.parse import unquote

__all__ = ["NOWHERE", "bare", "escaped", "redacted", "shown"]

MARK = "***"
NOWHERE = "of unknown place"
"""In the identity of what says nothing by which another process could tell it from others."""

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{1,2})([^\s/?#]*)@")
"""One slash is left where somebody took a URL for a path."""
_ODD_PASSWORD = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*:/{1,2})([^\s/?#@\[:]*:(?!\d*(?:[/?#\s:]|$))\S*)@"
)
"""A password with a slash or a question mark in it: what follows the colon is no port."""
_QUERY = re.compile(r"([?#])((?:(?!::)[^\s\"'<>?#])+)")

_NO_SECRET = {"github", "git"}
"""Here ``org:repo@`` and ``path:branch@`` name a place."""
_TOKEN_FOR_USER = {"http", "https", "webdav", "webdavs", "dav", "davs", "git+https"}
"""Here a user without a password is a token; elsewhere (abfs, sftp, hdfs) it names a place."""

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
"""Belongs to a signature, and changes with it. Without one beside it, it is what it says."""

_HARMLESS = {"\u200c", "\u200d"}  # joiners, which scripts and emoji need


def redacted(text: str) -> str:
    """Return a text in which the secrets of every URL are ``***``; else the text as it is.

    Secrets are user and password, and in a query what is called a key, a token or a signature,
    with all that belongs to that signature.
    """
    return _without_secrets(text, MARK)


def bare(value: Any) -> Any:
    """Return what an identity says of a place: URLs as if they had been given without secrets.

    So a signature or password that has been renewed names the same matrix. What has no secret
    stays exactly as it is.

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

    Those that turn the direction of writing are among them; bytes that are no UTF-8 stay.
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
    """Return a name as messages, results and logs have it: one line, without secrets."""
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
