"""What people type, in the form that the model was trained on: by rules, which only sort words and add none.

A model that was trained on prose reads prose. One that its last stages taught the structured form alone is told in that
form: subjects with what they do, camera, surroundings and light, then what is read and heard. Words stay as they are
where the rules are not sure, and in other languages than English.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from model.generation.prompts import TAGS, Prompt, StructuredPrompt

Write = Callable[[str, Sequence[str], bool], str | StructuredPrompt]
"""(words, forms of captions that the model was trained on, whether a picture is made) to what is asked in their place.
Raises ValueError where nothing could be written."""

LABELS = ("Main subject", "Subject", "Type", "Action", "Expression", "Position", "Shot", "Angle", "View", "Camera",
          "Environment", "Lighting")  # fmt: skip
"""Of the lines of a structured caption, in their order; a test holds them to those of the dataset's captions."""


def enhanced(prompt: Prompt, forms: Sequence[str], write: Write | None, *, picture: bool = True) -> Prompt:
    """The prompt as `write` puts it; what is structured already stays as it is, and all does without `write`, or where
    the model does not say what it knows. Shots are put one by one."""
    if write is None or isinstance(prompt, StructuredPrompt) or not forms:
        return prompt
    if isinstance(prompt, str):
        return prompt if is_structured(prompt) else write(prompt, forms, picture)
    return tuple(replace(shot, prompt=enhanced(shot.prompt, forms, write, picture=picture)) for shot in prompt)  # type: ignore[arg-type]


def is_structured(text: str) -> bool:
    """Whether it has a line or a tag of the structured form."""
    return re.search(rf"(?m)</?(?:{'|'.join(TAGS)})>|^(?:{'|'.join(LABELS)}): ", text) is not None


def by_rules(words: str, forms: Sequence[str], picture: bool = True) -> str | StructuredPrompt:
    """Implements `Write`: the words sorted into the structured form, for a model that knows no other."""
    if set(forms) != {"structured"} or not _is_english(words):
        return words
    text, quotes = _without_quotes(words)
    sorted_words = _Sorted(quotes, picture)
    for sentence in re.split(r"(?<=[.!?;])\s+|\x01\s*|\n+", text.strip()):
        sorted_words.add(" ".join(sentence.split()).rstrip(".;"))
    return sorted_words.prompt() or words


QUOTED = re.compile(r'"[^"\n]+"|“[^”\n]+”|„[^“”\n]+[“”]|«[^»\n]+»|(?<![\w\'])\'[^\'\n]+\'(?!\w)')
_HELD = re.compile("\x00(\\d+)\x00")
_LONGEST = 600  # characters of a clause that is looked into; patterns are quadratic

_ENGLISH = re.compile(
    r"a|an|the|of|in|on|at|with|and|is|are|to|from|into|over|under|by|for|as|it|its|while|behind|beside|through|this|"
    r"that|each|there|his|her|their|off|onto|towards|across|between"
)
_FOREIGN = re.compile(
    r"der|die|das|ein|eine|einen|und|mit|auf|im|ist|le|la|les|un|une|des|du|et|dans|sur|avec|est|el|los|las|y|con|una|"
    r"en|del|il|lo|gli|e|di|per|nel|uno|o|os|as|um|uma|no|na|com|een|het|van|met|op|i|w|z"
)
_PREPOSITION = re.compile(
    r"of|in|on|at|with|from|into|over|under|by|for|behind|beside|through|that|who|which|across|between"
)

