"""Database addresses: PostgreSQL's URLs as its own programs write them, in the driver's terms.

Every parameter either works or is refused by name: one that was passed over in silence would be a connection that is
not what its owner asked for. docs/operations.md lists them.
"""

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import quote, urlencode

from sqlalchemy import make_url
from sqlalchemy.engine import URL

Host: TypeAlias = tuple[str | None, int | None]
"""A host's name, address or socket folder, and its port; None is the driver's default."""

# Several hosts with their ports, which make_url does not know, between a login and a path or a query.
_SEVERAL_HOSTS: Final = re.compile(r"([\w+]+://)((?:[^/?]*@)?)([^/?@]*,[^/?@]*)([/?].*)?", re.DOTALL)

# A host and its port: a folder that holds a socket, an IPv6 address with or without brackets, a name.
_HOST: Final = re.compile(
    r"(/.*|\[([0-9A-Fa-f:.]+)\]|[^\[\]:/]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)(?::(\d+))?"
)

_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_NUMBERS: Final = (
    "connect_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
)  # fmt: skip
_TEXTS: Final = ("passfile", "application_name", "fallback_application_name", "options", "sslpassword")
_TLS: Final = {
    "sslmode", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version", "sslpassword", *_FILES,
}  # fmt: skip
_TLS_VERSIONS: Final = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")

_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "keepalives": ("0", "1"),
    # The service writes, and reads what is current: never from a standby.
    "target_session_attrs": ("any", "primary", "read-write"),
    # What follows is taken where it asks for nothing that is not so already.
    "channel_binding": ("disable", "prefer"),
    "client_encoding": ("UTF8", "utf8", "UTF-8", "utf-8", "auto"),
    "gssencmode": ("disable", "prefer"),
    "gssdelegation": ("0",),
    "load_balance_hosts": ("disable",),
    "replication": ("0", "no", "off", "false"),
    "sslcertmode": ("allow",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
}
"""What a parameter may be, where it may not be anything."""

