"""Tables of the ledger. Times are seconds since 1970, counts are tokens, money is nano-dollars."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    String,
    Table,
    func,
    literal_column,
    text,
)

from llmariner.platform.database import metadata

__all__ = [
    "SUM_COLUMNS",
    "charge_policies",
    "instance_of",
    "ledger_days",
    "ledger_events",
    "ledger_floor",
    "ledger_hours",
    "ledger_project_days",
    "ledger_requests",
    "prices",
]

SUM_COLUMNS = (
    "requests",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "trained_tokens",
    "cost",
    # The parts of the cost for uncached prompt, cached prompt, output and training. The rest is the price per request.
    "prompt_cost",
    "cached_cost",
    "completion_cost",
    "training_cost",
    "total_microseconds",
    "first_token_microseconds",
    # Requests that had a first token.
    "first_tokens",
    "successful_requests",
    # Requests that are not open.
    "ended_requests",
)


_ATTRIBUTION = ("project_id", "user_id", "key_id", "model", "route")
_OUTCOME = ("outcome", "status")
_LENGTHS = {"model": 256, "outcome": 16}


def _sum(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


def _sums(name: str, *dimensions: str) -> Table:
    """A rollup: sums over requests with equal dimensions; `start`: the start of their hour or day."""
    return Table(
        name,
        metadata,
        Column("organization_id", String(64), primary_key=True),
        Column("start", BigInteger, primary_key=True, autoincrement=False),
        *(
            Column(each, Integer, primary_key=True, autoincrement=False)
            if each == "status"
            else Column(each, String(_LENGTHS.get(each, 64)), primary_key=True)
            for each in dimensions
        ),
        *(_sum(each) for each in SUM_COLUMNS),
        sqlite_with_rowid=False,  # stores rows by primary key, so that rows read together lie together
    )


def instance_of(request_id: ColumnElement[str]) -> ColumnElement[str]:
    """The gateway instance of a request: the prefix of its id (see `gateway.requests.request_ids`).

    The numbers are literals, since an index on an expression serves only the identical expression.
    """
    return func.substr(request_id, literal_column("1"), literal_column("24"))


# Events of requests; rows never change. The first event of a request to arrive holds its identity and its price; the
# closing one holds its outcome.
ledger_events = Table(
    "ledger_events",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("at", Float, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    _sum("reasoning_tokens"),
    _sum("trained_tokens"),
    Column("organization_id", String(64)),
    Column("project_id", String(64)),
    Column("user_id", String(64)),
    Column("key_id", String(64)),
    Column("model", String(256)),
    Column("adapter", String(256)),
    Column("route", String(64)),
    Column("admitted_at", Float),
    Column("price_id", String(64)),
    Column("outcome", String(16)),
    Column("status", Integer),
    Column("waited_seconds", Float),
    Column("queued_seconds", Float),
    Column("wake_seconds", Float),
    Column("first_token_seconds", Float),
    Column("total_seconds", Float),
)

# The fold of those events: one row per request, until the request is purged.
ledger_requests = Table(
    "ledger_requests",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("user_id", String(64), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    Column("route", String(64), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("status", Integer, nullable=False),
    Column("admitted_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("closed_at", Float),
    Column("waited_seconds", Float),
    Column("first_token_seconds", Float),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    _sum("reasoning_tokens"),
    _sum("trained_tokens"),
    Column("adapter", String(256)),
    Column("queued_seconds", Float),
    Column("wake_seconds", Float),
    Column("total_seconds", Float),
    # The price that was valid at its admission; NULL: there was none, and the request is free.
    Column("price_id", String(64)),
    _sum("cost"),
    Index("ix_ledger_requests_admitted_at", "admitted_at"),
    Index("ix_ledger_requests_project_time", "project_id", "admitted_at"),
    Index("ix_ledger_requests_model_time", "model", "admitted_at"),
    Index("ix_ledger_requests_open", "outcome", "seen_at"),
    Index("ix_ledger_requests_model_seen", "model", "seen_at"),
)
Index("ix_ledger_requests_process", instance_of(ledger_requests.c.request_id), ledger_requests.c.seen_at)

# Rollups: sums of requests by admission time, updated in the transaction of each request, so that they always equal the sums
# of all requests, purged ones included. Each coarser table omits dimensions that seldom matter over long spans, and is
# about ten times smaller.
ledger_hours = _sums("ledger_hours", *_ATTRIBUTION, *_OUTCOME)
ledger_days = _sums("ledger_days", *_ATTRIBUTION)
ledger_project_days = _sums("ledger_project_days", "project_id", "model", "route")

# One row, the retention watermark: requests admitted before it may have been purged, so that events of unknown ones are
# ignored.
ledger_floor = Table(
    "ledger_floor",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("admitted_at", BigInteger, nullable=False),
)

# Prices of a model's tokens and requests, with their validity; '*' for models without a price of their own. `project_id`
# NULL: a shared model, else that project's own model. Rows never change except for `valid_to`.
prices = Table(
    "prices",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("model", String(256), nullable=False),
    Column("valid_from", Float, nullable=False),
    Column("valid_to", Float),
    # Per million tokens; per request.
    Column("prompt", BigInteger, nullable=False),
    Column("cached_prompt", BigInteger, nullable=False),
    Column("completion", BigInteger, nullable=False),
    Column("request", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("project_id", String(64)),
    # Per million trained tokens.
    _sum("training"),
    Index("ix_prices_model", "model", "valid_from"),
)

# What models of a project and fine-tuning jobs pay, with its validity. Rows never change except for `valid_to`.
charge_policies = Table(
    "charge_policies",
    metadata,
    Column("id", String(64), primary_key=True),
    # tokens, devices or both.
    Column("charge", String(16), nullable=False),
    Column("valid_from", Float, nullable=False),
    Column("valid_to", Float),
    Column("created_at", BigInteger, nullable=False),
)
