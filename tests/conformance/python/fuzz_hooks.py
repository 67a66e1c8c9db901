"""What schemathesis cannot know of this API: how its scalars look, and what every answer promises."""

from typing import Any

import schemathesis  # type: ignore[import-not-found] # in an environment of its own, see run.py
from graphql import DocumentNode, ListValueNode, NullValueNode, ObjectFieldNode, ObjectValueNode, Visitor, visit
from hypothesis import strategies as st
from schemathesis.graphql import nodes  # type: ignore[import-not-found]

AMOUNTS = st.decimals(min_value="-10", max_value="1e16", places=2).map(str)
KEYS = st.uuids(version=4).map(str)

schemathesis.graphql.scalar("Amount", (st.integers(-1, 1000).map(str) | AMOUNTS).map(nodes.String))
schemathesis.graphql.scalar("UUID", KEYS.map(nodes.String))


class _OneOf(Visitor):
    """Leaves each item of a batch one field: the generator does not know `@oneOf`, and gives it any number of them."""

    def enter_object_field(self, node: ObjectFieldNode, *_: object) -> None:
        if node.name.value == "items" and isinstance(node.value, ListValueNode):
            for item in node.value.values:
                if isinstance(item, ObjectValueNode):
                    given = tuple(each for each in item.fields if not isinstance(each.value, NullValueNode))
                    # Nodes are read-only in the version after the generator's.
                    item.fields = given[:1]  # type: ignore[misc]


@schemathesis.hook  # type: ignore[untyped-decorator]
def map_body(_context: object, body: DocumentNode) -> DocumentNode:
    """Change what is generated where it could never be right."""
    visit(body, _OneOf())
    return body


class AnswersAsDocumented:
    """Every refusal is the caller's to mend and says so; every operation is answered without errors at least once."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._asked: set[str] = set()
        self._answered: set[str] = set()

    def after_response(self, _context: object, response: Any, case: Any) -> None:
        """Check one answer."""
        answer = response.json()
        assert response.status_code in {200, 400}, f"status {response.status_code}"
        for error in answer.get("errors", ()):
            # No INTERNAL, and none of the faults: the database is there and the server is not overloaded.
            assert error["extensions"]["code"] == "BAD_USER_INPUT", error
            assert [error["extensions"]["requestId"]] == response.headers["x-request-id"], "the request id differs"
            assert error["message"]
            assert "Traceback" not in error["message"]
        self._asked.add(case.operation.label)
        if not answer.get("errors"):
            self._answered.add(case.operation.label)

    def after_run(self, _context: object) -> None:
        """Check that the run reached every resolver."""
        assert self._asked == self._answered, f"only refused: {sorted(self._asked - self._answered)}"


schemathesis.check(AnswersAsDocumented)
