"""From the options that fsspec's users know to those of obstore, by protocol.

An option that is in no table is handed to obstore under its own name, and refused with that name
if obstore does not know it either. No value is ever part of a message.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from bigspec.errors import ArgumentError, SourceError
from bigspec.names import MARK, shown
from bigspec.sources.storage_options import Options, protocol_of

__all__ = [
    "Settings",
    "for_fsspec",
    "no_client",
    "refused",
    "settings_for",
    "unknown",
    "without_values",
]

NAMES: dict[str, dict[str, str]] = {
    "s3": {
        "key": "access_key_id",
        "username": "access_key_id",
        "secret": "secret_access_key",
        "password": "secret_access_key",
        "token": "session_token",
        "anon": "skip_signature",
        "endpoint_url": "endpoint",
        "region_name": "region",
        "requester_pays": "request_payer",
    },
    "gs": {"endpoint_url": "base_url", "anon": "skip_signature"},
    "az": {"sas_token": "sas_key", "anon": "skip_signature", "endpoint_url": "endpoint"},
    "http": {},
}
"""fsspec's name: obstore's."""

CLIENT = {
    "allow_http", "allow_invalid_certificates", "connect_timeout", "default_headers", "http1_only",
    "http2_only", "pool_idle_timeout", "pool_max_idle_per_host", "proxy_url", "proxy_excludes",
    "proxy_ca_certificate", "read_timeout", "root_certificate", "timeout", "user_agent",
}  # fmt: skip
"""Settings of obstore's HTTP client, for all protocols."""

PATIENCE = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "15min"}
"""obstore by itself gives a request 30 s in all, which a large chunk over a slow link needs."""

TOKEN, PROFILE = "token", "profile"

ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
"""Where obstore looks for the address of a server."""

GOOGLE_EMULATOR, AZURE_STRING = "STORAGE_EMULATOR_HOST", "AZURE_STORAGE_CONNECTION_STRING"
"""What Google's and Azure's own clients take from the environment, and obstore does not."""

CHAIN = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE")
"""With one of these in the environment obstore finds its way."""


@dataclass
class Settings:
    """Arguments of an obstore store.

    Attributes
    ----------
    config, client : dict
    provider : object or None
        Finds credentials, where obstore by itself does not look.
    """

    config: Options = field(default_factory=dict)
    client: Options = field(default_factory=lambda: {"allow_http": True, **PATIENCE})
    provider: Any = None


def settings_for(kind: str, url: str, options: Options) -> Settings:
    """Return the arguments of obstore for a URL.

    Parameters
    ----------
    kind : {"s3", "gs", "az", "http"}
    url : str
    options : dict
        Those of fsspec's and those of obstore's.

    Raises
    ------
    ArgumentError
        An option that has no counterpart.
    """
    made, left = Settings(), dict(options)
    for name in ("client_kwargs", "client_options", "headers"):
        if not isinstance(left.get(name) or {}, Mapping):
            msg = f"storage_options: {name}: expected a mapping, got {type(left[name]).__name__}"
            raise ArgumentError(msg)
    for name, value in dict(left.pop("client_kwargs", None) or {}).items():
        _client_argument(made, left, name, value)
    for name, value in dict(left.pop("client_options", None) or {}).items():
        made.client[name] = _plain(value)
    if kind == "gs":
        _google_token(made, left.pop(TOKEN, None))
    if kind == "az":
        _azure(made, left, url)
    if kind == "http":
        _http(made, left, url)
    profile = left.pop(PROFILE, None) if kind == "s3" else None
    for name, value in left.items():
        if name in CLIENT:
            made.client[name] = _plain(value)
        elif kind == "http":
            raise unknown(name)
        elif value is not None:
            made.config[NAMES[kind].get(name, name)] = _plain(value)
    if kind == "gs":
        _google_emulator(made.config)
    _check_endpoint(kind, made.config)
    if kind == "az":
        _end_endpoint(made.config)
    if kind == "s3":
        made.provider = _amazon(made.config, profile)
    return made


