"""Codecs from a folder, a hub id, or a preset's section. A folder's config.json names the class that made it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.checksums import read_json
from model.codecs.oobleck import OobleckAudioCodec
from model.codecs.tiny_audio import TinyAudioCodec, TinyAudioConfig
from model.codecs.tiny_video import TinyVideoCodec, TinyVideoConfig
from model.codecs.wan import WanVideoCodec
from model.config import from_mapping

VIDEO_CLASSES = {"TinyVideoCodec": TinyVideoCodec, "AutoencoderKLWan": WanVideoCodec}
AUDIO_CLASSES = {"TinyAudioCodec": TinyAudioCodec, "AutoencoderOobleck": OobleckAudioCodec}


def load_video_codec(source: str | Path, **options: Any) -> TinyVideoCodec | WanVideoCodec:
    """The codec in a folder, or `AutoencoderKLWan` by hub id; `options` (subfolder, tile, ...) go to its `load`."""
    loaded: TinyVideoCodec | WanVideoCodec = _class_in(source, VIDEO_CLASSES, "AutoencoderKLWan", options).load(
        source, **options
    )
    return loaded


def load_audio_codec(source: str | Path, **options: Any) -> TinyAudioCodec | OobleckAudioCodec:
    """The codec in a folder, or `AutoencoderOobleck` by hub id; `options` (subfolder, ...) go to its `load`."""
    loaded: TinyAudioCodec | OobleckAudioCodec = _class_in(source, AUDIO_CLASSES, "AutoencoderOobleck", options).load(
        source, **options
    )
    return loaded


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


def _class_in(source: str | Path, classes: Mapping[str, Any], of_hub: str, options: Mapping[str, Any]) -> Any:
    if not Path(source).is_dir():
        return classes[of_hub]
    path = Path(source) / options.get("subfolder", "") / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {source} is not the folder of a codec")
    name = str(read_json(path).get("_class_name"))
    if name not in classes:
        raise ValueError(f"{path} is of class {name!r}: use {' or '.join(classes)}")
    return classes[name]


def _split(section: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return section["kind"], {key: value for key, value in section.items() if key != "kind"}


def _with_source(values: dict[str, Any]) -> dict[str, Any]:
    return {("source" if key == "path" else key): value for key, value in values.items()}
