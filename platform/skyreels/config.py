"""Typed configs: a pydantic model filled from YAML files and `key=value` overrides; errors name the key."""

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

Model = TypeVar("Model", bound=BaseModel)
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML has it: a tenth of the time


class Config(BaseModel):
    """Base of every config: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ConfigError(ValueError):
    """What is wrong with a config, which key, and what would be right."""


def load_config(
    model: type[Model], path: str | Path | None = None, overrides: Sequence[str] = (), *, search: Path | None = None
) -> Model:
    """Build `model` from a YAML file and overrides such as `shots.threshold=3.5`.

    `path` is a file, or a bare name that is looked up as `<search>/<name>.yaml`. A YAML file may name another
    one under `extends:` (relative to itself); its values are laid over that one's. Raises ConfigError.
    """
    values = read_yaml(find_config(path, search)) if path is not None else {}
    values = apply_overrides(values, overrides)
    return build(model, values, origin=str(path) if path is not None else "the defaults")


def build(model: type[Model], values: Mapping[str, Any], origin: str) -> Model:
    """Validate `values`; the ConfigError lists every bad key with a suggestion."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, detail) for detail in error.errors()]
        raise ConfigError(f"{model.__name__} from {origin}:\n  " + "\n  ".join(lines)) from None


def find_config(path: str | Path, search: Path | None) -> Path:
    """A path as it is, or a bare name below `search`."""
    given = Path(path)
    if given.is_file():
        return given
    if search is not None and (search / f"{path}.yaml").is_file():
        return search / f"{path}.yaml"
    shipped = sorted(file.stem for file in search.glob("*.yaml")) if search is not None else []
    hint = f"; shipped here: {', '.join(shipped)}" if shipped else ""
    raise ConfigError(f"no config '{path}': give a YAML file{hint}{suggest(str(path), shipped)}")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping with its `extends:` chain resolved, as plain values."""
    try:
        values = yaml.load(path.read_text(), _YAML)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {type(values).__name__}")
    parent = values.pop("extends", None)
    return values if parent is None else merge(read_yaml(path.parent / parent), values)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, mapping by mapping; lists and scalars are replaced."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` with each `key=value` laid over it; dots reach into mappings, the value is YAML."""
    changed = dict(values)
    for override in overrides:
        _apply(changed, override)
    return changed


def suggest(word: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?` for what is closest to a mistyped word, or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"'{override}' is not an override: write key=value, such as shots.threshold=3.5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"'{override}': the value is not valid YAML: {error}") from None
    *parents, leaf = key.split(".")
    for parent in parents:
        values[parent] = dict(values.get(parent) or {})
        values = values[parent]
    values[leaf] = value


def _explain(model: type[BaseModel], detail: Any) -> str:
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location)
    if detail["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        return f"unknown key '{key}'{suggest(location[-1], known)}; known here: {', '.join(known)}"
    return f"'{key}': {detail['msg']} (got {detail['input']!r})"


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    current: Any = model
    for part in path:
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = _model_in(current.model_fields[part].annotation)
    return sorted(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    """The config class inside `X`, `X | None`, `list[X]` or `dict[str, X]`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation
    inside = [_model_in(argument) for argument in typing.get_args(annotation)]
    return next((item for item in inside if isinstance(item, type) and issubclass(item, BaseModel)), None)
