"""Reads that are asked at the same time share a statement, across requests.

A read joins the next statement, never one that was already sent: a client reads its own writes. At most a few
statements of a kind are under way; what is asked meanwhile forms the next. There is no timer.

A value that the database cannot work with must not fail other callers' reads: on a data error the batch is halved until
the value stands alone, and only who asked for it is told. Any other error is everybody's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from asyncpg import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from wallet_gql.db.engine import connect
from wallet_gql.operations.unit_of_work import Verdict, retrying, verdict

Key = TypeVar("Key")
Value = TypeVar("Value")

STATEMENTS_UNDER_WAY_MAX: Final = 2
BATCH_SIZE_MAX: Final = 1000

ROWS_AT_ONCE: Final = 250
"""So many rows are handed out in one turn of the event loop: what is made of them must not keep it from the others."""
