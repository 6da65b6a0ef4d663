"""API keys: stored as hashes, with scopes; each is the owner of the jobs that it makes."""

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Literal, get_args

import sqlalchemy as sa

from skyreels.serving.errors import ServingError
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.schema import keys

Scope = Literal["read", "write", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Caller:
    """Whose request it is, and what may be asked with it."""

    owner: str
    scopes: frozenset[str]


ANYBODY = Caller("local", frozenset(SCOPES))
"""Where there are no keys: whoever can reach the loopback address."""


@dataclass(frozen=True)
class Keys:
    """The keys in a store's database."""

    store: JobStore

    def add(self, name: str, scopes: tuple[str, ...] = ("read", "write")) -> str:
        """The secret of a new key, which is shown this once. ValueError where the name is taken or a scope unknown."""
        if unknown := set(scopes) - set(SCOPES):
            raise ValueError(f"no scope {', '.join(sorted(unknown))}; there are {', '.join(SCOPES)}")
        secret = f"sk-{secrets.token_urlsafe(32)}"  # 256 random bits: a plain hash cannot be guessed back
        row = {"id": f"key_{secrets.token_hex(8)}", "name": name, "hash": _hash(secret), "scopes": list(scopes)}
        try:
            with self.store.engine.begin() as connection:
                connection.execute(keys.insert().values(**row, created_at=time.time()))
        except sa.exc.IntegrityError:
            raise ValueError(f"there is a key {name!r} already: give another name") from None
        return secret

    def revoke(self, name: str) -> None:
        """The key opens nothing from now on. ValueError where there is none."""
        with self.store.engine.begin() as connection:
            open_key = (keys.c.name == name) & keys.c.revoked_at.is_(None)
            found = connection.execute(keys.update().where(open_key).values(revoked_at=time.time()))
            if found.rowcount == 0:
                raise ValueError(f"there is no key {name!r} that is not revoked")

    def names(self) -> dict[str, tuple[str, ...]]:
        """Scopes by name, of keys that open something."""
        with self.store.reader.begin() as connection:
            rows = connection.execute(sa.select(keys).where(keys.c.revoked_at.is_(None)).order_by(keys.c.name)).all()
        return {row.name: tuple(row.scopes) for row in rows}

    def caller(self, authorization: str | None, scope: Scope) -> Caller:
        """Who says `Bearer <secret>`. ServingError where nobody does (401) or may not (403)."""
        kind, _, secret = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not secret:
            message = "no API key came with the request: send the header Authorization: Bearer sk-…"
            raise ServingError(401, "missing_api_key", message, headers=_ASK)
        valid = (keys.c.hash == _hash(secret.strip())) & keys.c.revoked_at.is_(None)
        with self.store.reader.begin() as connection:
            row = connection.execute(sa.select(keys).where(valid)).one_or_none()
        if row is None:
            message = "this API key is not known here, or was revoked: ask the operator for one"
            raise ServingError(401, "invalid_api_key", message, headers=_ASK)
        if scope not in row.scopes:
            raise ServingError(403, "missing_scope", f"this API key lacks the scope {scope!r}: ask for one that has it")
        return Caller(row.id, frozenset(row.scopes))


_ASK = {"WWW-Authenticate": "Bearer"}


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
