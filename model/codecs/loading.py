"""Every codec there is; from a folder, whose config.json names the class that made it, or from a preset's section."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import CONFIG, read_config
from model.codecs import AudioCodec, VideoCodec
from model.codecs.light import LightCodec
from model.codecs.oobleck import OobleckAudioCodec
from model.codecs.tiny_audio import TinyAudioCodec
from model.codecs.tiny_video import TinyVideoCodec
from model.codecs.wan import WanVideoCodec
from model.config import from_mapping
from model.shapes import AudioCodecSpec, VideoCodecSpec

VIDEO_CODECS: Mapping[str, type[Any]] = {"tiny_video": TinyVideoCodec, "wan": WanVideoCodec}
AUDIO_CODECS: Mapping[str, type[Any]] = {"tiny_audio": TinyAudioCodec, "oobleck": OobleckAudioCodec}
"""Modules by the `kind` of a preset's section. A `LightCodec` is built anew from the section's sizes; any other loads
its weights from `path`, and says in `stored_as` which class the config.json of its folder names."""


def load_video_codec(folder: str | Path, **options: Any) -> VideoCodec:
    """The codec in a folder; `options` (subfolder, tile, ...) go to its `load`. No hub is asked for one."""
    loaded: VideoCodec = _class_in(folder, VIDEO_CODECS, options).load(folder, **options)
    return loaded


def load_audio_codec(folder: str | Path, **options: Any) -> AudioCodec:
    """The codec in a folder; `options` (subfolder, ...) go to its `load`. No hub is asked for one."""
    loaded: AudioCodec = _class_in(folder, AUDIO_CODECS, options).load(folder, **options)
    return loaded


def video_codec_spec(folder: str | Path) -> VideoCodecSpec:
    """Of the codec in a folder; no weights are read."""
    with torch.device("meta"):
        spec: VideoCodecSpec = _class_in(folder, VIDEO_CODECS, {}).without_weights(folder).spec
    return spec


def audio_codec_spec(folder: str | Path) -> AudioCodecSpec:
    """Of the codec in a folder; no weights are read."""
    with torch.device("meta"):
        spec: AudioCodecSpec = _class_in(folder, AUDIO_CODECS, {}).without_weights(folder).spec
    return spec


def video_codec_of(section: Mapping[str, Any]) -> VideoCodec:
    """From a preset's section `video_codec`."""
    made: VideoCodec = _made(section, VIDEO_CODECS, "video_codec")
    return made


def audio_codec_of(section: Mapping[str, Any]) -> AudioCodec:
    """From a preset's section `audio_codec`."""
    made: AudioCodec = _made(section, AUDIO_CODECS, "audio_codec")
    return made


def _made(section: Mapping[str, Any], codecs: Mapping[str, type[Any]], where: str) -> Any:
    kind, values = section["kind"], {key: value for key, value in section.items() if key != "kind"}
    if kind not in codecs:
        raise ValueError(f"{where}.kind is {kind!r}: use {' or '.join(codecs)}")
    codec = codecs[kind]
    if issubclass(codec, LightCodec):
        return codec(from_mapping(codec.config_class, values, where))
    return codec.load(**{("source" if key == "path" else key): value for key, value in values.items()})


def _class_in(folder: str | Path, codecs: Mapping[str, type[Any]], options: Mapping[str, Any]) -> type[Any]:
    path = Path(folder) / options.get("subfolder", "")
    if not (path / CONFIG).is_file():
        raise FileNotFoundError(f"{path / CONFIG} is missing: {folder} is not the folder of a codec")
    stored = {getattr(codec, "stored_as", codec.__name__): codec for codec in codecs.values()}
    name = str(read_config(path).get("_class_name"))
    if name not in stored:
        raise ValueError(f"{path / CONFIG} is of class {name!r}: use {' or '.join(stored)}")
    return stored[name]