def _check_endpoint(kind: str, config: Options) -> None:
    """Refuse the address of a server that is none: obstore's client would crash at each request."""
    given = [("storage_options: endpoint_url", config.get(key)) for key in ("endpoint", "base_url")]
    if not any(value is not None for _, value in given):
        names = ENDPOINTS.get(kind, ())
        given = [(f"the environment: {name}", os.environ.get(name)) for name in names]
    for name, value in given:
        if value is None:
            continue
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.netloc or " " in value:
            got = "a text without http:// or https://" if value else "an empty text"
            msg = f"{name}: expected the address of a server, https://HOST:PORT, got {got}"
            raise ArgumentError(msg)


def unknown(name: str, inside: str = "") -> ArgumentError:
    """Return the error for an option that neither table nor obstore knows."""
    return ArgumentError(
        f"storage_options: {inside + name!r} is an option that obstore, the client of this URL, "
        "does not have. Leave it out, or open the store with fsspec and pass the zarr array"
    )


def no_client(url: str, cause: str) -> SourceError:
    """Return the error for a URL whose client cannot be made."""
    return SourceError(
        f"{shown(url)}: its client cannot be made ({cause}); check the URL, and the credentials "
        "and options in the environment or in storage_options (--storage-option)"
    )


def for_fsspec(kind: str, options: Options) -> Options:
    """Return options as they are, or refuse an endpoint that adlfs would leave out in silence."""
    for name in ("endpoint_url", "endpoint"):
        if kind == "az" and name in options:
            msg = (
                f"storage_options: {name}: adlfs, the client of this URL without the extra remote, "
                "does not have it and would ask Azure itself; give connection_string with "
                "BlobEndpoint=http://HOST:PORT/ACCOUNT, or install the extra"
            )
            raise ArgumentError(msg)
    return options


def refused(url: str, error: Exception, options: Options) -> Exception:
    """Return the error for options that a file system of fsspec's refuses, or `error` itself."""
    from fsspec.registry import known_implementations

    protocol = protocol_of(url)
    if isinstance(error, TypeError) and options:
        return ArgumentError(
            f"storage_options: expected options that {shown(protocol)}:// takes, got another one "
            f"({error}); leave it out"
        )
    if isinstance(error, ValueError) and protocol in known_implementations:
        cause = f"{type(error).__name__}: {error}"
        for value in options.values():
            if isinstance(value, str) and value:
                cause = cause.replace(value, MARK)
        return no_client(url, cause)
    return error


def without_values(text: str, settings: Settings) -> str:
    """Return what a client says of its settings, without their values."""
    for value in (*settings.config.values(), *settings.client.values()):
        text = text.replace(f'"{value}"', MARK)
    return text


def _plain(value: Any) -> Any:
    """Return a value as obstore takes it: texts, whole mappings of texts, truth values."""
    if isinstance(value, bool) or value is None or isinstance(value, (Mapping, bytes)):
        return value
    return str(value)


def _client_argument(made: Settings, left: Options, name: str, value: Any) -> None:
    """Take an argument of botocore's or aiohttp's client."""
    if name in ("endpoint_url", "region_name"):
        left.setdefault({"endpoint_url": "endpoint_url", "region_name": "region"}[name], value)
    elif name == "verify" and isinstance(value, bool):
        made.client["allow_invalid_certificates"] = not value
    elif name == "verify":
        with open(value, "rb") as file:  # noqa: PTH123 - a text of the user
            made.client["root_certificate"] = file.read()
    elif name == "headers":
        left["headers"] = value
    elif name in CLIENT:
        made.client[name] = _plain(value)
    else:
        raise unknown(name, "client_kwargs.")


def _http(made: Settings, left: Options, url: str) -> None:
    """Take headers, and the user in the URL, whom obstore leaves out of its requests."""
    headers = {str(k): str(v) for k, v in dict(left.pop("headers", None) or {}).items()}
    parts = urlsplit(url)
    if parts.username is not None and "authorization" not in {name.lower() for name in headers}:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
    if headers:
        made.client["default_headers"] = headers


