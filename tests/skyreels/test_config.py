"""Configs: YAML, extends, overrides; errors that name the key and suggest one."""

import pytest

from skyreels.config import Config, ConfigError, load_config


class Shots(Config):
    threshold: float = 3.0
    window: int = 2


class Settings(Config):
    name: str = "x"
    shots: Shots = Shots()
    many: dict[str, Shots] = {}
    maybe: Shots | None = None


def test_yaml_then_overrides(tmp_path):
    (tmp_path / "a.yaml").write_text("name: a\nshots: {threshold: 4, window: 5}\n")
    config = load_config(Settings, tmp_path / "a.yaml", ["shots.threshold=2.5", "name=b"])
    assert (config.name, config.shots.threshold, config.shots.window) == ("b", 2.5, 5)


def test_extends_lays_over(tmp_path):
    (tmp_path / "below.yaml").write_text("name: below\nshots: {threshold: 4, window: 5}\n")
    (tmp_path / "above.yaml").write_text("extends: below.yaml\nshots: {window: 9}\n")
    config = load_config(Settings, "above", search=tmp_path)
    assert (config.name, config.shots.threshold, config.shots.window) == ("below", 4, 9)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("shots.treshold=1", "did you mean 'threshold'"),
        ("shot.threshold=1", "did you mean 'shots'"),
        ("many.a.windw=1", "did you mean 'window'"),
        ("maybe.windw=1", "did you mean 'window'"),
        ("shots.window=wide", "'shots.window'"),
        ("shots", "write key=value"),
        ("name=[1", "not valid YAML"),
    ],
)
def test_errors_name_the_key_and_the_remedy(override, expected):
    with pytest.raises(ConfigError, match=expected.replace("[", r"\[")):
        load_config(Settings, None, [override])


def test_an_unknown_recipe_lists_the_shipped_ones(tmp_path):
    (tmp_path / "default.yaml").write_text("name: d\n")
    with pytest.raises(ConfigError, match="did you mean 'default'"):
        load_config(Settings, "defalt", search=tmp_path)


def test_yaml_that_is_no_mapping(tmp_path):
    (tmp_path / "a.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_config(Settings, tmp_path / "a.yaml")
