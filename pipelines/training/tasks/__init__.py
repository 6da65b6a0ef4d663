"""What the model is taught: every task as a function from one cached sample to one example.

A task draws what is random about it (caption form, dropout, region, places of keyframes) from the generator it is
given and lays the given part into `VideoCondition` and references; `collate` adds noise and stacks a batch.
"""

from collections.abc import Mapping

from pipelines.training.latents.sample import IMAGE_AND_AUDIO, LatentKind
from pipelines.training.tasks import base_model, refinement
from pipelines.training.tasks.batch import Collation, collate
from pipelines.training.tasks.example import (
    ORDER,
    Described,
    Dropout,
    Example,
    Streams,
    TaskContext,
    TaskSettings,
    TrainingTask,
)

__all__ = [
    "BOTH",
    "HALVES",
    "ORDER",
    "TASKS",
    "Collation",
    "Described",
    "Dropout",
    "Example",
    "Streams",
    "TaskContext",
    "TaskSettings",
    "TrainingTask",
    "collate",
]

BOTH = frozenset({"video", "audio"})
PICTURE, SOUND = frozenset({"video"}), frozenset({"audio"})
CLIPS: frozenset[LatentKind] = frozenset({"video"})
IMAGES: frozenset[LatentKind] = frozenset({"image"})
HEARD: frozenset[LatentKind] = frozenset({"audio", "video"})
PAIRS: frozenset[LatentKind] = frozenset({"pair"})


_ALL = (
    TrainingTask("t2i", base_model.text_to_picture, IMAGES, PICTURE),
    TrainingTask("t2v", base_model.text_to_picture, CLIPS, PICTURE),
    TrainingTask("t2av", base_model.text_to_audio_video, CLIPS, BOTH, cross_modal=True),
    TrainingTask("t2a", base_model.text_to_audio, HEARD, SOUND),
    TrainingTask("v2a", base_model.video_to_audio, CLIPS, BOTH, cross_modal=True),
    TrainingTask("a2v", base_model.audio_to_video, CLIPS, BOTH, cross_modal=True),
    TrainingTask("i2v", base_model.image_to_video, CLIPS, BOTH, frozenset({"stills"})),
    TrainingTask("start_end", base_model.start_end, CLIPS, BOTH, frozenset({"stills"})),
    TrainingTask("keyframes_at", base_model.keyframes_at, CLIPS, BOTH, frozenset({"stills"})),
    TrainingTask("extend", base_model.extend, CLIPS, BOTH, frozenset({"extensions"})),
    TrainingTask("inpaint", base_model.inpaint, CLIPS, BOTH, frozenset({"regions"})),
    TrainingTask("image_inpaint", base_model.inpaint, IMAGES, PICTURE, frozenset({"regions"})),
    TrainingTask("edit", base_model.edit, PAIRS, BOTH, frozenset({"before"})),
    TrainingTask("image_ref", base_model.image_reference, CLIPS, BOTH, reads="image"),
    TrainingTask("video_ref", base_model.video_reference, CLIPS, BOTH, reads="video"),
    TrainingTask("audio_ref", base_model.audio_reference, HEARD, BOTH, reads="audio"),
    TrainingTask("image_audio_ref", base_model.image_and_audio_reference, CLIPS, BOTH, reads=IMAGE_AND_AUDIO),
    TrainingTask("keyframes", refinement.keyframes, CLIPS, BOTH, frozenset({"refined"})),
    TrainingTask("refine", refinement.refine, IMAGES | CLIPS, PICTURE, frozenset({"refined"})),
    TrainingTask(
        "refine_inpaint", refinement.refine_inpaint, IMAGES | CLIPS, PICTURE, frozenset({"refined", "regions"})
    ),
)

TASKS: Mapping[str, TrainingTask] = {task.name: task for task in _ALL}
"""By the names that recipes use."""

HALVES: Mapping[str, tuple[str, ...]] = {"t2av": ("t2v", "t2a")}
"""Tasks that learn one stream of what another learns both of: they take its share where model or data lack one."""
