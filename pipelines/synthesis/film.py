"""What a film is: frozen descriptions, from which picture, sound and annotations all follow.

World units: the frame is 1 high and `aspect` wide, x to the right, y down, origin at its top left corner.
Times are in seconds; a shot's times start at its own beginning, a film's at frame 0.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

ShapeName = Literal["circle", "square", "triangle", "star", "heart", "hexagon", "ring", "diamond", "cross"]
TextureName = Literal["plain", "stripes", "dots", "checker", "marble"]
MaterialName = Literal["wood", "metal", "glass", "rubber", "stone"]
MotionKind = Literal["still", "linear", "circular", "zigzag", "bouncing"]
BackgroundKind = Literal["flat", "gradient", "textured", "two-tone"]
StyleName = Literal["natural", "palette", "outline", "pixelated", "noir"]
CameraKind = Literal["static", "pan", "push-in", "zoom-out", "shake"]
TransitionKind = Literal["cut", "dissolve", "fade"]
OverlayKind = Literal["text", "subtitle", "watermark", "logo"]
AmbienceKind = Literal["room", "wind", "rain", "surf"]

NARRATOR = "narrator"  # a speaker out of the picture
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (206, 52, 48),
    "orange": (232, 134, 40),
    "yellow": (236, 205, 62),
    "green": (66, 158, 76),
    "teal": (40, 150, 156),
    "blue": (54, 98, 202),
    "purple": (132, 72, 178),
    "pink": (230, 124, 168),
    "white": (232, 230, 224),
    "grey": (128, 130, 134),
    "brown": (128, 86, 54),
    "black": (38, 38, 42),
}


@dataclass(frozen=True)
class Motion:
    """A path: `velocity` in heights/s; `radius` of a circle or height of a zigzag; `period` in s; `spin` in rad/s."""

    kind: MotionKind = "still"
    start: tuple[float, float] = (0.5, 0.5)
    velocity: tuple[float, float] = (0.0, 0.0)
    radius: float = 0.2
    period: float = 2.0
    spin: float = 0.0


@dataclass(frozen=True)
class Subject:
    """One thing in the scene; `size` is its radius in frame heights. Hidden ones move and collide, unseen, unheard.

    Those that speak have a face, whose mouth follows the film's voices.
    """

    name: str
    shape: ShapeName
    colour: str
    texture: TextureName = "plain"
    material: MaterialName = "rubber"
    size: float = 0.1
    motion: Motion = Motion()
    hidden: bool = False
    speaks: bool = False


@dataclass(frozen=True)
class Background:
    kind: BackgroundKind = "textured"
    colours: tuple[str, str] = ("teal", "grey")
    seed: int = 0


@dataclass(frozen=True)
class Camera:
    """`amount` is the pan in heights, the zoom ratio less 1, or the shake in heights; `direction` of a pan."""

    kind: CameraKind = "static"
    amount: float = 0.0
    direction: tuple[float, float] = (1.0, 0.0)
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """What one shot shows. `gravity` (heights/s^2) acts on bouncing subjects, which collide with walls and each other.

    `grain` is the standard deviation of the sensor noise in grey levels.
    """

    subjects: tuple[Subject, ...] = ()
    background: Background = Background()
    style: StyleName = "natural"
    gravity: float = 4.0
    floor: float = 0.9
    grain: float = 2.0
    seed: int = 0


@dataclass(frozen=True)
class Shot:
    """A scene seen by one camera for a while; `transition` is how the shot begins (the first one always cuts)."""

    scene: Scene
    seconds: float
    camera: Camera = Camera()
    transition: TransitionKind = "cut"
    transition_seconds: float = 0.0


@dataclass(frozen=True)
class Overlay:
    """Something laid over the picture from `start` to `end` (film time; None: to the end).

    `position` is the centre in fractions of the frame's width and height, `size` the letters' height in frame heights.
    """

    kind: OverlayKind
    text: str
    language: str = "en"
    position: tuple[float, float] = (0.5, 0.5)
    size: float = 0.09
    colour: str = "white"
    opacity: float = 1.0
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True)
class Music:
    """Plucked chords and a soft hi-hat; `level` is the peak of the mix in full scale."""

    key: int = 57  # MIDI note of the tonic
    progression: tuple[int, ...] = (0, 5, 7, 0)  # roots in semitones above the tonic, one chord per two beats
    minor: bool = False
    tempo: float = 100.0  # beats per minute
    level: float = 0.25
    mood: str = "calm"


@dataclass(frozen=True)
class Ambience:
    kind: AmbienceKind = "room"
    level: float = 0.004


@dataclass(frozen=True)
class Line:
    """A spoken line, or a sung one where `notes` (MIDI, one per syllable) are given.

    `phonetic` is how the words sound in plain Latin letters, for the formant synthesiser.
    """

    text: str
    start: float
    language: str = "en"
    phonetic: str = ""
    pitch: float = 120.0  # Hz
    speed: float = 1.0
    speaker: str = NARRATOR  # or the name of a subject
    notes: tuple[int, ...] = ()
    level: float = 0.8


@dataclass(frozen=True)
class Tone:
    """A steady tone of `frequency` Hz, a beep."""

    start: float
    seconds: float
    frequency: float
    level: float = 0.3


@dataclass(frozen=True)
class Soundtrack:
    impacts: bool = True
    music: Music | None = None
    ambience: Ambience | None = None
    lines: tuple[Line, ...] = ()
    tones: tuple[Tone, ...] = ()


@dataclass(frozen=True)
class Film:
    """`size` is (width, height) in pixels. `letterbox` is the height of each black bar as a fraction of the frame."""

    shots: tuple[Shot, ...]
    size: tuple[int, int] = (256, 256)
    fps: Fraction = Fraction(24)
    overlays: tuple[Overlay, ...] = ()
    letterbox: float = 0.0
    sound: Soundtrack = Soundtrack()
    sample_rate: int = 44100
    seed: int = 0

    @property
    def aspect(self) -> float:
        return self.size[0] / self.size[1]

    @property
    def shot_frames(self) -> tuple[int, ...]:
        """First frame of every shot, then the number of frames of the film."""
        edges, end = [0], 0.0
        for shot in self.shots:
            end += shot.seconds
            edges.append(round(end * self.fps))
        return tuple(edges)

    @property
    def frames(self) -> int:
        return self.shot_frames[-1]

    @property
    def samples(self) -> int:
        return round(self.frames / self.fps * self.sample_rate)
