"""Short sounds of one class are joined to clips of useful length, as the paper does with its audio data.

Only sounds that are committed together are joined, so a part stays the unit of work. A joined clip names its pieces
in `parts` and takes the key of the first.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from pipelines.curation.audio.chunks import Piece, join_groups
from pipelines.curation.audio.scores import audio_scores
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.records import Clip, Kind, SourceReport
from skyreels.media.encode import write_flac


def join_short_audio(reports: Sequence[SourceReport], extract: ExtractConfig, scratch: Path) -> None:
    """Replace groups of short audio clips by joined ones, in the reports and among the files in `scratch`."""
    limits = extract.segments
    short = {
        clip.key: clip
        for report in reports
        for clip in report.clips
        if clip.kind is Kind.AUDIO and clip.rejection is None and clip.seconds < limits.min_s
    }
    pieces = [Piece(key, str(clip.scores.get("audio.class")), clip.seconds) for key, clip in sorted(short.items())]
    groups = [[short[str(piece.key)] for piece in group] for group in join_groups(pieces, longest_s=limits.max_s)]
    for group in groups:
        if len(group) > 1:
            _join(group, extract, scratch)
    joined = {clip.key for group in groups for clip in group[1:]}
    for report in reports:
        report.clips = [clip for clip in report.clips if clip.key not in joined]


def _join(clips: Sequence[Clip], extract: ExtractConfig, scratch: Path) -> None:
    """The first clip becomes the joined one; the files of the others are removed."""
    first = clips[0]
    sounds = [soundfile.read(scratch / f"{clip.key}.flac", dtype="float32", always_2d=True)[0].T for clip in clips]
    channels = max(sound.shape[0] for sound in sounds)
    whole = np.concatenate(
        [np.broadcast_to(s, (channels, s.shape[1])) if s.shape[0] == 1 else s for s in sounds], axis=1
    )
    for clip in clips[1:]:
        (scratch / f"{clip.key}.flac").unlink()
    rate = extract.cut.sample_rate
    write_flac(scratch / f"{first.key}.flac", whole, rate)
    first.parts = [(clip.source_id, clip.start_s, clip.end_s) for clip in clips]
    scores = audio_scores(whole, rate)
    first.start_s, first.end_s = 0.0, whole.shape[1] / rate
    first.scores |= {f"audio.{name}": value for name, value in scores.flat().items()}
    first.speech = scores.speech
