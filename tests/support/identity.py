"""An identity provider for tests: its keys, what it publishes, and the tokens that it issues."""

import json
import time
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER: Final = "https://id.example.com"
AUDIENCE: Final = "wallet"

_MAKERS: Final[dict[str, Any]] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}
_WRITERS: Final[dict[str, Any]] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


@dataclass(slots=True)
class Identity:
    """One key of an identity provider."""

    kid: str = "first"
    algorithm: str = "ES256"
    key: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.key = self.key or _MAKERS[self.algorithm]()

    def jwk(self, **more: object) -> dict[str, object]:
        written: dict[str, object] = _WRITERS[self.algorithm].to_jwk(self.key.public_key(), as_dict=True)
        return written | {"kid": self.kid, "use": "sig", "alg": self.algorithm} | more

    def pem(self) -> bytes:
        pem: bytes = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    def token(self, owner_id: object = "eu-1", scope: object = "", **claims: object) -> str:
        """Issue a token; a claim that is None is left out."""
        now = int(time.time())
        usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": owner_id, "iat": now, "exp": now + 300, "scope": scope}
        given = {name: value for name, value in (usual | claims).items() if value is not None}
        return self.signed(given)

    def signed(self, claims: dict[str, object], headers: dict[str, object] | None = None) -> str:
        return jwt.encode(claims, self.key, self.algorithm, {"kid": self.kid} | (headers or {}))


def jwks(*keys: dict[str, object]) -> bytes:
    return json.dumps({"keys": keys}).encode()
