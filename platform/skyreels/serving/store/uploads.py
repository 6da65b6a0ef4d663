"""Files that are sent once and named in many requests; each belongs to one owner, and expires."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from skyreels.serving.errors import ServingError, not_found
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.records import StoredFile
from skyreels.serving.store.schema import one_at_a_time, uploads


def new_file_id() -> str:
    """It cannot be guessed."""
    return f"file_{secrets.token_hex(16)}"


@dataclass(frozen=True)
class Upload:
    """A row of `schema.uploads`."""

    id: str
    owner: str
    name: str
    place: str
    kinds: list[str]
    bytes: int
    sha256: str
    created_at: float
    expires_at: float

    @property
    def stored(self) -> StoredFile:
        return StoredFile("", "upload", self.place, self.bytes, self.sha256)


@dataclass(frozen=True)
class Uploads:
    """The files in a store's database; at most `most` of one owner."""

    store: JobStore
    most: int = 200

    def check_room(self, owner: str) -> None:
        """ServingError (429) where the owner has as many files as are taken."""
        with self.store.reader.begin() as connection:
            self._check_room(connection, owner)

    def add(self, identifier: str, owner: str, name: str, kinds: Collection[str], file: StoredFile) -> Upload:
        """Make a stored file true. Raises as `check_room`."""
        now = self.store.clock()
        row = {"place": file.place, "bytes": file.bytes, "sha256": file.sha256, "kinds": sorted(kinds), "name": name}
        with self.store.engine.begin() as connection:
            one_at_a_time(connection)
            self._check_room(connection, owner)
            times = {"created_at": now, "expires_at": now + self.store.keep_s}
            connection.execute(uploads.insert().values(id=identifier, owner=owner, **row, **times))
        return self.get(owner, identifier)

    def get(self, owner: str, identifier: str) -> Upload:
        """ServingError (404) where this owner has no such file."""
        mine = (uploads.c.id == identifier) & (uploads.c.owner == owner) & (uploads.c.expires_at > self.store.clock())
        with self.store.reader.begin() as connection:
            row = connection.execute(sa.select(uploads).where(mine)).one_or_none()
        if row is None:
            raise not_found(f"file {identifier[:64]!r}")
        return Upload(**row._mapping)

    def all_of(self, owner: str) -> list[Upload]:
        """The newest first."""
        mine = (uploads.c.owner == owner) & (uploads.c.expires_at > self.store.clock())
        query = sa.select(uploads).where(mine).order_by(uploads.c.created_at.desc(), uploads.c.id)
        with self.store.reader.begin() as connection:
            return [Upload(**row._mapping) for row in connection.execute(query)]

    def delete(self, owner: str, identifier: str) -> Upload:
        """It is named no more; its bytes go in the next sweep. Jobs keep copies of theirs."""
        found = self.get(owner, identifier)
        with self.store.engine.begin() as connection:
            connection.execute(uploads.update().where(uploads.c.id == identifier).values(expires_at=0.0))
        return found

    def expired(self) -> list[str]:
        """Those whose bytes are to go; `forget` ends it."""
        with self.store.reader.begin() as connection:
            due = uploads.c.expires_at <= self.store.clock()
            return list(connection.execute(sa.select(uploads.c.id).where(due)).scalars())

    def forget(self, identifier: str) -> None:
        """The bytes are gone."""
        with self.store.engine.begin() as connection:
            connection.execute(uploads.delete().where(uploads.c.id == identifier))

    def _check_room(self, connection: sa.Connection, owner: str) -> None:
        held = connection.execute(sa.select(sa.func.count()).where(uploads.c.owner == owner)).scalar_one()
        if held >= self.most:
            message = f"you have {held} files, as many as are taken: delete one"
            raise ServingError(429, "too_many_files", message, headers={"Retry-After": "60"})
