"""How a decode went."""

from dataclasses import dataclass


@dataclass
class DecodeReport:
    """Counts that are filled while pictures or blocks of sound are consumed, and whole once the last one is.

    `nominal_frames` is how many frames the container promises in the span, `decoded_frames` how many came out.
    """

    nominal_frames: int = 0
    decoded_frames: int = 0
    errors: int = 0
    corrupt_frames: int = 0
    first_error: str = ""

    def restart(self) -> None:
        """Forget what was counted, for another attempt from an earlier place."""
        self.nominal_frames = self.decoded_frames = self.errors = self.corrupt_frames = 0

    def failed(self, error: BaseException) -> None:
        self.errors += 1
        self.first_error = self.first_error or str(error)

    @property
    def missing_frames(self) -> int:
        return max(0, self.nominal_frames - self.decoded_frames)

    @property
    def bit_rot_suspected(self) -> bool:
        """Whether anything was damaged; a clean file that merely ends early has only missing frames."""
        return self.errors > 0 or self.corrupt_frames > 0
