"""What all jobs' command lines share: options and `key=value` settings side by side, and how a run ends."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence

from skyreels.config import ConfigError
from skyreels.locations import printable
from skyreels.storage import DamageError

_SETTING = re.compile(r"[a-z][a-z0-9_-]*(\.[A-Za-z0-9_-]+)*=.*", re.DOTALL)
_OPTION = re.compile(r"--?[a-z][a-z0-9-]*(=.*)?", re.DOTALL)


def parse(
    parser: argparse.ArgumentParser, words: Sequence[str] | None = None, *, many: Sequence[str] = ()
) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """The options of a command line (default: this process's) and the settings among its words, in their order.

    The value of an option is no setting, whatever it looks like: `--output a=b` is a folder. Of the options in `many`,
    which take several values, the first is a value, and so is each that names an existing file; `./a=b` always is.
    """
    words = [_as_path(word) for word in (sys.argv[1:] if words is None else words)]
    arguments, rest = parser.parse_known_args(words)
    unknown = [word for word in rest if not _SETTING.fullmatch(word)]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(map(printable, unknown))}")
    for name in many:
        values = getattr(arguments, name, None) or []
        among = [word for word in values[1:] if _SETTING.fullmatch(word) and not os.path.lexists(word)]
        setattr(arguments, name, [word for word in values if word not in among])
        rest += among
    return arguments, tuple(word for word in words if word in rest)


def exit_status(run: Callable[[], int], expected: tuple[type[Exception], ...] = (), *, stopped: str = "stopped") -> int:
    """What `run` returns; 1 with the reason on stderr for what a user can mend, 130 with `stopped` when interrupted."""
    mendable: tuple[type[Exception], ...] = (ConfigError, DamageError, OSError, *expected)
    try:
        return run()
    except mendable as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130


def _as_path(word: str) -> str:
    """A file that is called like an option is spelled so that it is none."""
    return f"./{word}" if word.startswith("-") and not _OPTION.fullmatch(word) and os.path.lexists(word) else word


def _sentence(error: Exception) -> str:
    """An error without its number; the system's own name the file first."""
    if isinstance(error, OSError) and error.strerror:
        named = f"{printable(str(error.filename))}: " if error.filename is not None else ""
        return f"{named}{error.strerror}"
    return str(error)
