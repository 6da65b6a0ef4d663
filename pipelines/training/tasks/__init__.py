"""What the model is taught: every task as a function from one cached sample to one example.

A task draws what is random about it (caption form, dropout, region, places of keyframes) from the generator it is
given and lays the given part into `VideoCondition` and references; `collate` adds noise and stacks a batch.
"""

from collections.abc import Mapping

from pipelines.training.latents.sample import LatentKind
from pipelines.training.tasks import frames, references, refinement, regions, streams
from pipelines.training.tasks.collate import Collation, collate
from pipelines.training.tasks.example import ORDER, Described, Dropout, Example, Scene, Streams, Task, TaskSettings

__all__ = [
    "ORDER",
    "TASKS",
    "Collation",
    "Described",
    "Dropout",
    "Example",
    "Scene",
    "Streams",
    "Task",
    "TaskSettings",
    "collate",
]

BOTH = frozenset({"video", "audio"})
PICTURE, SOUND = frozenset({"video"}), frozenset({"audio"})
CLIPS: frozenset[LatentKind] = frozenset({"video"})
IMAGES: frozenset[LatentKind] = frozenset({"image"})
HEARD: frozenset[LatentKind] = frozenset({"audio", "video"})
PAIRS: frozenset[LatentKind] = frozenset({"pair"})


_ALL = (
    Task("t2i", streams.text_to_picture, IMAGES, PICTURE),
    Task("t2v", streams.text_to_picture, CLIPS, PICTURE),
    Task("t2av", streams.text_to_audio_video, CLIPS, BOTH, cross_modal=True),
    Task("t2a", streams.text_to_audio, HEARD, SOUND),
    Task("v2a", streams.video_to_audio, CLIPS, BOTH, cross_modal=True),
    Task("a2v", streams.audio_to_video, CLIPS, BOTH, cross_modal=True),
    Task("i2v", frames.image_to_video, CLIPS, BOTH, frozenset({"stills"})),
    Task("start_end", frames.start_end, CLIPS, BOTH, frozenset({"stills"})),
    Task("keyframes_at", frames.keyframes_at, CLIPS, BOTH, frozenset({"stills"})),
    Task("extend", frames.extend, CLIPS, BOTH, frozenset({"extensions"})),
    Task("inpaint", regions.inpaint, CLIPS, BOTH, frozenset({"regions"})),
    Task("image_inpaint", regions.inpaint, IMAGES, PICTURE, frozenset({"regions"})),
    Task("edit", regions.edit, PAIRS, BOTH, frozenset({"before"})),
    Task("image_ref", references.image_reference, CLIPS, BOTH, reads="image"),
    Task("video_ref", references.video_reference, CLIPS, BOTH, reads="video"),
    Task("audio_ref", references.audio_reference, HEARD, BOTH, reads="audio"),
    Task("keyframes", refinement.keyframes, CLIPS, BOTH, frozenset({"refined"})),
    Task("refine", refinement.refine, IMAGES | CLIPS, PICTURE, frozenset({"refined"})),
    Task("refine_inpaint", refinement.refine_inpaint, IMAGES | CLIPS, PICTURE, frozenset({"refined", "regions"})),
)

TASKS: Mapping[str, Task] = {task.name: task for task in _ALL}
"""By the names that recipes use."""
