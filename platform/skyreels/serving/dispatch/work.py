"""One stage of one job, or of several that go together, from claim to commit, where there is a device."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import sqlalchemy as sa

from skyreels.media.image import write_image
from skyreels.serving.servable import Cancelled, Runner, StageFailed, Work
from skyreels.serving.store.artifacts import Artifacts
from skyreels.serving.store.leases import Lease, LeaseLost, Leases
from skyreels.serving.store.records import PREVIEW
from skyreels.serving.tracing import is_on, job_span, stage_span

logger = logging.getLogger(__name__)

_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError)
_BEATS_PER_LEASE = 3
_LOOK_S = 0.2  # a cancel is known by then, so that a longer step is the last one
_APART_S = 0.05  # of two writes about one job


@dataclass
class Watch:
    """The signs of life of one lease, given by a thread of their own; what they bring back stops it at its next step.

    A step waits for no database: it leaves word of how far it is, and the newest word is what is told.
    """

    leases: Leases
    lease: Lease
    leave: threading.Event
    """Set where the worker is to go: the work stops, and is given back."""
    cancelled: bool = False
    lost: bool = False
    _news: threading.Condition = field(default_factory=threading.Condition)
    _done: float | None = None
    _ended: bool = False
    _until: float = 0.0

    def __post_init__(self) -> None:
        self._until = time.monotonic() + self.leases.lease_s

    def step(self, done: float) -> None:
        """As `Work.step`."""
        with self._news:
            self._done = done
            self._news.notify()
        if self.cancelled or self.lost or self.leave.is_set():
            raise Cancelled

    def keep(self) -> None:
        """Until `end`: tell of steps, look whether the job is to be cancelled, and prolong the lease in time."""
        while True:
            done = self._next()
            if self._ended or self.lost:
                return
            due = self._until - time.monotonic() < self.leases.lease_s * (1 - 1 / _BEATS_PER_LEASE)
            self._ask(done, beat=due or done is not None)

    def end(self) -> None:
        with self._news:
            self._ended = True
            self._news.notify()

    def patiently(self, write: Callable[[], object]) -> None:
        """Write an end; while the store is away again and again, for as long as the lease holds. It is fenced."""
        while True:
            try:
                write()
                return
            except _AWAY as error:
                if self.lost or time.monotonic() > self._until:
                    raise
                logger.warning("%s: its end cannot be written yet (%s)", self.lease.job.id, error)
                time.sleep(_LOOK_S)

    def _next(self) -> float | None:
        """How far the work is, where it has gone on since; None after a moment."""
        with self._news:
            self._news.wait_for(lambda: self._ended, _APART_S)
            self._news.wait_for(lambda: self._ended or self._done is not None, _LOOK_S)
            done, self._done = self._done, None
            return done

    def _ask(self, done: float | None, *, beat: bool) -> None:
        now = time.monotonic()
        try:
            asked = self.leases.beat(self.lease, done) if beat else self.leases.cancel_asked(self.lease)
            self.cancelled = asked or self.cancelled
            self._until = now + self.leases.lease_s if beat else self._until
        except LeaseLost:
            self.lost = True
        except _AWAY as error:
            # The store may come back before the lease runs out; after that somebody else may have the job.
            logger.warning("%s: the job store does not answer (%s)", self.lease.job.id, error)
            self.lost = self.lost or now > self._until


def work_on(lease: Lease, leases: Leases, artifacts: Artifacts, servable: Runner, leave: threading.Event) -> None:
    """Do the stage and commit it before this returns; whatever goes wrong ends in the job's row.

    Nothing is raised but what the store itself raises while the end is written.
    """
    with _watched(lease, leases, leave) as watch:
        _alone(watch, artifacts, servable)


def work_on_next(
    stages: Collection[str],
    leases: Leases,
    artifacts: Artifacts,
    servable: Runner,
    leave: threading.Event,
    most: int = 1,
) -> bool:
    """Claim the oldest job that waits, with up to `most` that go together, and work on it; False where none waits."""
    lease = leases.claim(stages)
    if lease is None:
        return False
    if others := leases.join(lease, most):
        work_together([lease, *others], leases, artifacts, servable, leave)
    else:
        work_on(lease, leases, artifacts, servable, leave)
    return True


def work_together(
    claimed: Sequence[Lease], leases: Leases, artifacts: Artifacts, servable: Runner, leave: threading.Event
) -> None:
    """As `work_on`, of jobs that `Leases.join` put together. Where that fails, each is worked on alone."""
    with ExitStack() as stack:
        watches = [stack.enter_context(_watched(lease, leases, leave)) for lease in claimed]
        parts = [_Part(watch, stack.enter_context(_Stage(watch, artifacts))) for watch in watches]
        start, made = time.perf_counter(), _made_together(parts, servable)
        for part, facts in zip(parts, made, strict=True):
            if part.over:
                continue
            if facts is None:
                _alone(part.watch, artifacts, servable)
                continue
            with _settled(part.watch):
                part.stage.commit(facts, start, len(parts))


def _made_together(parts: Sequence["_Part"], servable: Runner) -> Sequence[Mapping[str, Any] | None]:
    """Facts of each; None where it was cancelled, or is to be run alone."""
    try:
        with ExitStack() as spans:
            for part in parts:
                spans.enter_context(stage_span(part.watch.lease.job, len(parts)))
            return servable.run_together([part.work() for part in parts])
    except (sa.exc.SQLAlchemyError, LeaseLost):
        raise
    except Cancelled:
        return [None] * len(parts)
    except Exception:
        logger.exception("%d jobs failed together, and each is run alone", len(parts))
        return [None] * len(parts)


@dataclass
class _Part:
    """One of several jobs that are worked on together; it is over before the others where it is to end."""

    watch: Watch
    stage: "_Stage"
    over: bool = False

    def work(self) -> Work:
        work = self.stage.work()
        return replace(work, step=self._ending(work.step), show=self._ending(work.show))

    def _ending(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        """The call; what ends this job is written down at once, and the others hear that it was cancelled."""

        def called(value: Any) -> None:
            try:
                call(value)
            except (Cancelled, LeaseLost) as end:
                self.over = True
                with _settled(self.watch):
                    raise end
                raise Cancelled from None

        return called


@contextmanager
def _watched(lease: Lease, leases: Leases, leave: threading.Event) -> Iterator[Watch]:
    watch = Watch(leases, lease, leave)
    beating = threading.Thread(target=watch.keep, name=f"lease-{lease.job.id}", daemon=True)
    beating.start()
    try:
        yield watch
    finally:
        watch.end()
        beating.join()


def _alone(watch: Watch, artifacts: Artifacts, servable: Runner) -> None:
    with _settled(watch), _Stage(watch, artifacts) as stage:
        start = time.perf_counter()
        with stage_span(watch.lease.job):
            facts = servable.run(stage.work())
        stage.commit(facts, start)


@contextmanager
def _settled(watch: Watch) -> Iterator[None]:
    """What ends the block is written into the job's row."""
    lease, leases = watch.lease, watch.leases
    where = f"{lease.job.id}, stage {lease.job.stage}, attempt {lease.job.stage_attempts}"
    try:
        try:
            yield
        except Cancelled:
            if watch.lost:
                raise LeaseLost(f"{where}: taken over while it was worked on") from None
            end = leases.cancelled if watch.cancelled else leases.give_back
            watch.patiently(lambda: end(lease))
        except StageFailed as failure:
            logger.warning("%s failed (%s): %s", where, failure.code, failure)
            code, message = failure.code, str(failure)
            watch.patiently(lambda: leases.fail(lease, code, message))
        except (LeaseLost, sa.exc.SQLAlchemyError):
            raise
        except Exception as error:
            logger.exception("%s failed", where)
            message = f"{type(error).__name__}: {error}"[:2000]
            watch.patiently(lambda: leases.attempt_failed(lease, message))
    except LeaseLost as lost:
        logger.warning("%s", lost)
    if is_on():
        job_span(leases.store.job(lease.job.owner, lease.job.id))


