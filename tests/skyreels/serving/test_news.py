"""Many who wait for news of jobs cost one look at the store."""

import asyncio

import pytest
import sqlalchemy as sa

from skyreels.serving.http.news import News
from skyreels.serving.store.artifacts import new_id
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.records import NewJob


@pytest.fixture
def store(tmp_path):
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db")
    yield store
    store.close()


def test_all_are_woken_by_what_concerns_them_and_by_nothing_else(store):
    moved, still = (store.accept(NewJob(new_id(), "me", {}, {}, ("base",))) for _ in range(2))
    asked = []
    sa.event.listen(store.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))

    async def wait():
        news = News(store)
        waiting = [asyncio.create_task(news.behind(moved.id, 1, 20)) for _ in range(100)]
        resting = asyncio.create_task(news.behind(still.id, 1, 1))
        await asyncio.sleep(0.5)
        quiet = len(asked)
        await asyncio.to_thread(store.cancel, "me", moved.id)
        return await asyncio.gather(*waiting), await resting, quiet

    woken, rested, quiet = asyncio.run(wait())
    assert (set(woken), rested) == ({True}, False)
    assert quiet < 25, "a look tells all of them"


def test_a_store_that_is_away_for_a_while_ends_no_wait(store):
    job = store.accept(NewJob(new_id(), "me", {}, {}, ("base",)))
    with store.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE jobs RENAME TO away"))

    async def wait():
        waiting = asyncio.create_task(News(store).behind(job.id, 0, 20))
        await asyncio.sleep(0.2)
        with store.engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE away RENAME TO jobs"))
        return await waiting

    assert asyncio.run(wait()) is True
