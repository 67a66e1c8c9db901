"""Making a connection: to the first host that answers and is no standby, by a socket that notices a silent end."""

import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import asyncpg
from asyncpg import Connection
from sqlalchemy.engine import URL

from wallet_gql.db.address import Address, divide

KEEPALIVES: Final = (15, 5, 3)
"""An idle connection is asked for a sign of life after so many seconds, then so often, so many times: a host that
vanished is known after half a minute, before a caller pays for it."""


class NotConnected(ConnectionError):
    """No connection could be made, so nothing was sent; `sqlstate` is what the last one answered, if it did."""

    def __init__(self, reasons: Mapping[str, BaseException]) -> None:
        """Say of each host why not."""
        super().__init__("; ".join(f"{host}: {str(error) or 'no answer in time'}" for host, error in reasons.items()))
        last = [*reasons.values()][-1]
        self.sqlstate: str | None = getattr(last, "sqlstate", None)


def is_standby(connection: Connection) -> bool:
    """Say whether a session reads what may be out of date, as the server has last told: it asks nothing."""
    return getattr(connection.get_settings(), "in_hot_standby", "off") == "on"


def connector(
    url: URL,
    *,
    connect_timeout_seconds: float,
    answer_timeout_seconds: float,
    server_settings: Mapping[str, str],
    may_be_standby: bool = False,
    **arguments: Any,
) -> Callable[[], Awaitable[Connection]]:
    """Return what makes a connection to `url`; it raises `NotConnected`.

    Hosts are tried one after the other, each for so long, beginning with the one that served last. What was sent and is
    not acknowledged for so long by the host ends the connection. What `url` says itself about either wins.
    """
    address = divide(url)
    hosts = list(address.hosts)
    arguments |= address.arguments
    arguments["server_settings"] = {**server_settings, **address.server_settings}
    arguments["timeout"] = address.connect_timeout_seconds or connect_timeout_seconds

    async def connect() -> Connection:
        reasons: dict[str, BaseException] = {}
        for name, port in tuple(hosts):
            host = f"{name or 'the default host'}:{port or 5432}"
            try:
                connection = await asyncpg.connect(host=name, port=port, **arguments)
            except (OSError, asyncpg.CannotConnectNowError) as error:
                reasons[host] = error
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                # It is there and refuses: so would its standby, or worse, it would not.
                raise NotConnected({host: error}) from error
            else:
                if (reason := _unfit(connection, address, may_be_standby=may_be_standby)) is None:
                    _watch(connection, address, answer_timeout_seconds)
                    hosts.sort(key=lambda other: other != (name, port))
                    return connection
                connection.terminate()
                reasons[host] = reason
        raise NotConnected(reasons) from [*reasons.values()][-1]

    return connect


def _unfit(
    connection: Connection, address: Address, *, may_be_standby: bool
) -> asyncpg.ReadOnlySQLTransactionError | None:
    if is_standby(connection) and not may_be_standby:
        return asyncpg.ReadOnlySQLTransactionError("it is a standby")
    if address.must_write and getattr(connection.get_settings(), "default_transaction_read_only", "off") == "on":
        return asyncpg.ReadOnlySQLTransactionError("it is read-only, and target_session_attrs=read-write")
    return None


def _watch(connection: Connection, address: Address, answer_timeout_seconds: float) -> None:
    """Let the kernel end a connection whose host has vanished without a word."""
    # Private: the driver has no other way to its socket. Without it a vanished host is noticed by deadlines alone.
    connected: socket.socket = connection._transport.get_extra_info("socket")
    if connected.family == socket.AF_UNIX:
        return
    milliseconds = address.user_timeout_milliseconds or max(1000, round(answer_timeout_seconds * 1000))
    idle, interval, count = (own or default for own, default in zip(address.keepalives, KEEPALIVES, strict=True))
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, address.is_kept_alive)
    # macOS has another name for the first and none for the last.
    for option, value in (
        ("TCP_KEEPIDLE", idle),
        ("TCP_KEEPALIVE", idle),
        ("TCP_KEEPINTVL", interval),
        ("TCP_KEEPCNT", count),
        ("TCP_USER_TIMEOUT", milliseconds),
    ):
        if hasattr(socket, option):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
