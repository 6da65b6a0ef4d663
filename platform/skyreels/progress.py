"""How far a piece of work is: a bar on a terminal, plain lines now and then where output goes to a file or a pipe."""

import sys
import time

from tqdm import tqdm

_EVERY_S = 15.0
_LINE = "{desc}: {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Progress:
    """Work of `total` units, shown on stderr. Use it as a context manager, or `close` it.

    Where stderr is no terminal a line is written at the start, every 15 s while work is done, and at the end.
    """

    def __init__(self, title: str, total: int, unit: str, *, quiet: bool = False, every_s: float = _EVERY_S) -> None:
        terminal = sys.stderr.isatty()
        self.done = 0
        self._title, self._total, self._unit = title, total, f" {unit}"
        self._bar = tqdm(
            total=total, desc=title, unit=self._unit, disable=quiet or not terminal, dynamic_ncols=True, smoothing=0.1
        )
        self._lines = not quiet and not terminal
        self._quiet = quiet
        self._every_s, self._status = every_s, ""
        self._started = self._written = time.monotonic()
        self._write()

    def update(self, units: int = 1, status: str | None = None) -> None:
        """Count `units` more as done; `status` is what stands behind the numbers from now on."""
        self.done += units
        self._status = self._status if status is None else status
        self._bar.set_postfix_str(self._status, refresh=False)
        self._bar.update(units)
        if self.done < self._total and time.monotonic() - self._written >= self._every_s:
            self._write()

    def say(self, line: str) -> None:
        """A line that does not break the bar."""
        if not self._quiet:
            self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
        if self.done:
            self._write()
        self._lines = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self) -> None:
        if not self._lines:
            return
        self._written = time.monotonic()
        text = tqdm.format_meter(
            self.done, self._total, self._written - self._started, prefix=self._title, unit=self._unit,
            postfix=self._status or None, bar_format=_LINE,
        )  # fmt: skip
        print(text, file=sys.stderr, flush=True)
