"""How many steps of each task make an epoch: what the sampler draws and what the plan prices."""

import math
from collections.abc import Iterable, Mapping

COUNTED_AS = {"pair": "video"}
"""Kinds of samples that are counted among others: pairs before and after an edit are clips."""
LEAST = 1e-3
"""The smallest share of steps that a task has."""


def steps_of_epoch(
    mix: Mapping[str, float],
    kinds: Mapping[str, Iterable[str]],
    samples: Mapping[str, float],
    per_step: Mapping[str, float],
) -> dict[str, float]:
    """Steps by task in which as many samples come as there are, of every kind.

    `kinds` are those that each task of the mix finds samples of, `samples` how many there are of a kind, `per_step` how
    many a task's average step takes. Tasks that share a kind divide its steps by their shares in the mix; between kinds
    that no task joins the data decide, so pictures, of which many fit a step, come as often as clips.
    """
    steps: dict[str, float] = {}
    for tasks in _joined({task: {COUNTED_AS.get(kind, kind) for kind in kinds[task]} for task in mix}):
        held = {COUNTED_AS.get(kind, kind) for task in tasks for kind in kinds[task]}
        total = sum(count for kind, count in samples.items() if COUNTED_AS.get(kind, kind) in held)
        taken = sum(mix[task] * per_step[task] for task in tasks)
        steps |= {task: total * mix[task] / taken for task in tasks}
    return steps


def shares_of(steps: Mapping[str, float]) -> dict[str, float]:
    """Steps as shares of their sum, none so small that it would never come."""
    total = sum(steps.values())
    raised = {task: max(count / total, LEAST) for task, count in steps.items()}
    return {task: share / sum(raised.values()) for task, share in raised.items()} if total else dict(steps)


def steps_in_all(steps: Mapping[str, float], epochs: float) -> int:
    """Of so many epochs."""
    return math.ceil(round(epochs * sum(steps.values()), 6))


def _joined(kinds: Mapping[str, set[str]]) -> list[list[str]]:
    """Tasks in groups that share no kind."""
    groups: list[tuple[list[str], set[str]]] = []
    for task, own in kinds.items():
        touching = [group for group in groups if group[1] & own]
        groups = [group for group in groups if not group[1] & own]
        tasks = [one for group in touching for one in group[0]]
        groups.append(([*tasks, task], own.union(*(group[1] for group in touching))))
    return [tasks for tasks, _ in groups]
