"""Faults: why a request got no outcome. A refusal of the business is no fault, it is an outcome (see `postings`).

What a caller does about each: the table of errors in docs/api.md.
"""


class Fault(Exception):
    """A request that got no outcome."""


class BadUserInput(Fault):
    """A request that names something malformed."""

    def __init__(self, field: str, fault: str, remedy: str) -> None:
        """Name the `field`, the value's `fault` and the `remedy`."""
        super().__init__(f"{field} {fault}: {remedy}.")
        self.field = field


class Unauthenticated(Fault):
    """A request of nobody whom the service knows."""


class Forbidden(Fault):
    """A request of somebody who may not ask so; `field` where an argument is why."""

    def __init__(self, message: str, field: str | None = None) -> None:
        """Say what is not for the caller, and who can change that."""
        super().__init__(message)
        self.field = field


class RateLimited(Fault):
    """A caller asks for more than its budget has; nothing was executed."""

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        """Say what it costs, and when there is enough for it."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Overloaded(Fault):
    """More is asked for than the service can do in time; nothing was posted."""

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        """Say what is full, and when it helps to come back."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(Fault):
    """The database cannot be reached in time; nothing was posted."""


class OutcomeUnknown(Fault):
    """The connection was lost at COMMIT: the posting may or may not be in the books."""
