"""From the body of a request to an accepted job: media resolved and checked, the plan made, all of it stored."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from skyreels.serving.errors import ServingError, invalid
from skyreels.serving.intake.addresses import is_allowed
from skyreels.serving.intake.masks import drawn_mask
from skyreels.serving.intake.media_check import MediaCheck, UploadLimits
from skyreels.serving.intake.uploads import Body, Part, decoded_url, url_of
from skyreels.serving.request import MEDIA, VideoRequest, media_places, spelled
from skyreels.serving.servable import Plan, RequestRefused, Servable
from skyreels.serving.store.artifacts import Artifacts, new_id
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.records import PREVIEW, Job, NewJob, State, StoredFile
from skyreels.serving.store.uploads import Uploads
from skyreels.storage import sha256_file


@dataclass
class Intake:
    """Used by one thread: its sandboxes end with the thread that started them."""

    store: JobStore
    artifacts: Artifacts
    servable: Servable
    limits: UploadLimits = field(default_factory=UploadLimits)
    webhooks: tuple[str, ...] = ()
    """What a webhook's URL may begin with, as the operator says."""

    def __post_init__(self) -> None:
        self._media = MediaCheck(self.limits)

    def create(
        self, owner: str, body: Body, folder: Path, key: str | None = None, facts: Mapping[str, Any] | None = None
    ) -> Job:
        """A new job, or the one that `key` made before; `facts` are told besides the plan's. Raises ServingError.

        The first of several clips, whose facts name the others.
        """
        media = _Media(self, owner, body, folder)
        request = checked_request(media.named())
        self._check_choices(request)
        fingerprint = _fingerprint(request, media.files)
        if (known := self.store.replayed(owner, key, fingerprint)) is not None:
            return known
        self.store.check_room(owner, request.n * (request.seconds or 0.0), request.n)  # before anything is decoded
        media.check(request)
        plans = self._plans(request, media.files, folder)
        names = [new_id() for _ in plans]
        together = {"clips": names} if len(names) > 1 else {}
        new = []
        for number, (name, plan) in enumerate(zip(names, plans, strict=True)):
            asked = _asked(request, number)
            told = {**plan.facts, **together, **(facts or {})}
            company = {stage: (found.key, found.most) for stage, found in plan.together.items()}
            seconds = float(plan.facts.get("seconds", 0.0))
            job = NewJob(name, owner, asked, told, plan.stages, (), key, fingerprint, plan.work, company, seconds)
            new.append((job, [*media.files.values(), *plan.files]))
        return self._accept(new)

    def remix(self, owner: str, identifier: str, prompt: Any, folder: Path, key: str | None) -> Job:
        """The request of before with another prompt. Raises ServingError."""
        before = self.store.job(owner, identifier)
        given = {file.name: file for file in self.store.files(before.id) if file.stage == ""}
        names = set(_sources(checked_request(before.request)))
        if not names <= given.keys():
            raise invalid(None, f"the files of {before.id} have expired: send the whole request again", "expired")
        fetched = folder / "before"
        fetched.mkdir()
        parts = {name: self.artifacts.fetch(given[name], fetched) for name in names}
        values = {**before.request, "prompt": prompt}
        if shots := values.pop("shots", None):
            values["seconds"] = sum(shot["seconds"] for shot in shots)
        body = Body(values, parts)
        return self.create(owner, body, folder, key, {"remixed_from_video_id": before.id})

    def close(self) -> None:
        self._media.close()

    def check(self, where: str, path: Path, kinds: tuple[str, ...]) -> None:
        """As `MediaCheck.check`."""
        self._media.check(where, path, kinds)

    def look(self, where: str, path: Path) -> dict[str, Any]:
        """As `MediaCheck.look`."""
        return self._media.look(where, path)

    def _check_choices(self, request: VideoRequest) -> None:
        models = [card.id for card in self.servable.models]
        if request.model is not None and request.model not in models:
            raise ServingError(
                404, "model_not_found", f"no model {request.model!r}; served: {', '.join(models)}", "model"
            )
        url = request.webhook_url
        if url is not None and not is_allowed(url, self.webhooks):
            message = "the service calls no such address: ask its operator to allow it"
            raise invalid("webhook_url", message, "url_refused")

    def _plans(self, request: VideoRequest, files: Mapping[str, Path], folder: Path) -> list[Plan]:
        """One for each clip; they differ by their seeds."""
        folders = [folder / f"planned_{number}" for number in range(request.n)]
        for own in folders:
            own.mkdir()
        try:
            first = self.servable.plan(request, files, folders[0])
        except RequestRefused as refusal:
            raise invalid(refusal.field, str(refusal)) from refusal
        more = enumerate(folders[1:], 1)
        return [first, *(self.servable.reseeded(first, first.facts["seed"] + number, own) for number, own in more)]

    def _accept(self, new: Sequence[tuple[NewJob, Sequence[Path]]]) -> Job:
        """Files first, then the rows that make them true; what a kill in between leaves is swept."""
        try:
            jobs = [replace(job, files=self.artifacts.keep_all(job.id, paths)) for job, paths in new]
            accepted = self.store.accept(*jobs)
        except BaseException:
            self._forget(new)
            raise
        if accepted.id != new[0][0].id:  # the same request came twice at once
            self._forget(new)
        return accepted

    def _forget(self, new: Sequence[tuple[NewJob, Sequence[Path]]]) -> None:
        for job, _ in new:
            self.artifacts.remove(job.id)


