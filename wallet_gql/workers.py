"""The supervisor of several workers: whoever ends is replaced, and the log says so."""

import time
from socket import socket
from typing import Final

import structlog
from uvicorn import Config
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

UNFIT_PAUSE_SECONDS: Final = 10
"""How long a worker is not replaced that found the database unfit: its successor would find the same."""

_log = structlog.get_logger()


class Workers(Multiprocess):
    """uvicorn's supervisor, but a worker that cannot start ends the others only when none of them can.

    Without it, one worker that starts after a migration by a newer version would end all that still work.
    """

    def __init__(self, config: Config, sockets: list[socket]) -> None:
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