_VERBS = (
    "bounces|falls|rolls|slides|spins|rotates|turns|walks|runs|jumps|leaps|flies|swims|drives|rides|dances|moves|swings|"
    "floats|drifts|sits|stands|lies|rests|sleeps|waits|looks|watches|smiles|laughs|cries|eats|drinks|cooks|plays|sings|"
    "speaks|talks|waves|climbs|circles|zigzags|crosses|passes|opens|closes|pours|burns|glows|blinks|grows|melts|rises|"
    "sinks|throws|catches|kicks|hits|knocks|pushes|pulls|holds|carries|reads|writes|paints|barks|meows|chases|follows|"
    "enters|leaves|appears|disappears|hovers|gallops|trots|crawls|dives|sails|lands"
)
_SUBJECT = re.compile(
    rf"((?:a|an|the|one|two|three|four|five|some|several|many|\d+|@[\w-]+)\b(?:\s+[\w'@-]+){{0,7}}?)"
    r"(?<!\bthat)(?<!\bwho)(?<!\bwhich)\s+"
    rf"((?:(?:is|are)\s+\w+ing|{_VERBS})\b.*)",
    re.IGNORECASE | re.DOTALL,
)
_SAYS = (
    r"says|said|asks|asked|shouts|whispers|replies|answers|announces|yells|murmurs|mutters|narrates|saying|speaks|tells"
)
_SINGS = r"sings|sang|singing|chants|hums|raps"
_WRITTEN = r"sign|text|title|caption|letters|lettering|label|reads|written|word|words|logo|poster|banner|neon|headline"
_SOUND = (
    r"sounds?|noises?|impacts?|thuds?|clicks?|clanks?|crash(?:es)?|bangs?|booms?|pops?|splash(?:es)?|footsteps|thunder|"
    r"applause|laughter|birdsong|chirps?|chirping|barking|meowing|whistles?|whistling|creaks?|creaking|rustling|hiss|"
    r"hum|humming|buzz|buzzing|ringing|beeps?|sirens?|ambience|ambiance|chatter"
)
_HEARD = re.compile(
    rf"(?:(?:with|and|to)\s+)?(?:(?:a|an|the)\s+)?(?:[\w'-]+\s+){{0,3}}(?:{_SOUND})(?:\s+(?:of|in|on|from|when|at)\b.*)?"
    rf"|(?:we|you)\s+(?:can\s+)?hear\b.*|each\s+.*\b(?:{_SOUND})|.*\b(?:makes?|making)\s+.*\b(?:{_SOUND})",
    re.IGNORECASE,
)
_TRAILING_SOUND = re.compile(
    rf"(?P<seen>.+?),?\s+(?:with|to)\s+(?P<heard>(?:(?:a|an|the)\s+)?(?:[\w'-]+\s+){{0,2}}(?:{_SOUND}))", re.IGNORECASE
)
_MUSIC = re.compile(
    r"(?:(?:with|and|over|set\s+to|to)\s+)?(?:(?:a|an|the)\s+)?(?:[\w'-]+\s+){0,4}(?:music|soundtrack|melody|bgm)"
    r"(?:\s+(?:plays?|playing|in|with|at|of|by)\b.*)?",
    re.IGNORECASE,
)
_CAMERA = re.compile(
    r"(?:the\s+)?camera\b.*|(?:a\s+)?(?:static|handheld|fixed|moving|shaky)\s+(?:camera|shot)|.*\bcamera"
    r"|(?:slow|quick|fast)?\s*(?:pan|zoom|tilt|dolly)(?:s|ning|ming|ing)?\s+(?:left|right|in|out|up|down)\b.*|tracking\s+shot\b.*",
    re.IGNORECASE,
)
_SHOT = re.compile(
    r"(?:an?\s+)?(?P<shot>extreme close-up|extreme long shot|close-up|medium shot|full shot|long shot|wide shot)"
    r"(?:\s+of\s+(?P<rest>.+))?",
    re.IGNORECASE,
)
_ANGLE = re.compile(
    r"(?:from\s+)?(?:an?\s+)?(?P<angle>eye level|high angle|low angle|overhead)(?:\s+(?:shot|view))?", re.IGNORECASE
)
_LIGHT = re.compile(
    r"(?:(?:in|with)\s+)?(?:[\w'-]+\s+){0,4}(?:light|lighting|sunlight|moonlight|candlelight)", re.IGNORECASE
)
_PLACE = re.compile(
    r".*\b(?:background|backdrop)|(?:in|on|at|inside|outside|under|beside|near|along)\s+(?:a|an|the)\s+.+|outdoors|indoors",
    re.IGNORECASE,
)


