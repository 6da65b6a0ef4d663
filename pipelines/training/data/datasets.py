"""Several datasets read together, each of which keeps a name in the keys of its samples."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipelines.dataset.reader import Clip, ClipDataset, open_dataset
from skyreels.commits import digest
from skyreels.storage import Storage


@dataclass(frozen=True)
class Datasets:
    """Datasets by name, below the folder that holds them."""

    folder: str
    names: tuple[str, ...]

    @property
    def locations(self) -> dict[str, str]:
        """Their folders, by name."""
        return {name: Storage(self.folder).location(name) for name in self.names}

    @property
    def in_words(self) -> str:
        """Such as `a, b and c`."""
        return " and ".join(filter(None, [", ".join(self.names[:-1]), *self.names[-1:]]))

    def __str__(self) -> str:
        return ", ".join(self.locations.values())


def open_together(datasets: Datasets) -> ClipDataset:
    """One dataset as it is; of several, all clips, their keys told apart by the datasets' names.

    Raises FileNotFoundError where one of them is absent.
    """
    opened = {name: open_dataset(location) for name, location in sorted(datasets.locations.items())}
    if len(opened) == 1:
        return next(iter(opened.values()))
    clips = tuple(_below(name, clip) for name, dataset in opened.items() for clip in dataset.clips)
    fingerprints = {name: dataset.fingerprint for name, dataset in opened.items()}
    return ClipDataset(Storage(datasets.folder), clips, together(fingerprints))


def together(fingerprints: Mapping[str, str]) -> str:
    """The fingerprint of datasets, or of their caches, from each one's by name; of a single one, its own."""
    return digest(fingerprints) if len(fingerprints) > 1 else next(iter(fingerprints.values()))


def key_within(name: str, key: str) -> str:
    """The key of a sample among those of several datasets. No key holds a dot, so no two of them are alike."""
    return f"{name}.{key}"


def name_of(key: str) -> str:
    """The dataset of a key that `key_within` made."""
    return key.rpartition(".")[0]


def _below(name: str, clip: Clip) -> Clip:
    """The clip as the folder of all datasets sees it."""
    members = {part: replace(member, shard=f"{name}/{member.shard}") for part, member in clip.members.items()}
    return replace(clip, key=key_within(name, clip.key), members=members)
