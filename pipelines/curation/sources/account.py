"""What a listing of inputs came to: every file is taken, or counted here."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from skyreels.listing import Skipped, Why
from skyreels.locations import printable

_NAMED = 5  # of what cannot be read, how many are named


@dataclass
class Account:
    """What was found in the inputs and not taken."""

    passed_over: Counter[str] = field(default_factory=Counter)  # by suffix, in lower case with its dot
    sidecars: int = 0  # txt and json files that are named as a media file beside them
    hidden: int = 0
    own: list[str] = field(default_factory=list)  # folders that curation wrote
    unread: list[str] = field(default_factory=list)  # places where something may lie that nobody saw, and why

    def pass_over(self, location: str) -> None:
        self.passed_over[PurePosixPath(location).suffix.lower() or "no suffix"] += 1

    def skip(self, skipped: Iterable[Skipped]) -> None:
        """Count what the walk itself did not take."""
        for entry in skipped:
            if entry.why is Why.HIDDEN:
                self.hidden += 1
            elif entry.why is Why.LEFT_OUT:
                self.own.append(entry.path)
            else:
                self.unread.append(f"{entry.path} ({entry.detail or entry.why})")

    def lines(self) -> list[str]:
        """In words, what a user has to know; nothing where everything was taken."""
        said = []
        if self.passed_over:
            counts = sorted(self.passed_over.items(), key=lambda item: (-item[1], item[0]))
            listed = ", ".join(f"{count} {printable(suffix)}" for suffix, count in counts)
            said.append(
                f"passed over, for no media have such names: {listed} (a file that is named itself is looked at)"
            )
        if self.own:
            said.append(f"left out, for curation wrote it: {_some(self.own)}")
        if self.unread:
            said.append(f"could not be looked at: {_some(self.unread)}")
        if self.hidden:
            said.append(f"hidden, and left out: {self.hidden}")
        return said


def _some(places: list[str]) -> str:
    named = ", ".join(printable(place) for place in places[:_NAMED])
    return named + (f" and {len(places) - _NAMED} more" if len(places) > _NAMED else "")