@dataclass
class _Sorted:
    """Words on their way into the structured form. `quotes` stand as numbers in the sentences."""

    quotes: Sequence[str]
    picture: bool
    subjects: list[list[str]] = field(default_factory=list)
    """[appearance], or [appearance, action]."""
    lines: dict[str, list[str]] = field(default_factory=dict)
    heard: dict[str, list[str]] = field(default_factory=lambda: {tag: [] for tag in TAGS})

    def add(self, sentence: str) -> None:
        """One sentence, clause by clause."""
        seen = [left for clause in re.split(r",\s+", sentence) if (left := self._left_of(clause.strip()))]
        if seen:
            self._see(", ".join(seen))

    def prompt(self) -> StructuredPrompt | None:
        """None where nothing was found."""
        told: list[str] = []
        for place, (appearance, *action) in enumerate(self.subjects):
            named = "Subject" if place else "Main subject"
            told += [f"{named}: {appearance}", f"Type: {_head(appearance)}", *(f"Action: {does}" for does in action)]
        told += [f"{label}: {', '.join(self.lines[label])}" for label in LABELS if label in self.lines]
        picture = "\n".join(map(self._whole, told))
        heard = {tag: tuple(map(self._whole, entries)) for tag, entries in self.heard.items()}
        return StructuredPrompt(picture, **heard) if picture or any(heard.values()) else None

    def _left_of(self, clause: str) -> str:
        """What of a clause is seen and no line's of its own; the rest is put where it belongs."""
        if len(clause) > _LONGEST:
            return clause if self.picture else self._hear("sfx", clause)
        if _HELD.search(clause):
            return self._quoting(clause)
        if _MUSIC.fullmatch(clause):
            return self._hear("bgm", clause)
        if _HEARD.fullmatch(clause):
            return self._hear("sfx", clause)
        if trailing := _TRAILING_SOUND.fullmatch(clause):
            self._hear("sfx", trailing["heard"])
            clause = trailing["seen"]
        if not self.picture:
            return self._hear("sfx", clause)
        return self._placed(clause)

    def _placed(self, clause: str) -> str:
        if shot := _SHOT.fullmatch(clause):
            self.lines.setdefault("Shot", [shot["shot"].lower().replace("wide", "long")])
            return shot["rest"] or ""
        if angle := _ANGLE.fullmatch(clause):
            self.lines.setdefault("Angle", [angle["angle"].lower()])
            return ""
        for label, pattern in (("Camera", _CAMERA), ("Lighting", _LIGHT), ("Environment", _PLACE)):
            if pattern.fullmatch(clause):
                self.lines.setdefault(label, []).append(clause)
                return ""
        return clause

    def _quoting(self, clause: str) -> str:
        """Of words that are said or sung, who says them; of words that are read, all of it and they by themselves."""
        for tag, verbs in (("dialogue", _SAYS), ("singing", _SINGS)):
            if found := re.search(rf"(?P<who>.*?)(?:,?\s+(?:and|who))?\s*\b(?:{verbs})\b", clause, re.IGNORECASE):
                self._hear(tag, clause)
                return "" if not self.picture or len(found["who"].split()) < 2 else found["who"].rstrip(",: ")
        if self.picture and re.search(rf"\b(?:{_WRITTEN})\b", clause, re.IGNORECASE):
            self.heard["text"] += [self.quotes[int(number)][1:-1] for number in _HELD.findall(clause)]
        return clause if self.picture else self._hear("sfx", clause)

    def _hear(self, tag: str, clause: str) -> str:
        self.heard[tag].append(re.sub(r"^(?:and|with)\s+", "", clause, flags=re.IGNORECASE))
        return ""

    def _see(self, words: str) -> None:
        found = _SUBJECT.fullmatch(words)
        if found:
            self.subjects.append([found[1], found[2]])
        elif self.subjects:
            self.subjects[-1][-1] += f"; {words}"
        else:
            self.subjects.append([words])

    def _whole(self, text: str) -> str:
        """On one line, with the quotes where they were, and nothing that opens or closes a tag."""
        whole = " ".join(_HELD.sub(lambda number: self.quotes[int(number[1])], text).split())
        return whole.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _without_quotes(text: str) -> tuple[str, list[str]]:
    """The text with a number in the place of each quotation, with a mark after one that ends its sentence; and them."""
    quotes: list[str] = []

    def hold(found: re.Match[str]) -> str:
        quotes.append(found[0])
        ends = "\x01" if found[0][-2] in ".!?" and text[found.end() : found.end() + 1].isspace() else ""
        return f"\x00{len(quotes) - 1}\x00{ends}"

    return QUOTED.sub(hold, text), quotes


def _head(appearance: str) -> str:
    """The noun that says what a subject is: the last word before anything that is said of it."""
    head = ""
    for word in re.findall(r"[\w'-]+", appearance):
        if head and (_PREPOSITION.fullmatch(word.lower()) or word.endswith("ing")):
            break
        head = word
    return head


def _is_english(words: str) -> bool:
    """Whether the rules may touch it: Latin letters, and more little words of English than of other languages."""
    bare = QUOTED.sub("", words)
    if any(letter.isalpha() and not letter.isascii() for letter in bare):
        return False
    told = re.findall(r"(?<!@)\b[a-z]+\b", bare.lower())
    english, foreign = (sum(known.fullmatch(word) is not None for word in told) for known in (_ENGLISH, _FOREIGN))
    return english > foreign
