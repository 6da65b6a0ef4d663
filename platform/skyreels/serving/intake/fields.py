"""Form fields as nested values: `mask[type]=bbox`, `references[][tag]=@a`, or JSON in one field."""

import json
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)((?:\[[A-Za-z0-9_]*\])*)")
_MOST_DEEP = 4


def nested(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """One tree of all fields. ValueError where they contradict each other or cannot be grouped."""
    values: dict[str, Any] = {}
    columns: dict[str, dict[str, list[Any]]] = {}
    for key, value in pairs:
        found = _KEY.fullmatch(key)
        if found is None:
            raise ValueError(f"{key[:80]!r} is no field's name")
        name, path = found[1], re.findall(r"\[([A-Za-z0-9_]*)\]", found[2])
        if len(path) > _MOST_DEEP:
            raise ValueError(f"{key[:80]!r} is nested too deeply: send the field as JSON")
        if len(path) == 2 and path[0] == "" and path[1]:
            columns.setdefault(name, {}).setdefault(path[1], []).append(parsed(value))
        else:
            _put(values, name, path, parsed(value), key)
    for name, column in columns.items():
        if name in values:
            raise ValueError(f"{name!r} is given in two ways: give it once")
        values[name] = _rows(name, column)
    return values


def parsed(value: Any) -> Any:
    """JSON where a text begins like an object or a list; any other text is itself. ValueError for broken JSON."""
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return value
    return read_json(value)


def read_json(text: str | bytes) -> Any:
    """As `json.loads`, without NaN. ValueError where it is none or too deep."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _rows(name: str, columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """`name[][a]` and `name[][b]`, as many of each: which belong together is told by their order alone."""
    counts = {key: len(column) for key, column in columns.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of {name}[][{key}]" for key, count in counts.items())
        raise ValueError(f"{told} cannot be grouped: send {name} as one field of JSON")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _put(values: dict[str, Any], name: str, path: list[str], value: Any, key: str) -> None:
    at: Any = values
    steps = [name, *path]
    for step, following in pairwise(steps):
        empty: Any = [] if following == "" else {}
        if step == "" or not isinstance(at, dict):
            raise ValueError(f"{key[:80]!r} cannot be grouped: send {name} as one field of JSON")
        at = at.setdefault(step, empty)
        if type(at) is not type(empty):
            raise ValueError(f"{key[:80]!r} contradicts another field: give it once")
    if steps[-1] == "":
        at.append(value)
    elif steps[-1] in at:
        raise ValueError(f"{key[:80]!r} is given twice: give it once, or as {name}[]")
    else:
        at[steps[-1]] = value


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number in JSON")
