"""What a page of another site can have a browser send without asking: it changes nothing, where access is open too."""

import json
from typing import Final
from urllib.parse import urlencode

import httpx
import pytest
from conftest import Served
from raw import Posting, new_posting

SITE: Final = {"origin": "https://evil.example", "sec-fetch-site": "cross-site", "cookie": "session=1"}


@pytest.fixture(scope="module")
def posting(served: Served) -> Posting:
    return new_posting(served.url)


def parameters(posting: Posting) -> dict[str, str]:
    """Return what a form or a query string has."""
    body = json.loads(posting.body)
    return {"query": body["query"], "variables": json.dumps(body["variables"])}


def bodies(posting: Posting) -> list[bytes]:
    text = posting.body.decode()
    field = f'--x\r\nContent-Disposition: form-data; name="operations"\r\n\r\n{text}\r\n--x--\r\n'
    return [
        text.encode(),
        urlencode(parameters(posting)).encode(),
        # A form's field, whose name and value are JSON together.
        f'{text[:-1]},"padding":"=x"}}'.encode(),
        f"{text}=".encode(),
        field.encode(),
    ]


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "text/plain; application/json",
        "text/plain; charset=application/json",
        "text/plain, application/json",
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=UTF-8",
        "multipart/form-data; boundary=x",
        "multipart/form-data; boundary=application/json",
    ],
)
def test_forms(served: Served, posting: Posting, content_type: str | None) -> None:
    headers = SITE if content_type is None else SITE | {"content-type": content_type}
    for body in bodies(posting):
        answer = httpx.post(served.url, content=body, headers=headers)
        assert answer.status_code == 415
        assert "data" not in answer.json()
        assert "access-control-allow-origin" not in answer.headers
    assert not posting.is_posted(served.url)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_links_and_pictures(served: Served, posting: Posting, method: str) -> None:
    overridden = {"x-http-method-override": "POST", "x-http-method": "POST", "x-method-override": "POST"}
    for headers in (SITE, SITE | overridden, SITE | {"accept": "text/html,*/*"}, SITE | {"accept": "image/*,*/*"}):
        for given in (parameters(posting), parameters(posting) | {"_method": "POST"}):
            answer = httpx.request(method, served.url, params=given, headers=headers)
            assert answer.status_code == 405
    json_type = SITE | {"content-type": "application/json"}
    assert httpx.request(method, served.url, content=posting.body, headers=json_type).status_code >= 400
    assert not posting.is_posted(served.url)


def test_preflight(served: Served, posting: Posting) -> None:
    """Whoever would send JSON is asked first by the browser, and is not let."""
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    answer = httpx.options(served.url, headers=SITE | asked)
    assert answer.status_code == 405
    assert not any(name.startswith("access-control") for name in answer.headers)
    assert not posting.is_posted(served.url)


def test_the_same_body_is_posted_as_json(served: Served, posting: Posting) -> None:
    """What was refused before was refused for how it came."""
    httpx.post(served.url, content=posting.body, headers={"content-type": "application/json"})
    assert posting.is_posted(served.url)
