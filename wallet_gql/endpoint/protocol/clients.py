"""All connections of a worker: how many there may be, and what they may hold together."""

import asyncio
import sys
from dataclasses import dataclass
from typing import Any, Final

import structlog

from wallet_gql.endpoint.protocol.connection import Connection

if sys.platform != "win32":
    import resource

LOOK_SECONDS: Final = 1

STALL_SECONDS: Final = 30
"""How long a client may read nothing of an answer."""

DRAIN_STALL_SECONDS: Final = 2
"""The same while the server stops."""

UNREAD_BYTES_MAX: Final = 64 * 1024 * 1024
"""How much may wait to be read in all; past it, those that have read nothing for longest are cut."""

TURNED_AWAY_MAX: Final = 64
"""How many connections over the bound are told so at a time; those beyond are closed without a word."""

DESCRIPTORS_RESERVED: Final = TURNED_AWAY_MAX + 64
"""What a worker opens besides its clients and its pool."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What the settings say about clients, for a worker."""

    connections: int
    keep_alive_seconds: float
    header_seconds: float
    body_seconds: float


class Clients:
    """Makes uvicorn's protocol for each connection, and looks at all of them once a second."""

    def __init__(self, limits: ClientLimits) -> None:
        """Take the limits; uvicorn hands a copy to each worker process."""
        self.limits = limits
        self.turned_away: set[Connection] = set()
        self.is_draining = False
        self._open: set[Any] | None = None
        self._refused_count = 0

    def __call__(self, **uvicorns: Any) -> Connection:
        """Make the protocol of a new connection."""
        connection = Connection(self, **uvicorns)
        if self._open is None:
            self._open = connection.connections
            connection.loop.call_later(LOOK_SECONDS, self._look, connection.loop)
        return connection

    def admit(self) -> bool:
        """Say whether one more connection may be open."""
        return self._open is None or len(self._open) < self.limits.connections

    def turn_away(self, connection: Connection) -> bool:
        """Count a connection that is over the bound; returns whether there is time to tell it so."""
        self._refused_count += 1
        if len(self.turned_away) < TURNED_AWAY_MAX:
            self.turned_away.add(connection)
            return True
        return False

    def log_cut(self, reason: str, unread_bytes: int) -> None:
        """Log that a connection is cut."""
        _log.info("client cut", reason=reason, unread_bytes=unread_bytes)

    def bound_unread(self) -> None:
        """Cut those who read nothing where too much waits to be read."""
        sizes = {connection: connection.transport.get_write_buffer_size() for connection in self._open or ()}
        total = sum(sizes.values())
        for connection in sorted(filter(sizes.__getitem__, sizes), key=lambda client: client.stalled_since):
            if total <= UNREAD_BYTES_MAX:
                return
            total -= sizes[connection]
            connection.cut("Too many unread answers wait in this process.")

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(LOOK_SECONDS, self._look, loop)
        stall_seconds = DRAIN_STALL_SECONDS if self.is_draining else STALL_SECONDS
        now = loop.time()
        for connection in (*(self._open or ()), *self.turned_away):
            connection.look(now, stall_seconds)
        if self._refused_count:
            _log.warning("connections full", refused=self._refused_count, max=self.limits.connections)
            self._refused_count = 0


def connections_within(connections_max: int, pool_size: int) -> int:
    """Return how many connections a worker's file descriptors allow, at most `connections_max`.

    Raises the soft limit where that is enough. At the limit itself, uvloop closes new connections without a word.
    """
    if sys.platform == "win32":
        return connections_max
    reserved = DESCRIPTORS_RESERVED + pool_size
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + reserved
    if soft < wanted and soft != resource.RLIM_INFINITY:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return connections_max
    allowed = max(16, soft - reserved)
    _log.warning("connections bounded by file descriptors", descriptors=soft, max=allowed, wanted=connections_max)
    return allowed
