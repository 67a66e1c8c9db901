"""GraphiQL from the package's own files: no other host is asked for anything, and the page's policy enforces it."""

import asyncio
import gzip
from functools import cache
from os import PathLike, stat_result
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from wallet_gql.endpoint.negotiation import fields, takes_gzip

_FOLDER: Final = Path(__file__).parent / "graphiql"

_CONTENT_SECURITY_POLICY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    # No 'unsafe-inline': the hash is of the one style element GraphiQL adds, which stops scrolling under a dialog.
    # Were its text another in some browser, the dialog would still open, and the page has nothing to scroll.
    "style-src": "'self' 'sha256-Y/huXlwoYkVyQlxwSVcCi1RCDGDCSVBzDt0hYP9qlTc='",
    "connect-src": "'self'",
    "img-src": "'self' data:",  # the editor's marks under a mistake are data: images in its stylesheet
    "font-src": "data:",  # and so are its fonts
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}

_HEADERS: Final = {
    "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in _CONTENT_SECURITY_POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Kept by the browser, but asked about each time: after an upgrade no old script meets a new page.
    "Cache-Control": "no-cache",
}

# Python asks the machine for a file's type, and some (a Windows registry, a slim image) say text/plain for a script:
# with nosniff the browser would then refuse to run it.
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


class _Assets(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer with a file; compressed, once for all, where the client takes it."""
        response = await super().get_response(path, scope)
        accepted = fields(scope["headers"]).get(b"accept-encoding", b"").decode("latin-1")
        if not isinstance(response, FileResponse) or response.status_code != 200:
            return response
        response.headers["Vary"] = "Accept-Encoding"
        if not takes_gzip(accepted):
            return response
        content = await asyncio.to_thread(_compressed, str(response.path))
        del response.headers["content-length"], response.headers["accept-ranges"]
        # The same content in other bytes: a weak tag (RFC 9110, 8.8.1).
        headers = {**response.headers, "content-encoding": "gzip", "etag": f"W/{response.headers['etag']}"}
        return Response(content, headers=headers)

    def file_response(
        self, full_path: "str | PathLike[str]", stat_result: stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_HEADERS)
        if "Content-Type" in response.headers:  # a 304 has none
            response.headers["Content-Type"] = _MEDIA_TYPES[Path(full_path).suffix]
        return response


@cache
def _compressed(path: str) -> bytes:
    return gzip.compress(Path(path).read_bytes(), mtime=0)


@cache
def _page_html() -> bytes:
    return (_FOLDER / "index.html").read_bytes()


def page() -> Response:
    """The GraphiQL page, to be served at the GraphQL endpoint itself to a GET that prefers text/html.

    It looks for its assets in `graphiql/` beside the endpoint.
    """
    # A response of its own each time: middleware adds headers to a response in place. Vary, because the same URL
    # answers other GETs with JSON.
    return HTMLResponse(_page_html(), headers={**_HEADERS, "Vary": "Accept"})


def favicon(_request: Request) -> Response:
    """What browsers ask for on every page that names no icon."""
    return FileResponse(_FOLDER / "favicon.svg", media_type=_MEDIA_TYPES[".svg"], headers=_HEADERS)


def assets() -> StaticFiles:
    """What the page loads; to be mounted at `/graphiql`, beside the endpoint."""
    return _Assets(directory=_FOLDER)