def checked_request(values: Mapping[str, Any]) -> VideoRequest:
    """The request that the values make. ServingError naming the first field that is wrong, with the others."""
    try:
        return VideoRequest.model_validate(dict(values))
    except ValidationError as error:
        faults = [(".".join(map(str, fault["loc"])), fault) for fault in error.errors(include_url=False)]
        told = "; ".join(_told(where, fault) for where, fault in faults[:8])
        unknown = all(fault["type"] == "extra_forbidden" for _, fault in faults)
        code = "unknown_parameter" if unknown else "invalid_value"
        raise invalid(faults[0][0][:100] or None, told, code) from None


def _told(where: str, fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        known = ", ".join(sorted(VideoRequest.model_fields)) if "." not in where else "what the documentation lists"
        return f"{where[:100]!r} is no field here; there are {known}"
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])


_FILE_ID = re.compile(r"file_[0-9a-f]{32}")


@dataclass
class _Media:
    """The media of one request: `files` by the names that take their place in it."""

    intake: Intake
    owner: str
    body: Body
    folder: Path
    files: dict[str, Path] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)  # of parts, once used

    def named(self) -> dict[str, Any]:
        """The body's values with a name of ours wherever a file is meant."""
        fields, given = VideoRequest.model_fields, spelled(self.body.values)
        values = {name: value for name, value in given.items() if not isinstance(value, Part) or name in fields}
        for where, rows in values.items():
            if isinstance(rows, list):
                values[where] = [dict(row) if isinstance(row, dict) else row for row in rows]
        for where, holder, key in media_places(values):
            said = holder[key]
            if where == "mask" and isinstance(said, dict) and "type" in said:
                holder[key] = self._drawn(said, values.get("source_video"))
            else:
                holder[key] = self._resolved(where, said)
        if misplaced := [name for name, value in values.items() if isinstance(value, Part)]:
            raise invalid(misplaced[0], "this field takes no file")
        if unused := self.body.parts.keys() - self._names.keys():
            raise invalid(sorted(unused)[0][:100], "this part is named by no field: name it, or leave it out")
        return values

    def check(self, request: VideoRequest) -> None:
        """Probe every file as what its field takes. Raises ServingError."""
        for name, (where, kinds) in _sources(request).items():
            self.intake.check(where, self.files[name], kinds)

    def _resolved(self, where: str, value: Any) -> str:
        if isinstance(value, Part):
            return self._part(value.name)
        named = value.get("file_id") if isinstance(value, dict) and len(value) == 1 else value
        if isinstance(named, str) and _FILE_ID.fullmatch(named):
            return self._uploaded(named)
        if isinstance(value, dict):
            earlier = value.get("video_id", value.get("id"))
            if isinstance(earlier, str) and len(value) == 1:
                return self._earlier(where, earlier)
            value = url_of(value)
        if isinstance(value, str) and value in self.body.parts:
            return self._part(value)
        if not isinstance(value, str):
            message = 'send a file, a data: URL, the name of a part, {"file_id": …} or {"video_id": …}'
            raise invalid(where, message)
        if ":" not in value[:16]:
            raise invalid(where, f"no part of the form is called {value[:100]!r}", "file_not_found")
        path = self._new_file()
        path.write_bytes(decoded_url(where, value))
        return path.name

    def _part(self, name: str) -> str:
        if name not in self._names:
            path = self._new_file()
            self.body.parts[name].rename(path)
            self._names[name] = path.name
        return self._names[name]

    def _uploaded(self, identifier: str) -> str:
        upload = Uploads(self.intake.store).get(self.owner, identifier)
        path = self._new_file()
        self.intake.artifacts.fetch(upload.stored, self.folder).rename(path)
        return path.name

    def _drawn(self, said: dict[str, Any], video: Any) -> str:
        """A mask that is said by its shape, as a file of the video's size."""
        if not isinstance(video, str) or video not in self.files:
            raise invalid("mask", "it is measured on the video: send the video as source_video along with it")
        found = self.intake.look("source_video", self.files[video])
        if "video" not in found["kinds"]:
            raise invalid("source_video", f"the file holds {' and '.join(found['kinds'])}: send video", "invalid_media")
        path = self._new_file()
        drawn_mask(said, found, path)
        return path.name

    def _earlier(self, where: str, identifier: str) -> str:
        job = self.intake.store.job(self.owner, identifier)
        found = output_of(job, self.intake.store.files(job.id), "video")
        if found is None:
            raise invalid(where, f"{job.id} is {job.state}: there is no video of it", "video_not_ready")
        path = self._new_file()
        self.intake.artifacts.fetch(found, self.folder).rename(path)
        return path.name

    def _new_file(self) -> Path:
        if len(self.files) >= self.intake.limits.files:
            raise invalid(None, f"at most {self.intake.limits.files} files are taken with a request")
        name = f"media_{len(self.files)}"
        self.files[name] = self.folder / name
        return self.files[name]


