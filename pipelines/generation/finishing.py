"""What a clip's file is in the end: its codec, and an operator's own callable, such as one that signs it (C2PA).

Both are named in the configuration or the command, never in a request.
"""

import importlib
import json
import logging
from argparse import ArgumentParser, _ArgumentGroup
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from skyreels.config import ConfigError
from skyreels.media.encode import VideoCodec
from skyreels.media.errors import MediaError
from skyreels.media.sniff import sniff

logger = logging.getLogger(__name__)

Finish = Callable[[Path, Mapping[str, Any]], Mapping[str, Any] | None]
"""Given the file, which it changes in place, and its record; what it returns stands in the record as `finished`."""


class FinishFailed(ValueError):
    """The file was made, and is not what the operator lets out. The log says why."""


def add_finishing(parser: ArgumentParser | _ArgumentGroup) -> None:
    """The options --codec and --finish; the latter is for `load_finish`."""
    told = "of a video; with av1 the sound is Opus (default: %(default)s)"
    parser.add_argument("--codec", choices=get_args(VideoCodec), default="h264", help=told)
    told = "given each file and its record before they are published"
    parser.add_argument("--finish", default="", metavar="MODULE:FUNCTION", help=told)


def load_finish(name: str) -> Finish | None:
    """What `module:function` names; None where nothing is named. Raises ConfigError."""
    if not name:
        return None
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"finish={name!r} cannot be imported ({error}): write module:function, and install it where clips are made"
        ) from error
    if not callable(found):
        raise ConfigError(f"finish={name!r} is no function but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def finished(finish: Finish | None, path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the file as it is to be published. Raises FinishFailed."""
    if finish is None:
        return dict(record)
    kind = sniff(path)
    try:
        said = finish(path, dict(record))
        told = {} if said is None else {"finished": json.loads(json.dumps(dict(said)))}
    except Exception as error:
        logger.exception("%s could not be finished", path.name)
        raise FinishFailed(
            f"the clip was made and could not be finished ({type(error).__name__}): ask the operator"
        ) from error
    if path.is_symlink() or not path.is_file() or _kind(path) != kind:
        logger.error("what finishes clips left no %s file in the place of %s", kind, path.name)
        raise FinishFailed(f"the clip was made, and finishing it left no {kind} file: ask the operator")
    return {**record, **told}


def _kind(path: Path) -> str | None:
    try:
        return sniff(path)
    except MediaError:
        return None
