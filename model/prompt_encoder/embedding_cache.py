"""Embeddings on disk by what was read, refused when another encoder made them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file

from model.conditioning.references import Reference
from model.prompt_encoder.encoder import Embedding, PromptEncoder, content_key

IDENTITY_FILE = "identity.json"


class StaleCacheError(ValueError):
    """A cache folder belongs to another encoder."""


class CachedEncoder:
    """A `PromptEncoder` that encodes each (prompt, references) once and keeps the result under `directory`.

    The folder carries the identity of the encoder that filled it. Raises StaleCacheError for a folder of another:
    other weights, another layer or other media limits give other hidden states, and a model must not mix them.
    """

    def __init__(self, encoder: PromptEncoder, directory: str | Path) -> None:
        self.encoder, self.directory = encoder, Path(directory)
        self.identity = encoder.identity
        self.width = encoder.width
        self.model = getattr(encoder, "model", None)  # what a generator moves between devices
        self._claim()

    def encode(self, prompt: str, references: Sequence[Reference] = ()) -> Embedding:
        """From disk where it is there, else from the encoder, and then to disk."""
        key = content_key(prompt, references)
        path = self.directory / key[:2] / f"{key}.safetensors"
        if not path.is_file():
            hidden, mask = self.encoder.encode(prompt, references)
            path.parent.mkdir(exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.partial")
            save_file({"hidden": hidden.cpu().contiguous(), "mask": mask.cpu().contiguous()}, partial)
            os.replace(partial, path)
        stored = load_file(path)
        return stored["hidden"], stored["mask"]

    def _claim(self) -> None:
        """Mark an empty folder as this encoder's; check the mark of a used one."""
        self.directory.mkdir(parents=True, exist_ok=True)
        mark = self.directory / IDENTITY_FILE
        if not mark.is_file():
            partial = mark.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps({"encoder": self.identity, "width": self.width}))
            os.replace(partial, mark)
        found = json.loads(mark.read_text())["encoder"]
        if found != self.identity:
            raise StaleCacheError(
                f"{self.directory} was filled by encoder {found}, not by {self.identity}: "
                "delete the folder, or give this encoder one of its own"
            )
