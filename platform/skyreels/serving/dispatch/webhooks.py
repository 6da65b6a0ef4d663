"""What happened is told to addresses that the operator allows: signed, again after failures, from the outbox.

Standard Webhooks (standardwebhooks.com), as `client.webhooks.unwrap` of OpenAI's clients checks it.
"""

import base64
import hashlib
import hmac
import json
import logging
import random
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import sqlalchemy as sa

from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.schema import outbox

logger = logging.getLogger(__name__)

_TRIES = 10
_FIRST_WAIT_S, _LONGEST_WAIT_S = 5.0, 1800.0
_TIMEOUT_S = 15.0
_PREFIX = "whsec_"


@dataclass(frozen=True)
class Webhooks:
    """Deliveries signed with `secret`; any number of these may run on one store, and one may tell a thing twice.

    Receivers tell repeats by the id. Redirects are not followed: only what the operator allowed is called.
    """

    store: JobStore
    secret: str
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False))

    def deliver(self) -> int:
        """Tell all that is due; how many arrived."""
        now = self.store.clock()
        due = sa.select(outbox).where(outbox.c.ended.is_(None), outbox.c.next_at <= now).order_by(outbox.c.next_at)
        with self.store.reader.begin() as connection:
            rows = connection.execute(due.limit(100)).all()
        return sum(self._told(row) for row in rows if self._taken(row, now))

    def close(self) -> None:
        self.client.close()

    def _taken(self, row: sa.Row[tuple[object, ...]], now: float) -> bool:
        """Set when it is next tried, before this try: whoever does it first makes it."""
        wait = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 3**row.tries) * random.uniform(1.0, 1.5)
        mine = (outbox.c.id == row.id) & (outbox.c.tries == row.tries) & outbox.c.ended.is_(None)
        with self.store.engine.begin() as connection:
            tries = {"tries": row.tries + 1, "next_at": now + _TIMEOUT_S + wait}
            return connection.execute(outbox.update().where(mine).values(**tries)).rowcount == 1

    def _told(self, row: sa.Row[tuple[object, ...]]) -> bool:
        body = json.dumps(
            {
                "id": row.id,
                "object": "event",
                "type": row.event,
                "created_at": int(row.created_at),
                "data": {"id": row.job},
            }
        ).encode()
        try:
            answer = self.client.post(row.url, content=body, headers=signed(self.secret, row.id, body))
            ended = "delivered" if answer.is_success else "gone" if answer.status_code == 410 else None
            why = f"HTTP {answer.status_code}"
        except httpx.HTTPError as error:
            ended, why = None, repr(error)
        if ended is None and row.tries + 1 >= _TRIES:
            ended = "given up"
        if ended != "delivered":
            logger.warning("webhook %s, try %d: %s%s", row.id, row.tries + 1, why, f"; {ended}" if ended else "")
        if ended is not None:
            with self.store.engine.begin() as connection:
                connection.execute(outbox.update().where(outbox.c.id == row.id).values(ended=ended))
        return ended == "delivered"


def signed(secret: str, identifier: str, body: bytes) -> dict[str, str]:
    """Headers that prove who sent `body`, and when."""
    stamp = str(int(time.time()))
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    digest = hmac.new(key, f"{identifier}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "webhook-id": identifier,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def secret_in(path: Path) -> str:
    """The signing secret in a file, made where there is none."""
    try:
        with path.open("x") as file:
            path.chmod(0o600)
            file.write(_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode())
    except FileExistsError:
        pass
    return path.read_text().strip()
