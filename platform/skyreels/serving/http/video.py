"""A job as OpenAI's video object, with what it lacks."""

from typing import Any

from skyreels.serving.store.records import PREVIEW, Event, Job, Standing, State, StoredFile

_STATUS = {State.QUEUED: "queued", State.RUNNING: "in_progress", State.COMPLETED: "completed"}
_MEDIA_TYPES = {"mp4": "video/mp4", "jpg": "image/jpeg", "png": "image/png", "json": "application/json"}


def video_object(standing: Standing) -> dict[str, Any]:
    """The four statuses that clients know; `state` tells cancelled and expired from failed."""
    job, files, eta = standing.job, standing.files, standing.eta
    facts = dict(job.facts)
    return {
        "id": job.id,
        "object": "video",
        "status": status_of(job.state),
        "state": job.state,
        "model": facts.pop("model", job.request.get("model")),
        "progress": job.progress,
        "created_at": int(job.created_at),
        "completed_at": _whole(job.completed_at),
        "expires_at": _whole(job.expires_at),
        "prompt": job.request.get("prompt"),
        "size": facts.pop("size", job.request.get("size")),
        "seconds": str(facts.pop("seconds", job.request.get("seconds") or "")),
        "remixed_from_video_id": facts.pop("remixed_from_video_id", None),
        "error": _error(job),
        "stage": None if job.state.is_over else job.stage,
        "queue_position": standing.ahead,
        "eta_seconds": None if eta is None else round(eta, 1),
        "attempts": job.attempts,
        "timings": job.timings,
        "metadata": job.request.get("metadata", {}),
        "preview": next((file.sha256[:16] for file in files if file.stage == PREVIEW), None),
        "outputs": [_output(file) for file in files if file.stage == job.stages[-1]],
        **facts,
    }


def event_object(job: Job, event: Event) -> dict[str, Any]:
    """What one event tells."""
    told = {"status": status_of(event.state), "state": event.state, "stage": event.stage, "progress": event.progress}
    return {"id": job.id, "object": "video.event", "number": event.number, "created_at": int(event.at), **told}


def status_of(state: State) -> str:
    return _STATUS.get(state, "failed")


def media_type(name: str) -> str:
    """By a suffix of ours."""
    return _MEDIA_TYPES.get(name.rpartition(".")[2], "application/octet-stream")


def _error(job: Job) -> dict[str, str] | None:
    if job.state is State.EXPIRED:
        return {"code": "expired", "message": "the video was kept for its time and is gone: make it anew"}
    if job.error_code is None:
        return None
    return {"code": job.error_code, "message": job.error_message or ""}


def _output(file: StoredFile) -> dict[str, Any]:
    variant = file.name.partition(".")[0]
    return {"variant": variant, "type": media_type(file.name), "bytes": file.bytes, "sha256": file.sha256}


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
