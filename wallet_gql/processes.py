"""Child processes that do not outlive their parent, even one that was killed."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PRCTL: Final = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def end_with_parent(parent: int, with_signal: signal.Signals) -> None:
    """Ask the kernel, in a child, to send it a signal when the thread of `parent` that made it ends.

    Linux only; elsewhere a child of a killed parent runs on.
    """
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, with_signal)
    # The parent may have ended before the kernel was asked to tell.
    if os.getppid() != parent:
        os._exit(1)
