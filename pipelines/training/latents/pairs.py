"""Edit pairs: the same clip before and after an edit, with the instruction, and where the edit is."""

import hashlib
import json
import zlib
from base64 import b64decode
from collections.abc import Sequence
from fractions import Fraction
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.dataset.reader import Clip, ClipDataset, fitted_sound, member_bytes
from skyreels.commits import stable_json
from skyreels.media.sound import decode_audio
from skyreels.shards import Member
from skyreels.storage import Storage, normalise

_EDIT = ".edit.json"
INSTRUCTION = "instruction"


def open_pairs(location: str) -> ClipDataset:
    """The pairs of a folder that `pipelines.synthesis --pairs` filled, or one laid out like it: NAME.edit.json with
    `instruction`, `before`, `after` (MP4s of the same frames), `size`, `fps`, `frames`, `sound`, and `masks` per frame.

    Each is a Clip of kind `pair` whose members are the whole files.
    """
    storage = Storage(normalise(location))
    sizes = {entry.location: entry.size for entry in storage.files()}
    names = [name for name in storage.names() if name.endswith(_EDIT)]
    if not names:
        raise FileNotFoundError(
            f"{storage.root} holds no NAME{_EDIT}: make pairs with python -m pipelines.synthesis --pairs N --output …"
        )
    clips, seen = [], []
    for name in names:
        data = storage.read(name)
        members = {"edit.json": Member(name, 0, len(data))}
        edit = json.loads(data)
        for role in ("before", "after"):
            file = f"{name.rpartition('/')[0]}/{edit[role]}".lstrip("/")
            members[f"{role}.mp4"] = Member(file, 0, sizes.get(storage.location(file), 0))
        clips.append(_clip(name, edit, members))
        seen.append([name, hashlib.sha256(data).hexdigest(), [member.size for member in members.values()]])
    return ClipDataset(storage, tuple(clips), hashlib.sha256(stable_json(seen)).hexdigest()[:16])


def keep_mask_at(edit: dict[str, Any], frames: Sequence[int]) -> Tensor | None:
    """(1, F, h, w) bool, True where the edit changes nothing; None where it may change everything."""
    width, height = edit["size"]
    changed = {frame: _unpacked(edit["masks"][frame], height, width) for frame in sorted(set(frames))}
    if all(mask.all() for mask in changed.values()):
        return None
    return torch.from_numpy(~np.stack([changed[frame] for frame in frames]))[None]


def read_track(storage: Storage, clip: Clip, start_s: float, samples: int, *, sample_rate: int, stereo: bool) -> Tensor:
    """(2 or 1, samples) float32 of the sound after the edit, from `start_s` on; silence after its end."""
    with NamedTemporaryFile(suffix=".mp4") as file:
        file.write(member_bytes(storage, clip, "after.mp4"))
        file.flush()
        end_s = start_s + samples / sample_rate
        heard = decode_audio(file.name, start_s=start_s, end_s=end_s, sample_rate=sample_rate)
    return fitted_sound(heard.samples, samples, stereo=stereo)


def _clip(name: str, edit: dict[str, Any], members: dict[str, Member]) -> Clip:
    fps = float(Fraction(edit["fps"]))
    width, height = edit["size"]
    shown = [frame for frame, mask in enumerate(edit["masks"]) if _unpacked(mask, height, width).any()]
    return Clip(
        key="pair-" + name.removesuffix(_EDIT).replace("/", "-").replace(".", "-"),
        kind="pair",
        width=width,
        height=height,
        fps=fps,
        frames=edit["frames"],
        seconds=edit["frames"] / fps,
        has_audio=bool(edit["sound"]),
        captions={INSTRUCTION: edit["instruction"]},
        members=members,
        edited=(shown[0] / fps, (shown[-1] + 1) / fps) if shown else None,
    )


def _unpacked(packed: str, height: int, width: int) -> np.ndarray:
    """(H, W) bool of a mask that `pipelines.synthesis.annotations.pack_mask` packed."""
    bits = np.unpackbits(np.frombuffer(zlib.decompress(b64decode(packed)), np.uint8), count=height * width)
    return bits.reshape(height, width).astype(bool)
