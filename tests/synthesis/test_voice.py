import stat
import sys
from itertools import pairwise

import numpy as np
import pytest

from pipelines.synthesis.film import Line
from pipelines.synthesis.sentences import SENTENCES
from pipelines.synthesis.voice import speak

RATE = 44100
# A stand-in with espeak-ng's command line: 0.2 s of silence, then a tone at 22050 Hz, on standard output.
FAKE_ESPEAK = """\
#!{python}
import io, sys
import numpy as np, soundfile
assert "--stdout" in sys.argv and sys.argv[sys.argv.index("-v") + 1] == "de"
if sys.argv[-1] == "fail":
    sys.exit("no such voice")
wave = np.concatenate([np.zeros(4410), 0.5 * np.sin(np.arange(22050) * 2 * np.pi * 500 / 22050)])
out = io.BytesIO()
soundfile.write(out, wave, 22050, format="WAV")
sys.stdout.buffer.write(out.getvalue())
"""


@pytest.fixture(autouse=True)
def path_without_espeak(monkeypatch, tmp_path):
    speak.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    yield tmp_path
    speak.cache_clear()


def pitch_of(wave, low, high):
    """Strongest period between two frequencies, by autocorrelation."""
    spectrum = np.fft.rfft(wave, 2 * wave.size)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)
    first, last = int(RATE / high), int(RATE / low)
    return RATE / (first + correlation[first:last].argmax())


@pytest.mark.parametrize("language", SENTENCES)
def test_every_sentence_can_be_said(language):
    for text, phonetic in SENTENCES[language]:
        spoken = speak(Line(text, 0.0, language, phonetic), RATE)
        assert spoken.source == "formant"
        assert 0.5 < spoken.samples.size / RATE < 5
        assert np.abs(spoken.samples).max() == pytest.approx(1.0)


@pytest.mark.parametrize("hertz", [100.0, 150.0, 220.0])
def test_the_voice_has_the_pitch_asked_for(hertz):
    wave = speak(Line("Ah.", 0.0, phonetic="aaaaaaaa", pitch=hertz), RATE).samples
    heard = [pitch_of(part, 70, 330) for part in np.split(wave[: wave.size // 10 * 10], 10)]
    assert np.median(heard) == pytest.approx(hertz, rel=0.08)
    assert heard[1] > heard[-2]  # a statement falls


def test_vowels_have_their_formants():
    """The energy of "i" lies apart, low and high; that of "u" is low, that of "a" in the middle."""

    def share(vowel, low, high):
        wave = speak(Line(vowel, 0.0, phonetic=vowel * 6), RATE).samples
        power, hertz = np.abs(np.fft.rfft(wave)) ** 2, np.fft.rfftfreq(wave.size, 1 / RATE)
        return power[(hertz > low) & (hertz < high)].sum() / power[hertz > 100].sum()

    assert share("i", 1900, 3300) > 5 * share("u", 1900, 3300)
    assert share("a", 600, 1500) > 3 * share("i", 600, 1500)


def test_s_hisses_and_vowels_do_not():
    wave = speak(Line("asa", 0.0, phonetic="aaasaaa"), RATE).samples
    frames = wave[: wave.size // 441 * 441].reshape(-1, 441)
    power = np.abs(np.fft.rfft(frames)) ** 2
    high = power[:, 50:100].sum(axis=1) / power.sum(axis=1)
    assert high.max() > 0.5
    assert np.median(high) < 0.05


def test_singing_follows_its_notes():
    notes = (57, 64, 69)
    wave = speak(Line("la la la", 0.0, phonetic="la la la", notes=notes), RATE).samples
    thirds = np.array_split(wave, 3)
    heard = [pitch_of(third[third.size // 3 : -third.size // 6], 150, 500) for third in thirds]
    assert heard == pytest.approx([440 * 2 ** ((note - 69) / 12) for note in notes], rel=0.04)
    assert all(low < high for low, high in pairwise(heard))


def test_what_has_no_letters_to_say_is_refused():
    with pytest.raises(ValueError, match="phonetic"):
        speak(Line("你好", 0.0, "cmn"), RATE)


def test_espeak_speaks_where_it_is_installed(path_without_espeak):
    program = path_without_espeak / "espeak-ng"
    program.write_text(FAKE_ESPEAK.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    spoken = speak(Line("Hallo", 0.0, "de"), RATE)
    assert spoken.source == "espeak-ng"
    assert spoken.samples.size == pytest.approx(RATE, abs=100)  # the silence is gone
    assert np.abs(np.fft.rfft(spoken.samples[:RATE])).argmax() == pytest.approx(500, abs=2)
    assert speak(Line("la", 0.0, "de", "la", notes=(60,)), RATE).source == "formant"  # it cannot sing
    with pytest.raises(RuntimeError, match="no such voice"):
        speak(Line("fail", 0.0, "de"), RATE)
