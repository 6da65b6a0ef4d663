"""Why a run ended early."""


class TrainingError(RuntimeError):
    """A run that cannot go on: what happened, at which step, and what to do. Another attempt would meet it again."""
