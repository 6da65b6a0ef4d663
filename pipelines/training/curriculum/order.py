"""Which stages an output folder has finished, what a stage starts from, and what is still to run for it.

<output>/<stage>/finished.json is written when a stage is done. It names the preset that was trained, and the records
of the stages that it was started from: a stage whose parent was trained anew since is told apart, not used.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, ValidationError

from model.config import Preset
from pipelines.training.curriculum.recipe import StageRecipe, load_recipe, stages_of
from skyreels.commits import stable_json
from skyreels.config import Config
from skyreels.storage import Storage, normalise

RECORD = "finished.json"
CODECS = "codecs"
_SHAPES = ("video_codec", "audio_codec", "encoder")
"""Sections of a preset that, with its networks, decide whether weights fit."""


class CurriculumError(ValueError):
    """A stage that cannot be run or used as things are: which, why, and what to do."""


class Finished(Config):
    """A stage that is done. `parents` are the digests of the records of the stages it started from."""

    stage: str
    preset: str
    preset_digest: str
    step: int = Field(ge=0)
    export: str = Field(description="folder of what the stage made")
    data: str = Field(description="fingerprint of the samples it learned from")
    datasets: dict[str, str] = Field(default_factory=dict, description="fingerprints of the datasets' parts, by name")
    git_sha: str = ""
    finished_at: str
    parents: dict[str, str] = Field(default_factory=dict)
    held_out: dict[str, float] = Field(
        default_factory=dict, description="losses on held-out samples: of start, trained and averaged weights"
    )
    exported: Literal["trained", "averaged", ""] = Field("", description="which weights; empty: nothing was trained")

    @property
    def digest(self) -> str:
        """16 hex digits; another run of the stage has others."""
        later = {"datasets", "held_out", "exported"}  # records from before them keep their digest
        unsaid = {name for name in later if not getattr(self, name)}
        return _digest(self.model_dump(mode="json", exclude=unsaid))


@dataclass(frozen=True)
class Curriculum:
    """The stages below an output folder, local or s3://, of one preset. `load` gives a stage's recipe by name."""

    output: str
    preset: Preset
    load: Callable[[str], StageRecipe] | None = None
    storage: Storage = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "storage", Storage(normalise(self.output)))

    def plan(self, name: str, *, only: bool = False, again: bool = False) -> tuple[str, ...]:
        """The stages still to run for `name`, a stage or a group of them, in order.

        `only` leaves out the stages before it and raises CurriculumError where one of them is not finished; `again`
        also runs those of `name` that are. Raises ConfigError for a name that no stage has.
        """
        planned: list[str] = []
        for stage in stages_of(name):
            if only:
                self._require(stage, planned)
                if again or self.finished(stage) is None:
                    planned.append(stage)
            else:
                self._add_with_parents(stage, planned, again=again)
        return tuple(planned)

    def parents(self, stage: str) -> dict[str, Finished]:
        """The finished stages that `stage` starts from, codecs among them. Raises CurriculumError for one missing."""
        self._require(stage, [])
        return {found.stage: found for found in map(self._best, self._needs(stage)) if found is not None}

    def finished(self, stage: str) -> Finished | None:
        """The record of a stage, or None. Raises CurriculumError where it does not fit the preset or its parents."""
        record = self._record(stage)
        if record is None:
            return None
        where = self.storage.location(stage)
        if record.preset_digest != preset_digest(self.preset):
            raise CurriculumError(
                f"{where} was trained with another preset ({record.preset}, {record.preset_digest}) than "
                f"{self.preset.name} ({preset_digest(self.preset)}): give another output folder, or that preset"
            )
        for parent, digest in record.parents.items():
            now = self._record(parent)
            if now is not None and now.digest != digest:
                raise CurriculumError(
                    f"{where} was started from {parent} before that was trained anew ({now.finished_at}): move {where} "
                    "away to train it on the new one, or give another output folder"
                )
        return record

    def mark_finished(
        self,
        stage: str,
        *,
        step: int,
        export: str,
        data: str,
        datasets: Mapping[str, str] | None = None,
        git_sha: str = "",
        held_out: Mapping[str, float] | None = None,
        exported: Literal["trained", "averaged", ""] = "",
    ) -> Finished:
        """Write the record of a stage that is done; its export must be complete."""
        record = Finished(
            stage=stage,
            preset=self.preset.name,
            preset_digest=preset_digest(self.preset),
            step=step,
            export=export,
            data=data,
            datasets=dict(datasets or {}),
            git_sha=git_sha,
            finished_at=datetime.now(UTC).isoformat(timespec="microseconds"),
            parents={name: parent.digest for name, parent in self.parents(stage).items()},
            held_out=dict(held_out or {}),
            exported=exported,
        )
        self.storage.write(f"{stage}/{RECORD}", record.model_dump_json(indent=1).encode())
        return record

    def _add_with_parents(self, stage: str, planned: list[str], *, again: bool = False) -> None:
        """Add to `planned` what must run for a stage, itself last; nothing where it is finished."""
        if stage in planned or (not again and self.finished(stage) is not None):
            return
        for alternatives in self._needs(stage):
            if not any(name in planned for name in alternatives) and self._best(alternatives) is None:
                self._add_with_parents(alternatives[0], planned)
        planned.append(stage)

    def _require(self, stage: str, planned: list[str]) -> None:
        for alternatives in self._needs(stage):
            if not any(name in planned for name in alternatives) and self._best(alternatives) is None:
                first = alternatives[0]
                raise CurriculumError(
                    f"{stage} starts from {' or '.join(alternatives)}, and {self.storage.root} has no finished "
                    f"{first}: run that first (make train STAGE={first}), or let the stages before it run as well"
                )

    def _best(self, alternatives: tuple[str, ...]) -> Finished | None:
        return next((found for found in map(self.finished, alternatives) if found is not None), None)

    def _needs(self, stage: str) -> tuple[tuple[str, ...], ...]:
        """What a stage starts from; all but the codecs themselves learn latents, which codecs make."""
        recipe = self.load(stage) if self.load else load_recipe(stage, self.preset)
        return recipe.starts_from if recipe.kind == "codecs" else ((CODECS,), *recipe.starts_from)

    def _record(self, stage: str) -> Finished | None:
        name = f"{stage}/{RECORD}"
        if not self.storage.exists(name):
            return None
        try:
            return Finished.model_validate_json(self.storage.read(name))
        except ValidationError as error:
            raise CurriculumError(
                f"{self.storage.location(name)} is no record of a stage ({error.error_count()} problems): delete it, "
                f"and {stage} will be finished from its last checkpoint"
            ) from error


def preset_digest(preset: Preset) -> str:
    """16 hex digits of all that weights depend on: networks, codecs, encoder."""
    networks = {name: dataclasses.asdict(getattr(preset, name)) for name in ("transformer", "video", "audio")}
    return _digest({**networks, **{name: preset.sections.get(name, {}) for name in _SHAPES}})


def _digest(value: Any) -> str:
    return hashlib.blake2b(stable_json(value), digest_size=8).hexdigest()
