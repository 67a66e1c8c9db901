"""The server: its listener, uvicorn, and the supervisor of several workers, which replaces whoever ends."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog
import uvicorn
from uvicorn import Config
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from wallet_gql.endpoint.protocol.clients import ClientLimits, Clients, connections_within
from wallet_gql.settings import Settings

UNFIT_PAUSE_SECONDS: Final = 10
"""How long a worker is not replaced that found the database unfit: its successor would find the same."""

_STOPS: Final = (signal.SIGINT, signal.SIGTERM)

_log = structlog.get_logger()


class CannotListen(Exception):
    """The address cannot be listened on; the message names the remedy."""


def listen(host: str, port: int) -> socket.socket:
    """Take the port before anything else is started, so that a taken one is told at once. Raises `CannotListen`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # So that a second server on the port fails here; who connects already waits until the first one serves.
        listener.listen(2048)
    except OSError as error:
        raise CannotListen(
            f"Cannot listen on {host}:{port}: {error.strerror}. Stop what uses the port, or choose another:"
            f" wallet-gql serve --port {port % 65535 + 1}, or make run PORT={port % 65535 + 1}."
        ) from None
    listener.set_inheritable(True)
    return listener


def _client_limits(settings: Settings) -> ClientLimits:
    return ClientLimits(
        connections_within(settings.connections_max, settings.pool_size),
        settings.keep_alive_seconds,
        settings.header_timeout_seconds,
        settings.body_timeout_seconds,
    )


@contextmanager
def _stop_kept() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM until the block ends, and let them do then what they do.

    Until uvicorn listens to them they would raise an exception wherever the interpreter is, and one that is raised in a
    destructor is ignored: the server would start and never stop.
    """
    noted: list[int] = []
    before = {number: signal.signal(number, lambda number, _: noted.append(number)) for number in _STOPS}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if noted:
            signal.raise_signal(noted[0])


class _Server(uvicorn.Server):
    def __init__(self, config: Config, noted: list[int]) -> None:
        super().__init__(config)
        self._noted = noted

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listen to signals, beginning with those that came too early."""
        with super().capture_signals():
            _repeat(self._noted)
            yield


def _repeat(noted: list[int]) -> None:
    while noted:
        signal.raise_signal(noted.pop())


def run(settings: Settings, listener: socket.socket, announce: Callable[[], None]) -> None:
    """Serve until told to stop: in this process, or in several workers under a supervisor."""
    with _stop_kept() as noted:
        announce()
        _run(settings, listener, noted)


def _run(settings: Settings, listener: socket.socket, noted: list[int]) -> None:
    config: dict[str, Any] = {
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "ws": "none",
        "http": Clients(_client_limits(settings)),
        "lifespan": "on",
        "timeout_graceful_shutdown": settings.shutdown_timeout_seconds,
        "timeout_worker_healthcheck": 10,
    }
    if settings.workers == 1:
        # The supervisor of several workers needs neither the application nor its schema.
        from wallet_gql.app import create_app  # noqa: PLC0415

        _Server(Config(create_app(settings), **config), noted).run(sockets=[listener])
        return
    # Workers are processes of their own: they read the settings from the environment again.
    assert settings.database_url is not None
    os.environ["DATABASE_URL"] = settings.database_url.get_secret_value()
    os.environ["WALLET_HOST"] = settings.host
    os.environ["WALLET_ACCESS"] = settings.access or "closed"
    config |= {"factory": True, "workers": settings.workers}
    workers = Workers(Config("wallet_gql.app:create_worker_app", **config), [listener])
    _repeat(noted)
    workers.run()


class Workers(Multiprocess):
    """uvicorn's supervisor, but a worker that cannot start ends the others only when none of them can.

    Without it, one worker that starts after a migration by a newer version would end all that still work.
    """

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        """Take uvicorn's configuration and the sockets that all workers share."""
        super().__init__(config, sockets)
        self._unfit: dict[Process, float] = {}

    def run(self) -> None:
        """Supervise until told to stop; ends with a status other than 0 when no worker can serve."""
        super().run()
        if self._are_all_unfit():
            raise SystemExit(STARTUP_FAILURE)

    def keep_subprocess_alive(self) -> None:
        """Replace who has ended or does not answer; uvicorn's own ends all for one and says nothing of the stalled."""
        now = time.monotonic()
        for index, process in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if process in self._unfit:
                if now < self._unfit[process] + UNFIT_PAUSE_SECONDS:
                    continue
                del self._unfit[process]
            elif process.is_alive(timeout=self.config.timeout_worker_healthcheck):
                continue
            elif self._end(process) == STARTUP_FAILURE:
                self._unfit[process] = now
                continue
            self.processes[index] = Process(self.config, self.sockets)
            self.processes[index].start()
        if self._are_all_unfit():
            self.should_exit.set()

    def _end(self, process: Process) -> int | None:
        is_stalled = process.process.is_alive()
        process.kill()
        process.join()
        _log.error("worker stalled" if is_stalled else "worker ended", pid=process.pid, status=process.exitcode)
        return process.exitcode

    def _are_all_unfit(self) -> bool:
        return all(process in self._unfit for process in self.processes)