class _Stage:
    """The folders of one stage's run: what it is given, and what it makes."""

    def __init__(self, watch: Watch, artifacts: Artifacts) -> None:
        self.watch, self.artifacts = watch, artifacts
        self._scratch = TemporaryDirectory(prefix="skyreels-stage-")
        self._made = Path(self._scratch.name) / "made"

    def __enter__(self) -> "_Stage":
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def work(self) -> Work:
        """What the servable is asked to do."""
        lease, folder = self.watch.lease, Path(self._scratch.name)
        given = folder / "given"
        given.mkdir()
        self._made.mkdir()
        shown = _Shown(self.watch, self.artifacts, folder)
        return Work(lease.job.stage, _given(lease, self.artifacts, given), self._made, self.watch.step, shown)

    def commit(self, facts: Mapping[str, Any], start: float, shared: int = 1) -> None:
        """Keep what was made since `start`, by `time.perf_counter`, and make it true."""
        lease = self.watch.lease
        made = sorted(self._made.iterdir())
        kept = self.artifacts.keep_all(lease.job.id, made, stage=lease.job.stage, fence=lease.fence)
        seconds = time.perf_counter() - start
        self.watch.patiently(lambda: self.watch.leases.commit(lease, kept, facts, seconds, shared))


@dataclass
class _Shown:
    """Pictures of how a job stands, each in a place of its own: whoever reads the one before is not disturbed."""

    watch: Watch
    artifacts: Artifacts
    folder: Path
    count: int = 0

    def __call__(self, picture: np.ndarray) -> None:
        lease, self.count = self.watch.lease, self.count + 1
        path = self.folder / f"{lease.job.stage}_{self.count}.jpg"
        write_image(path, picture)
        kept = self.artifacts.keep(lease.job.id, path, stage=PREVIEW, fence=lease.fence)
        self.watch.leases.show(lease, replace(kept, name="preview.jpg"))


def _given(lease: Lease, artifacts: Artifacts, folder: Path) -> Mapping[str, Path]:
    """Every file of the job by name, the last stage's where several made one of that name."""
    order: dict[str, int] = {"": -1} | {stage: number for number, stage in enumerate(lease.job.stages)}
    committed = [file for file in lease.files if file.stage != PREVIEW]
    latest: dict[str, Any] = {file.name: file for file in sorted(committed, key=lambda file: order[file.stage])}
    return {name: artifacts.fetch(file, folder) for name, file in latest.items()}
