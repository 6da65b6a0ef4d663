"""Whether a stage's workers, slots and heads go together: known from its settings, before anything starts."""

from pipelines.training.curriculum.resolve import Stage
from skyreels.config import ConfigError
from skyreels.training.errors import TrainingError
from skyreels.training.ranks import Ranks


def check_groups(stage: Stage) -> None:
    """Raises ConfigError where `sequence_parallel` divides heads or workers unevenly, or workers the slots."""
    recipe, heads = stage.recipe, stage.preset.transformer.heads
    if heads % recipe.sequence_parallel:
        fitting = [count for count in range(1, heads + 1) if heads % count == 0]
        raise ConfigError(
            f"{stage.name}: the {heads} heads of preset {stage.preset.name} cannot be dealt out to sequence_parallel = "
            f"{recipe.sequence_parallel} workers: set it to one of {', '.join(map(str, fitting))}"
        )
    try:
        Ranks.of(0, max(1, recipe.workers), recipe.slots, stage.engine(1))
    except TrainingError as error:
        raise ConfigError(f"{stage.name}: {error}") from error
