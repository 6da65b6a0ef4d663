"""A row of frames and sound beside every prompt."""

import numpy as np

from pipelines.evaluation.films import DEVELOPMENT_SEED, Format, examples
from pipelines.evaluation.report.sheet import SCALE, SHOWN, WORDS, contact_sheet


def test_every_prompt_has_its_frames_and_its_sound():
    films = list(examples(DEVELOPMENT_SEED + 60, 2, Format(17, 16.0, 32, 32), motion="bouncing"))
    sheet = contact_sheet([(film.truth.prompt, film.clip) for film in films])
    assert sheet.width == WORDS + SHOWN * (32 * SCALE + 4)
    pixels = np.asarray(sheet).astype(int)
    height = sheet.height // 2
    for number, film in enumerate(films):
        row = pixels[number * height : (number + 1) * height]
        last = row[4 : 4 + 32 * SCALE, -4 - 32 * SCALE : -4][::SCALE, ::SCALE]
        assert np.array_equal(last, film.clip.frames[-1])
        assert (row[:, :WORDS] < 100).any(), "words"
        wave = (row[36 * SCALE :, WORDS:] == (70, 110, 170)).all(-1)
        assert wave.sum(0).max() > wave.sum(0).min() + 3, "a hit is louder than the room"
