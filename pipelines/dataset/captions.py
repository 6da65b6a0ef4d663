"""What a caption is: the structured form (SkyReels-V2's fields, V4's tags), its text, and the way back."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

TAGS = (
    "text",
    "sfx",
    "dialogue",
    "singing",
    "bgm",
)  # in this order; a test holds them to those of `model.generation.prompts`

ShotType = Literal["extreme close-up", "close-up", "medium shot", "full shot", "long shot", "extreme long shot"]
ShotAngle = Literal["eye level", "high angle", "low angle", "overhead"]
ShotPosition = Literal[
    "front",
    "three-quarter front",
    "side",
    "three-quarter back",
    "back",
    "over the shoulder",
    "point of view",
    "ground level",
    "aerial",
]
CaptionSource = Literal["measured", "model"]


def one_line(value: Any) -> Any:
    """White space collapsed, so that a value is one line; what is left empty is None."""
    return (" ".join(value.split()) or None) if isinstance(value, str) else value


def escape(value: str) -> str:
    """Text in which nothing opens or closes a tag."""
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _lines(values: Any) -> Any:
    return [line for value in values if (line := one_line(value)) is not None] if isinstance(values, list) else values


Line = Annotated[str, BeforeValidator(one_line), Field(max_length=600)]
Lines = Annotated[list[Line], BeforeValidator(_lines), Field(max_length=40)]


class Part(BaseModel):
    """What captions are made of: closed and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Subject(Part):
    """Someone or something that is seen."""

    type: Line = Field(description="kind, from broad to narrow: 'person, woman', 'animal, fox', 'vehicle, tram'")
    appearance: Line
    action: Line | None = Field(None, description="what it does, in order of time")
    expression: Line | None = Field(None, description="of a face; null without one")
    position: Line | None = Field(None, description="where in the frame, and in front of or behind what")
    is_main: bool = False


class StructuredCaption(Part):
    """A clip field by field. None: not known or not there. Sound is written in the order in which it is heard."""

    subjects: list[Subject] = Field([], max_length=12)
    shot_type: ShotType | None = None
    shot_angle: ShotAngle | None = None
    shot_position: ShotPosition | None = None
    camera_motion: Line | None = None
    environment: Line | None = None
    lighting: Line | None = None
    text: Lines = Field([], description="text in the picture, letter by letter")
    sfx: Lines = Field([], description="sound effects, with the time where it matters: 'a door slams at 1.2 s'")
    dialogue: Lines = Field([], description="what is said, with the speaker: 'the woman, calmly: \"...\"'")
    singing: Lines = Field([], description="what is sung, with the voice")
    bgm: Lines = Field([], description="background music: genre, instruments, mood, tempo")

    def render(self) -> str:
        """The tagged text: labelled lines for what is seen, then <text> <sfx> <dialogue> <singing> <bgm>."""
        lines = [line for subject in self.subjects for line in _subject_lines(subject)]
        lines += [f"{label}: {escape(value)}" for name, label in _LABELS.items() if (value := getattr(self, name))]
        lines += [f"<{tag}>{escape(value)}</{tag}>" for tag in TAGS for value in getattr(self, tag)]
        return "\n".join(lines)

    @classmethod
    def parse(cls, text: str) -> "StructuredCaption":
        """The caption that `render` made `text` of. Raises ValueError naming the line that does not belong."""
        fields: dict[str, Any] = {"subjects": [], **{tag: [] for tag in TAGS}}
        for number, line in enumerate(text.split("\n") if text else [], 1):
            if not (_read_tag(line, fields) or _read_label(line, fields)):
                raise ValueError(f"line {number} of a structured caption is neither a known label nor a tag: {line!r}")
        return cls.model_validate(fields)


class Caption(Part):
    """A clip's captions in three forms, and who wrote them. `caption_source` "measured": no model looked at it."""

    short: Line
    long: Annotated[str, BeforeValidator(one_line), Field(max_length=6000)]
    structured: StructuredCaption
    caption_source: CaptionSource
    model: str
    language: str = "en"

    @property
    def structured_text(self) -> str:
        return self.structured.render()

    def row(self) -> dict[str, str]:
        """Flat, for tables and samples."""
        return {
            "short": self.short,
            "long": self.long,
            "structured": self.structured_text,
            "structured_json": self.structured.model_dump_json(exclude_none=True),
            "caption_source": self.caption_source,
            "model": self.model,
            "language": self.language,
        }


_LABELS = {
    "shot_type": "Shot",
    "shot_angle": "Angle",
    "shot_position": "View",
    "camera_motion": "Camera",
    "environment": "Environment",
    "lighting": "Lighting",
}
_OF_SUBJECT = {"type": "Type", "action": "Action", "expression": "Expression", "position": "Position"}
_MAIN, _OTHER = "Main subject", "Subject"


def _subject_lines(subject: Subject) -> list[str]:
    lines = [f"{_MAIN if subject.is_main else _OTHER}: {escape(subject.appearance)}"]
    return lines + [
        f"{label}: {escape(value)}" for name, label in _OF_SUBJECT.items() if (value := getattr(subject, name))
    ]


def _read_tag(line: str, fields: dict[str, Any]) -> bool:
    for tag in TAGS:
        if line.startswith(f"<{tag}>") and line.endswith(f"</{tag}>"):
            fields[tag].append(_unescape(line[len(tag) + 2 : -len(tag) - 3]))
            return True
    return False


def _read_label(line: str, fields: dict[str, Any]) -> bool:
    label, colon, value = line.partition(": ")
    value = _unescape(value)
    names = {label: name for name, label in _LABELS.items()}
    of_subject = {label: name for name, label in _OF_SUBJECT.items()}
    if colon and label in (_MAIN, _OTHER):
        fields["subjects"].append({"appearance": value, "is_main": label == _MAIN})
    elif colon and label in names:
        fields[names[label]] = value
    elif colon and label in of_subject and fields["subjects"]:
        fields["subjects"][-1][of_subject[label]] = value
    else:
        return False
    return True


def _unescape(value: str) -> str:
    return value.replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")
