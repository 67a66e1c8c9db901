"""The names that the server answers to: a page that points its own name at our address gets nothing (DNS rebinding).

Starlette's TrustedHostMiddleware does not read IPv6 addresses, answers in plain text and costs more than the look-up of
a name that was seen before.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from wallet_gql.settings import Settings

_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]*)?", re.IGNORECASE | re.ASCII)


def is_loopback(name: str) -> bool:
    """Say whether a name or an address is this machine's, for itself only."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) and ip_address(name).is_loopback


def takes_host(settings: Settings) -> Callable[[bytes], bool]:
    """Return what says whether a Host header, or the authority of an absolute target, names this server.

    Where no name is allowed by setting and it does not listen on loopback, what no page can have for its own name is
    taken: addresses, and names without a dot, as containers have them.
    """
    allowed = {name.lower() for name in settings.allowed_hosts}
    suffixes = tuple(name[1:] for name in allowed if name.startswith("*."))
    is_lenient = not allowed and not is_loopback(settings.host)

    @lru_cache(maxsize=256)
    def takes(host: bytes) -> bool:
        found = _HOST.fullmatch(host.decode("latin-1").strip())
        if found is None:
            return False
        name = (found[1] or found[2]).lower().removesuffix(".")
        if name in allowed or "*" in allowed or is_loopback(name) or (suffixes and name.endswith(suffixes)):
            return True
        return is_lenient and ("." not in name or _is_address(name))

    return takes


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
