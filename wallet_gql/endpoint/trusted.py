"""Documents that were registered before: named by an id instead of sent; if so set, people run no others.

Manifests are read as the tools of Relay and of Apollo write them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from wallet_gql.domain.access import ActorKind, Caller
from wallet_gql.domain.errors import Fault
from wallet_gql.endpoint.documents import Documents, InvalidDocument
from wallet_gql.endpoint.requests import BadRequest

MANIFEST_BYTES_MAX: Final = 10 * 1024 * 1024
DOCUMENTS_MAX: Final = 2000
ID_LENGTH_MAX: Final = 200


class ManifestUnfit(Fault):
    """A manifest cannot be read, or has a document that this service cannot execute."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """Registered documents by their ids."""

    texts: Mapping[str, str] = field(default_factory=dict)
    only_for_people: bool = False
    """Whether people's tokens run nothing else."""

    def put_query(self, parameters: dict[str, Any], caller: Caller) -> None:
        """Put the document that a request names in the place of its `query`; raises `BadRequest`."""
        query, id_ = parameters.get("query"), parameters.get("documentId")
        if id_ is not None:
            parameters["query"] = self._named(id_, query)
        elif not query:
            known = self.texts.get(_persisted_hash(parameters))
            if known is not None:
                parameters["query"] = known
        if (
            self.only_for_people
            and caller.kind is ActorKind.PERSON
            and not self._is_registered(parameters.get("query"))
        ):
            raise BadRequest(
                HTTPStatus.FORBIDDEN,
                "The document is not one of those that were registered: send the documentId of one that is.",
                code="DOCUMENT_NOT_TRUSTED",
            )

    def _is_registered(self, query: object) -> bool:
        return not isinstance(query, str) or f"sha256:{sha256(query.encode()).hexdigest()}" in self.texts

    def _named(self, id_: object, query: object) -> str:
        if not isinstance(id_, str):
            raise BadRequest(HTTPStatus.BAD_REQUEST, "documentId is not a string: send the id of a document.")
        if query:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "query and documentId are both there: send one of them.")
        text = self.texts.get(id_)
        if text is None:
            message = f"documentId {id_[:80]!a} is of no document here: send the document as query."
            raise BadRequest(HTTPStatus.NOT_FOUND, message, code="DOCUMENT_NOT_FOUND")
        return text


def _persisted_hash(parameters: Mapping[str, Any]) -> str:
    """Return the id that Apollo's clients send in the place of a document."""
    extensions = parameters.get("extensions")
    persisted = extensions.get("persistedQuery") if isinstance(extensions, dict) else None
    id_ = persisted.get("sha256Hash") if isinstance(persisted, dict) else None
    return id_ if isinstance(id_, str) else ""


def read_manifests(paths: Iterable[Path]) -> dict[str, str]:
    """Return the documents of manifests by their ids, and by `sha256:` and their hash. Raises `ManifestUnfit`."""
    texts: dict[str, str] = {}
    for path in paths:
        for id_, text in _read(path):
            for name in (id_, f"sha256:{sha256(text.encode()).hexdigest()}"):
                if texts.setdefault(name, text) != text:
                    raise ManifestUnfit(f"{path}: {name} names two documents: give each an id of its own.")
    if len(set(texts.values())) > DOCUMENTS_MAX:
        raise ManifestUnfit(f"The manifests have more than {DOCUMENTS_MAX} documents: leave out those of old releases.")
    return texts


def _read(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with path.open("rb") as file:
            content = file.read(MANIFEST_BYTES_MAX + 1)
        manifest = json.loads(content) if len(content) <= MANIFEST_BYTES_MAX else None
    except OSError as error:
        raise ManifestUnfit(f"{path}: the manifest cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise ManifestUnfit(f"{path}: the manifest is not JSON.") from None
    pairs = list(_pairs(manifest))
    if not all(isinstance(each, str) for pair in pairs for each in pair):
        raise ManifestUnfit(f"{path}: this is neither a manifest of Relay nor one of Apollo: see docs/access.md.")
    try:
        "".join(each for pair in pairs for each in pair).encode()
    except UnicodeEncodeError:
        raise ManifestUnfit(f"{path}: a text is not Unicode: half of a surrogate pair is missing.") from None
    if any(not 0 < len(id_) <= ID_LENGTH_MAX for id_, _ in pairs):
        raise ManifestUnfit(f"{path}: an id is empty, or longer than {ID_LENGTH_MAX} characters.")
    yield from pairs


def _pairs(manifest: object) -> Iterator[tuple[Any, Any]]:
    """Yield the ids and texts of a manifest; what is none yields something else."""
    if not isinstance(manifest, dict):
        yield None, None
    elif manifest.get("format") != "apollo-persisted-query-manifest":
        yield from manifest.items()
    else:
        listed = manifest.get("operations")
        for each in listed if isinstance(listed, list) else [None]:
            yield (each.get("id"), each.get("body")) if isinstance(each, dict) else (None, None)


def prepare(documents: Documents, texts: Mapping[str, str]) -> None:
    """Parse, measure and validate registered documents, and keep them for good. Raises `ManifestUnfit`."""
    for id_, text in texts.items():
        try:
            documents.register(text)
        except InvalidDocument as error:
            reasons = "; ".join(each.message for each in error.errors)
            raise ManifestUnfit(f"The document {id_} of a manifest cannot be executed here: {reasons}") from None
