"""The one error the media room raises for a file it cannot or will not read."""


class MediaError(Exception):
    """A media file was refused or could not be read.

    `reason` is a short stable slug (`empty_file`, `playlist_refused`, `too_many_pixels`, ...) that is safe to
    store and count by; `remedy` tells the owner of the file what to do; `detail` says what exactly was seen.
    """

    def __init__(self, reason: str, remedy: str, detail: str = "") -> None:
        super().__init__(reason, remedy, detail)
        self.reason = reason
        self.remedy = remedy
        self.detail = detail

    def __str__(self) -> str:
        seen = f": {self.detail}" if self.detail else ""
        return f"{self.reason}{seen}. {self.remedy}"
