"""Codecs from a folder, whose config.json names the class that made it, or from a preset's section."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import CONFIG, read_config
from model.codecs.oobleck import OobleckAudioCodec
from model.codecs.tiny_audio import TinyAudioCodec, TinyAudioConfig
from model.codecs.tiny_video import TinyVideoCodec, TinyVideoConfig
from model.codecs.wan import WanVideoCodec
from model.config import from_mapping
from model.shapes import AudioCodecSpec, VideoCodecSpec

VIDEO_CLASSES = {"TinyVideoCodec": TinyVideoCodec, "AutoencoderKLWan": WanVideoCodec}
AUDIO_CLASSES = {"TinyAudioCodec": TinyAudioCodec, "AutoencoderOobleck": OobleckAudioCodec}


def load_video_codec(folder: str | Path, **options: Any) -> TinyVideoCodec | WanVideoCodec:
    """The codec in a folder; `options` (subfolder, tile, ...) go to its `load`. No hub is asked for one."""
    loaded: TinyVideoCodec | WanVideoCodec = _class_in(folder, VIDEO_CLASSES, options).load(folder, **options)
    return loaded


def load_audio_codec(folder: str | Path, **options: Any) -> TinyAudioCodec | OobleckAudioCodec:
    """The codec in a folder; `options` (subfolder, ...) go to its `load`. No hub is asked for one."""
    loaded: TinyAudioCodec | OobleckAudioCodec = _class_in(folder, AUDIO_CLASSES, options).load(folder, **options)
    return loaded


def video_codec_spec(folder: str | Path) -> VideoCodecSpec:
    """Of the codec in a folder; no weights are read."""
    with torch.device("meta"):
        spec: VideoCodecSpec = _class_in(folder, VIDEO_CLASSES, {}).without_weights(folder).spec
    return spec


def audio_codec_spec(folder: str | Path) -> AudioCodecSpec:
    """Of the codec in a folder; no weights are read."""
    with torch.device("meta"):
        spec: AudioCodecSpec = _class_in(folder, AUDIO_CLASSES, {}).without_weights(folder).spec
    return spec


def video_codec_of(section: Mapping[str, Any]) -> TinyVideoCodec | WanVideoCodec:
    """From a preset's section: `kind: tiny_video` with its sizes is built anew, `kind: wan` is loaded from `path`."""
    kind, values = _split(section)
    if kind == "tiny_video":
        return TinyVideoCodec(from_mapping(TinyVideoConfig, values, "video_codec"))
    if kind == "wan":
        return WanVideoCodec.load(**_with_source(values))
    raise ValueError(f"video_codec.kind is {kind!r}: use tiny_video or wan")


def audio_codec_of(section: Mapping[str, Any]) -> TinyAudioCodec | OobleckAudioCodec:
    """From a preset's section: `kind: tiny_audio` with its sizes is built anew, `kind: oobleck` loaded from `path`."""
    kind, values = _split(section)
    if kind == "tiny_audio":
        return TinyAudioCodec(from_mapping(TinyAudioConfig, values, "audio_codec"))
    if kind == "oobleck":
        return OobleckAudioCodec.load(**_with_source(values))
    raise ValueError(f"audio_codec.kind is {kind!r}: use tiny_audio or oobleck")


def _class_in(folder: str | Path, classes: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    path = Path(folder) / options.get("subfolder", "")
    if not (path / CONFIG).is_file():
        raise FileNotFoundError(f"{path / CONFIG} is missing: {folder} is not the folder of a codec")
    name = str(read_config(path).get("_class_name"))
    if name not in classes:
        raise ValueError(f"{path / CONFIG} is of class {name!r}: use {' or '.join(classes)}")
    return classes[name]


def _split(section: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return section["kind"], {key: value for key, value in section.items() if key != "kind"}


def _with_source(values: dict[str, Any]) -> dict[str, Any]:
    return {("source" if key == "path" else key): value for key, value in values.items()}