def _google_token(made: Settings, token: Any) -> None:
    """Take what gcsfs calls a token: a word, a file, what such a file holds, or a token."""
    if token in (None, "cloud", "google_default"):  # where obstore looks by itself
        return
    if token == "anon":  # noqa: S105, RUF100 - gcsfs's word
        made.config["skip_signature"] = True
    elif isinstance(token, Mapping):
        made.config["service_account_key"] = json.dumps(dict(token))
    elif isinstance(token, (str, os.PathLike)) and os.path.isfile(token):  # noqa: PTH113
        made.config["application_credentials"] = os.fspath(token)
    elif isinstance(token, str) and token not in ("browser", "cache"):
        made.config["bearer_token"] = token
    else:
        raise unknown(TOKEN)


def _google_emulator(config: Options) -> None:
    """Go to the emulator that the environment names, as gcsfs and Google's clients do.

    It gets a token that means nothing: without one, obstore asks for a real one and sends that.
    """
    host = os.environ.get(GOOGLE_EMULATOR, "")
    if host in ("", "default") or "base_url" in config or os.environ.get("GOOGLE_BASE_URL"):
        return
    config["base_url"] = host if "://" in host else f"http://{host}"
    if not config.keys() & {"bearer_token", "service_account_key", "application_credentials"}:
        config["bearer_token"] = "emulator"


def _azure(made: Settings, left: Options, url: str) -> None:
    """Take adlfs's connection string and host; the string of the environment too, as adlfs does."""
    given = left.pop("connection_string", None)
    named = {"account_name", "account_key", "sas_token", "sas_key", "anon"} & left.keys()
    if given is None and not named and "@" not in url.partition("://")[2].partition("/")[0]:
        given = os.environ.get(AZURE_STRING)
    pairs = (part.split("=", 1) for part in str(given or "").split(";") if "=" in part)
    held = {name.strip().lower(): value for name, value in pairs}
    for theirs, ours in (
        ("accountname", "account_name"),
        ("accountkey", "account_key"),
        ("sharedaccesssignature", "sas_key"),
        ("blobendpoint", "endpoint"),
    ):
        if held.get(theirs):
            made.config[ours] = held[theirs]
    if held.get("usedevelopmentstorage", "").lower() == "true":
        made.config["use_emulator"] = True
    if "endpoint" in made.config:  # a string with a signature needs no name
        parts = urlsplit(made.config["endpoint"])
        account = parts.path.strip("/") or (parts.hostname or "").partition(".")[0]
        made.config.setdefault("account_name", account)
    elif "accountname" in held and held.get("endpointsuffix"):
        scheme = held.get("defaultendpointsprotocol") or "https"
        made.config["endpoint"] = f"{scheme}://{held['accountname']}.blob.{held['endpointsuffix']}"
    if (host := left.pop("account_host", None)) is not None:
        made.config["endpoint"] = host if "://" in str(host) else f"https://{host}"


def _end_endpoint(config: Options) -> None:
    """Take a slash from the end of an endpoint: obstore would put another one behind it."""
    places = (os.environ.get(name) for name in ENDPOINTS["az"])
    value = config.get("endpoint") or next(filter(None, places), "")
    if value.endswith("/"):
        config["endpoint"] = value.rstrip("/")


def _amazon(config: Options, profile: str | None) -> Any:
    """Return what finds credentials as s3fs does, if the user names none and botocore is here."""
    if profile is None:
        named = {"access_key_id", "skip_signature", "aws_access_key_id"} & config.keys()
        if named or any(os.environ.get(name) for name in CHAIN):
            return None
    try:
        import botocore.session  # noqa: F401
    except ImportError:
        if profile is not None:
            raise unknown(PROFILE) from None
        return None
    return AmazonCredentials(profile)


@dataclass(frozen=True)
class AmazonCredentials:
    """Finds credentials by botocore's rules, as s3fs does: profiles, files, SSO, the machine.

    obstore knows the environment and the machine only.

    Attributes
    ----------
    profile : str or None
    """

    profile: str | None = None

    def __call__(self) -> dict[str, Any]:
        """Return credentials, and when they expire."""
        import botocore.session

        found = botocore.session.Session(profile=self.profile).get_credentials()
        if found is None:
            msg = "no credentials in the environment, in a profile or on this machine"
            raise PermissionError(msg)
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": getattr(found, "_expiry_time", None),
        }
