import pytest

from wallet_gql.endpoint.negotiation import GRAPHQL_RESPONSE, HTML, JSON, choose, is_json

ANSWERS = (JSON, GRAPHQL_RESPONSE)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json", JSON),
        ("APPLICATION/JSON", JSON),
        ("application/graphql-response+json", GRAPHQL_RESPONSE),
        ("application/graphql-response+json; charset=utf-8, application/json; q=0.9", GRAPHQL_RESPONSE),
        ("application/graphql-response+json;q=0.5, application/json;q=0.9", JSON),
        ("application/graphql-response+json, application/json", GRAPHQL_RESPONSE),
        ("application/json, application/graphql-response+json", JSON),
        ("text/html, */*;q=0.1", JSON),
        ("application/json;q=0, */*", GRAPHQL_RESPONSE),
        ("text/html", None),
        ("application/json;q=0", None),
        ("application/json;q=rubbish", None),
        (",;=", None),
    ],
)
def test_the_best_media_type_is_chosen(accept: str, expected: str | None) -> None:
    assert choose(accept, ANSWERS) == expected


def test_a_browser_would_rather_have_html() -> None:
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
    assert choose(browser, (*ANSWERS, HTML)) == HTML
    assert choose("*/*", (*ANSWERS, HTML)) == JSON


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", True),
        ("Application/JSON; Charset=UTF-8", True),
        ('application/json; charset="utf-8"', True),
        ("application/json; charset=latin-1", False),
        ("application/graphql", False),
        ("text/plain", False),
        ("application/x-www-form-urlencoded", False),
        ("", False),
    ],
)
def test_a_body_is_json_in_utf_8(content_type: str, expected: bool) -> None:
    assert is_json(content_type) is expected
