"""What parts of a model are worth: the same films asked again with one of them switched off.

The switch lies around what was loaded; the model knows nothing of it. A part's cost is what a suite loses without it,
film by film, on the same noise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from model.generation.components import Components
from model.network.inputs import JointInputs
from pipelines.evaluation.metrics import METRICS
from pipelines.evaluation.run import SuiteResult, values_by_film
from pipelines.evaluation.summary import Score, bootstrap

LEAST_COST = 0.15
"""What each metric that is held to it loses without the part: set before the first model was taken apart."""


@dataclass(frozen=True)
class Ablation:
    """A part of the model: what the network's inputs are without it, and the (suite, metric) pairs that tell its worth.

    Those of `held` must lose `LEAST_COST`; those of `told` are printed. Where not `read`, the encoder is shown no
    references beside the words.
    """

    name: str
    change: Callable[[JointInputs], JointInputs]
    held: tuple[tuple[str, str], ...] = ()
    told: tuple[tuple[str, str], ...] = ()
    read: bool = True

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return (*self.held, *self.told)

    @property
    def suites(self) -> tuple[str, ...]:
        """Those that are asked without the part."""
        return tuple(dict.fromkeys(suite for suite, _ in self.pairs))


@dataclass(frozen=True)
class Cost:
    """By how much `metric` of `suite` is worse without a part, with its 95 % interval; both figures beside it.

    Over the films that both tell of. `bound`: what it should lose at least, None where nothing is asked.
    """

    ablation: str
    suite: str
    metric: str
    score: Score
    whole: float
    without: float
    bound: float | None

    @property
    def met(self) -> bool | None:
        return None if self.bound is None else self.score.value >= self.bound


def _apart(inputs: JointInputs) -> JointInputs:
    """Neither branch reads the other."""
    return replace(inputs, cross_modal=False)


def _unscaled(inputs: JointInputs) -> JointInputs:
    """A sound latent counts as much time as a latent frame, though a clip has about ten times as many of them."""
    return replace(inputs, audio_time_scale=1.0)


def _unreferenced(inputs: JointInputs) -> JointInputs:
    """No latents before the clip."""
    return replace(inputs, video_references=(), audio_references=(), reference_rows=None)


_OF_REFERENCES = (("image_reference", "colour"), ("image_reference", "shape"))
_ALL = (
    Ablation("cross_modal", _apart, (("v2a", "event_f1"), ("t2av", "event_f1")), (("t2av", "offset"),)),
    Ablation("rope_scaling", _unscaled, (("v2a", "event_f1"), ("t2av", "event_f1")), (("t2av", "offset"),)),
    Ablation("references", _unreferenced, held=_OF_REFERENCES, read=False),
    Ablation("reference_latents", _unreferenced, told=_OF_REFERENCES),
)
ABLATIONS: Mapping[str, Ablation] = {ablation.name: ablation for ablation in _ALL}


@contextmanager
def without(parts: Components, name: str) -> Iterator[None]:
    """The model of these parts computes without the part of that name inside, and as it was after."""
    ablation, network, encoder = ABLATIONS[name], parts.transformer, parts.encoder
    assert network is not None
    assert encoder is not None
    forward, cache, encode = network.forward, network.cache, encoder.encode

    def changed(inputs: JointInputs, *kept: Any) -> Any:
        return forward(ablation.change(inputs), *kept)

    with ExitStack() as switched:
        _replace(switched, network, forward=changed, cache=lambda inputs: cache(ablation.change(inputs)))
        if not ablation.read:
            _replace(switched, encoder, encode=lambda prompt, references=(): encode(prompt))
        yield


def _replace(until: ExitStack, whole: Any, **methods: Callable[..., Any]) -> None:
    """Methods of one object, until the stack closes."""
    for name, method in methods.items():
        vars(whole)[name] = method
        until.callback(vars(whole).pop, name)


def costs(results: Sequence[SuiteResult]) -> list[Cost]:
    """Of every ablation in `results`, which hold the same suites of the whole network as well."""
    wholes = {result.suite: result for result in results if result.without is None}
    found: list[Cost] = []
    for result in results:
        if result.without is None:
            continue
        ablation = ABLATIONS[result.without]
        for suite, metric in ablation.pairs:
            if suite == result.suite:
                bound = LEAST_COST if (suite, metric) in ablation.held else None
                cost = _cost(ablation.name, metric, wholes[suite], result, bound)
                found += [] if cost is None else [cost]
    return found


def _cost(name: str, metric: str, whole: SuiteResult, parted: SuiteResult, bound: float | None) -> Cost | None:
    """None where no film tells of the metric in both."""
    sign = -1.0 if METRICS[metric].lower_is_better else 1.0
    told = [values_by_film(result.cases, metric, result.draws) for result in (whole, parted)]
    both = zip(*told, strict=True)
    pairs = [(a, b) for a, b in both if a is not None and b is not None]
    if not pairs:
        return None
    lost = [sign * (a - b) for a, b in pairs]
    score = Score(sum(lost) / len(lost), *bootstrap(lost), len(lost))
    means = [sum(values) / len(pairs) for values in zip(*pairs, strict=True)]
    return Cost(name, whole.suite, metric, score, means[0], means[1], bound)
