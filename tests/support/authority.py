"""A certificate authority for the run, made with openssl."""

import shutil
import subprocess
from pathlib import Path


def openssl(*arguments: str | Path) -> None:
    program = shutil.which("openssl")
    assert program is not None, "this test makes certificates with openssl: install it"
    subprocess.run([program, *arguments], check=True, capture_output=True)


class Authority:
    """A certificate authority, and what it has signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=wallet test authority",
            "-keyout", self._key, "-out", self.certificate,
        )  # fmt: skip

    def sign(self, name: str, extensions: str = "") -> tuple[Path, Path]:
        """Return a certificate and its key; a server's has its names among the extensions."""
        certificate, key, asked, extra = (self.folder / f"{name}.{end}" for end in ("pem", "key", "csr", "ext"))
        extra.write_text(extensions)
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", asked)
        openssl(
            "x509", "-req", "-days", "2", "-in", asked, "-CA", self.certificate, "-CAkey", self._key,
            "-CAcreateserial", "-extfile", extra, "-out", certificate,
        )  # fmt: skip
        return certificate, key
