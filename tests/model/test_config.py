from pathlib import Path

import pytest
import torch
import yaml

from model.config import PRESETS, TransformerConfig, from_mapping, load_preset
from model.costs.memory import count_parameters, meta_model
from model.network.refiner import refiner_config

NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))


def test_the_four_sizes_are_there() -> None:
    assert NAMES == ["base", "small", "tiny", "v4"]


@pytest.mark.parametrize("name", NAMES)
def test_presets_build_and_agree_with_themselves(name: str) -> None:
    preset = load_preset(name)
    assert preset.transformer.video_channels == preset.video.channels
    assert preset.transformer.audio_channels == preset.audio.channels
    assert count_parameters(meta_model(preset.transformer)) > 0
    gates = count_parameters(meta_model(refiner_config(preset.transformer, preset.refiner)))
    assert gates < count_parameters(meta_model(preset.transformer))
    assert preset.section("generation")["fps"] == 16


def test_sizes_grow() -> None:
    counts = [count_parameters(meta_model(load_preset(name).transformer)) for name in ("tiny", "small", "base", "v4")]
    assert counts == sorted(counts)
    assert counts[0] < 12e6
    assert 20e9 < counts[3] < 40e9


def test_building_on_the_meta_device_takes_no_memory() -> None:
    assert {parameter.device for parameter in meta_model(load_preset("v4").transformer).parameters()} == {
        torch.device("meta")
    }


def test_errors_name_the_file_and_the_key(tmp_path: Path) -> None:
    values = yaml.safe_load((PRESETS / "tiny.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**values, "video": {**values["video"], "chanels": 3}}))
    with pytest.raises(ValueError, match=r"mine\.yaml: video: unknown keys \['chanels'\]"):
        load_preset(path)
    path.write_text(yaml.safe_dump({"transformer": values["transformer"]}))
    with pytest.raises(ValueError, match="lacks the sections"):
        load_preset(path)
    with pytest.raises(FileNotFoundError, match="base, small, tiny, v4"):
        load_preset("huge")
    with pytest.raises(KeyError, match="no section 'sampler'"):
        load_preset("tiny").section("sampler")
    with pytest.raises(ValueError, match=r"here: missing keys .*'text_width'"):
        from_mapping(TransformerConfig, {"width": 8, "heads": 1, "dual_blocks": 0, "single_blocks": 1}, "here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "head width"),
        ({"single_blocks": 0}, "single_blocks"),
        ({"video_channels": 0, "audio_channels": 0}, "no branch"),
        ({"patch": (2, 2, 2)}, "1 in time"),
    ],
)
def test_configs_that_cannot_work_are_refused(changes: dict, message: str) -> None:
    values = {"width": 48, "heads": 2, "dual_blocks": 1, "single_blocks": 1, "text_width": 8}
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**{**values, "video_channels": 4, "audio_channels": 4, **changes})
