"""The tables of the job store, one schema for SQLite and PostgreSQL, and how an engine is opened on them."""

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from skyreels.serving.store.records import State

metadata = sa.MetaData()
_ACCEPTING = 0x5379  # any number that nothing else locks

_state = sa.Enum(State, native_enum=False, length=16, values_callable=lambda kind: [state.value for state in kind])

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("state", _state, nullable=False),
    sa.Column("hidden", sa.Boolean, nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("stages", sa.JSON, nullable=False),
    sa.Column("stage", sa.String(64), nullable=False),
    sa.Column("progress", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("completed_at", sa.Float),
    sa.Column("expires_at", sa.Float),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_message", sa.Text),
    sa.Column("timings", sa.JSON, nullable=False),
    # The lease: who works on it until when. `fence` grows by one with every claim.
    sa.Column("holder", sa.String(128)),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("lease_until", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("stage_attempts", sa.Integer, nullable=False),
    sa.Column("cancel_asked", sa.Boolean, nullable=False),
    sa.Column("last_event", sa.Integer, nullable=False),
    sa.Index("jobs_to_claim", "state", "stage", "created_at"),
    sa.Index("jobs_of_owner", "owner", "created_at"),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("job", sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("stage", sa.String(64), primary_key=True),  # "" for what came with the request
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("place", sa.String(256), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("owner", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("job", sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("job", sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("state", _state, nullable=False),
    sa.Column("stage", sa.String(64), nullable=False),
    sa.Column("progress", sa.Integer, nullable=False),
)

# What is left to do of open jobs, by stage, in the servable's unit; `seconds` as predicted, where anything is known.
work = sa.Table(
    "work",
    metadata,
    sa.Column("job", sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("stage", sa.String(64), primary_key=True),
    sa.Column("amount", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float),
)

# Stages of open jobs that may be worked on together with those that tell the same key, `most` at once.
alike = sa.Table(
    "alike",
    metadata,
    sa.Column("job", sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("stage", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("most", sa.Integer, nullable=False),
    sa.Index("alike_by_key", "key", "stage"),
)

measured = sa.Table(
    "measured",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("stage", sa.String(64), nullable=False),
    sa.Column("amount", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Index("measured_of_stage", "stage", "id"),
)

# What was asked for, by owner; it outlives the job.
usage = sa.Table(
    "usage",
    metadata,
    sa.Column("job", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Index("usage_of_owner", "owner", "at"),
)

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("place", sa.String(256), nullable=False),
    sa.Column("kinds", sa.JSON, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Index("uploads_of_owner", "owner", "created_at"),
)

votes = sa.Table(
    "votes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("rater", sa.String(64), nullable=False),
    sa.Column("item", sa.Text, nullable=False),
    sa.Column("dimension", sa.String(128), nullable=False),
    sa.Column("first", sa.String(600), nullable=False),
    sa.Column("second", sa.String(600), nullable=False),
    sa.Column("verdict", sa.String(8), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Index("votes_of_rater", "rater"),
)

ratings = sa.Table(
    "ratings",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("rater", sa.String(64), nullable=False),
    sa.Column("item", sa.Text, nullable=False),
    sa.Column("dimension", sa.String(128), nullable=False),
    sa.Column("model", sa.String(600), nullable=False),
    sa.Column("points", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("job", sa.String(64), nullable=False),  # no foreign key: what happened is told of deleted jobs too
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("next_at", sa.Float, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("ended", sa.String(255)),  # NULL until it is delivered or given up
    sa.Index("outbox_due", "ended", "next_at"),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float),
)


def open_database(url: str) -> sa.Engine:
    """An engine on `url` with all tables made. A transaction of SQLite takes the write lock at its start.

    One that only reads is begun on `reading(engine)`.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = sa.create_engine(parsed, pool_pre_ping=True, pool_size=20, max_overflow=40)
    else:
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(parsed, pool_size=20, max_overflow=80, connect_args={"timeout": 30})
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    metadata.create_all(engine)
    return engine


def reading(engine: sa.Engine) -> sa.Engine:
    """The engine for transactions that write nothing: they wait for nobody."""
    return engine.execution_options(reads=True)


def one_at_a_time(connection: sa.Connection) -> None:
    """Till the end of this transaction no other that asks for it goes on: what is counted stays true till it is used.

    SQLite's have begun with their write lock.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ACCEPTING)))


def _prepare_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver would begin transactions when it pleases
    cursor = connection.cursor()
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 30000"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A deferred transaction that reads first and then writes fails at once where another wrote in between.
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