_HINTS: Final = {
    "channel_binding": "the driver cannot bind channels; sslmode=verify-full proves the server's identity instead",
    "command_timeout": "set WALLET_STATEMENT_TIMEOUT_SECONDS",
    "hostaddr": "name the host",
    "pgbouncer": "set WALLET_PGBOUNCER=true",
    "pool_size": "set WALLET_POOL_SIZE",
    "prepared_statement_cache_size": "set WALLET_PGBOUNCER=true",
    "service": "write out what the service file says",
    "sslcrldir": "name one file by sslcrl",
    "statement_cache_size": "set WALLET_PGBOUNCER=true",
    "target_session_attrs": "the service needs a server that it can write to",
    "timeout": "use connect_timeout",
}
_HINT: Final = "remove it; a setting of the server goes into options=-c name=value"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a database is and how to connect to it; None where the address does not say.

    `arguments` are the driver's, `server_settings` what a session begins with, `keepalives` idle time, interval and
    count.
    """

    hosts: tuple[Host, ...]
    arguments: Mapping[str, Any]
    server_settings: Mapping[str, str]
    must_write: bool
    connect_timeout_seconds: int | None
    is_kept_alive: bool
    keepalives: tuple[int | None, int | None, int | None]
    user_timeout_milliseconds: int | None


def read_address(text: str) -> URL:
    """Read an address in any of PostgreSQL's usual spellings; raises ValueError for what cannot be done.

    The driver is always asyncpg; several hosts and their ports stand in the query, as libpq takes them.
    """
    try:
        several = _SEVERAL_HOSTS.fullmatch(text)
        url = make_url(text if several is None else several[1] + several[2] + (several[4] or ""))
    except Exception as error:
        raise ValueError("is not a database address: use postgresql://user:password@host:5432/database") from error
    if url.drivername not in {"postgres", "postgresql", "postgresql+asyncpg"}:
        raise ValueError(f"names {url.drivername}: only postgresql://… is supported")
    query = {name: _once(name, value) for name, value in url.query.items()}
    hosts = _read_hosts(url, query.pop("host", several[3] if several else ""), query.pop("port", ""))
    if "ssl" in query:
        # As asyncpg and JDBC call it.
        mode = query.pop("ssl")
        query.setdefault("sslmode", "require" if mode == "true" else mode)
    if len(hosts) > 1 or (hosts[0][0] or "").startswith("/"):
        query["host"] = ",".join(host or "" for host, _ in hosts)
        query["port"] = ",".join(str(port or 5432) for _, port in hosts)
        hosts = ((None, None),)
    return _check(
        URL.create(
            "postgresql+asyncpg",
            query.pop("user", url.username),
            query.pop("password", url.password),
            *hosts[0],
            query.pop("dbname", url.database),
            query,
        )
    )


def _once(name: str, value: str | tuple[str, ...]) -> str:
    if isinstance(value, str):
        return value
    if name == "host":
        return ",".join(value)  # SQLAlchemy's way to name several
    raise ValueError(f"names {name} {len(value)} times: name it once")


def _read_hosts(url: URL, hosts: str, ports: str) -> tuple[Host, ...]:
    found = [_read_host(host) for host in hosts.split(",")] if hosts else [(url.host, None)]
    given = [_read_port(port) for port in ports.split(",")] if ports else [_in_range(url.port)]
    if len(given) not in {1, len(found)}:
        raise ValueError(f"names {len(found)} hosts and {len(given)} ports: name one port, or one for each host")
    given *= len(found) // len(given)
    return tuple((host, own or port) for (host, own), port in zip(found, given, strict=True))


def _read_host(text: str) -> Host:
    found = _HOST.fullmatch(text)
    if found is None:
        raise ValueError(f"names the host {text!r}: use a name or an address, and :port if needed")
    return found[2] or found[1], _read_port(found[3]) if found[3] else None


def _read_port(text: str) -> int | None:
    if not text.isdecimal():
        raise ValueError(f"names port {text!r}: use 1 to 65535")
    return _in_range(int(text))


def _in_range(port: int | None) -> int | None:
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"names port {port}: use 1 to 65535")
    return port


def _check(url: URL) -> URL:
    """Raise ValueError for a parameter that is unknown, or asks for what cannot be had."""
    for name, value in _query(url).items():
        if name in _CHOICES and value not in _CHOICES[name]:
            hint = f"; {_HINTS[name]}" if name in _HINTS else ""
            raise ValueError(f"asks for {name}={value}: use {' or '.join(_CHOICES[name])}{hint}")
        if name in _NUMBERS and not (value.isdecimal() and 1 <= int(value) < 2**31):
            raise ValueError(f"asks for {name}={value}: use a whole number of at least 1")
        if name in _FILES and value != "system" and not os.access(value, os.R_OK):
            raise ValueError(f"names {value} as {name}: there is no such file, or it cannot be read")
        if name not in {"host", "port", *_CHOICES, *_NUMBERS, *_TEXTS, *_FILES}:
            raise ValueError(f"has the parameter {name}, which is not supported: {_HINTS.get(name, _HINT)}")
    _check_trust(_query(url))
    return url


def _check_trust(query: Mapping[str, str]) -> None:
    """Raise ValueError where a server must prove who it is, but nobody is named to vouch for it."""
    mode, root = query.get("sslmode"), query.get("sslrootcert")
    if root == "system" and (mode not in {None, "verify-full"} or "sslcrl" in query):
        raise ValueError("asks for sslrootcert=system: it goes with sslmode=verify-full, and without sslcrl")
    default = Path("~/.postgresql/root.crt").expanduser()
    if mode in {"verify-ca", "verify-full"} and not (root or os.environ.get("PGSSLROOTCERT") or default.exists()):
        raise ValueError(
            f"asks for sslmode={mode} without sslrootcert: name the file of the certificate authority, or"
            " sslrootcert=system for those that this machine trusts"
        )


def _query(url: URL) -> dict[str, str]:
    return {name: value for name, value in url.query.items() if isinstance(value, str)}


def divide(url: URL) -> Address:
    """Take apart an address that `read_address` has read."""
    query = _query(url)
    hosts: tuple[Host, ...] = ((url.host, url.port),)
    if "host" in query:
        hosts = tuple(zip(query["host"].split(","), map(int, query["port"].split(",")), strict=True))
    numbers = {name: int(query[name]) for name in _NUMBERS if name in query}
    sent = {
        "application_name": query.get("application_name") or query.get("fallback_application_name"),
        "options": query.get("options"),
    }
    return Address(
        hosts,
        {
            "user": url.username,
            "password": url.password,
            "database": url.database,
            "passfile": query.get("passfile"),
            **_tls(query),
        },
        {name: value for name, value in sent.items() if value},
        must_write=query.get("target_session_attrs") == "read-write",
        connect_timeout_seconds=numbers.get("connect_timeout"),
        is_kept_alive=query.get("keepalives") != "0",
        keepalives=(
            numbers.get("keepalives_idle"),
            numbers.get("keepalives_interval"),
            numbers.get("keepalives_count"),
        ),
        user_timeout_milliseconds=numbers.get("tcp_user_timeout"),
    )


def _tls(query: Mapping[str, str]) -> dict[str, Any]:
    """Return the driver's arguments about TLS, most of which it takes from a URL only."""
    if query.get("sslrootcert") != "system":
        given = {name: value for name, value in query.items() if name in _TLS}
        return {"dsn": f"postgresql://?{urlencode(given, quote_via=quote)}"} if given else {}
    context = ssl.create_default_context()
    if "sslcert" in query:
        context.load_cert_chain(query["sslcert"], query.get("sslkey"), query.get("sslpassword", ""))
    if "ssl_min_protocol_version" in query:
        context.minimum_version = ssl.TLSVersion[query["ssl_min_protocol_version"].replace(".", "_")]
    if "ssl_max_protocol_version" in query:
        context.maximum_version = ssl.TLSVersion[query["ssl_max_protocol_version"].replace(".", "_")]
    return {"ssl": context, "direct_tls": query.get("sslnegotiation") == "direct"}