def output_of(job: Job, files: list[StoredFile], variant: str) -> StoredFile | None:
    """What the last stage left under that name, of a job that is complete; the preview of any."""
    if variant == PREVIEW:
        return next((file for file in files if file.stage == PREVIEW), None)
    if job.state is not State.COMPLETED:
        return None
    made = (file for file in files if file.stage == job.stages[-1] and file.name.partition(".")[0] == variant)
    return next(made, None)


def _sources(request: VideoRequest) -> dict[str, tuple[str, tuple[str, ...]]]:
    """By a file's name, the field that uses it and the kinds it may be."""
    return dict(_each_source(request))


def _each_source(request: VideoRequest) -> Iterator[tuple[str, tuple[str, tuple[str, ...]]]]:
    for name, kinds in MEDIA.items():
        if (source := getattr(request, name)) is not None:
            yield source, (name, kinds)
    for number, frame in enumerate(request.keyframes):
        yield frame.image, (f"keyframes.{number}.image", ("image",))
    for number, reference in enumerate(request.references):
        yield reference.source, (f"references.{number}.source", (reference.type,))


def _fingerprint(request: VideoRequest, files: Mapping[str, Path]) -> str:
    """Of what is asked, files by their content."""
    told = {
        "request": _asked(request),
        "files": {name: sha256_file(path) for name, path in files.items()},
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _asked(request: VideoRequest, number: int | None = None) -> dict[str, Any]:
    """What was said, as it is stored and may be asked again; for the clip with that number, from 0, alone."""
    said = request.model_dump(mode="json", exclude_unset=True)
    if number is None:
        return said
    own = {} if request.seed is None else {"seed": request.seed + number}
    return {name: value for name, value in said.items() if name != "n"} | own
