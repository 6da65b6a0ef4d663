"""Why a model wrote nothing."""


class WriterFailed(Exception):
    """What went wrong, and what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy
