"""What eyes and ears of an MLLM make of references, held to the words that name it.

Published MLLMs have towers that speak their language model's language. Those of the tiny one begin at random: what they
make of a red ring is no more like "red ring" than like anything else, and a network that was taught by words reads
nothing in it (docs/decisions/0156-eyes-that-read.md).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.conditioning.references import Reference
from model.prompt_encoder.encoder import MLLMEncoder

SHARPNESS = 16.0
"""Of the comparison with every word: tokens at right angles to all but one are that word to 0.9999."""


@dataclass(frozen=True)
class Perceived:
    """Tokens (N, D) as they stand among words, and which of the references each is of, (N,)."""

    tokens: Tensor
    owners: Tensor


@contextmanager
def learning_towers(encoder: MLLMEncoder) -> Iterator[list[nn.Parameter]]:
    """The weights of eyes and ears, which may be changed until the end; nothing else of the MLLM ever is."""
    model = encoder.model.model
    towers = [tower for name in ("visual", "audio_tower") if (tower := getattr(model, name, None)) is not None]
    weights = [weight for tower in towers for weight in tower.parameters()]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield weights
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def perceive(encoder: MLLMEncoder, references: Sequence[Reference]) -> Perceived:
    """What stands in the place of the references when a prompt is read with them, by kind: pictures, clips, sounds."""
    media: dict[str, list[tuple[int, Any]]] = {"image": [], "video": [], "audio": []}
    for number, reference in enumerate(references):
        for kind, medium in encoder.media_of(reference):
            media[kind].append((number, medium))
    read = {"image": _pictures, "video": _clips, "audio": _sounds}
    found = [read[kind](encoder, given) for kind, given in media.items() if given]
    return Perceived(torch.cat([one.tokens for one in found]), torch.cat([one.owners for one in found]))


def word_ids(encoder: MLLMEncoder, words: str) -> Tensor:
    """The tokens of words within a sentence."""
    return torch.tensor(encoder.processor.tokenizer(f" {words.strip()}")["input_ids"])


def reading_loss(encoder: MLLMEncoder, perceived: Perceived, words: Sequence[Tensor], of: Sequence[int]) -> Tensor:
    """How far the tokens of each reference are from its words, in whatever order: every word has its share of the
    tokens, and where these are all of the words that there are, every token is some of them.

    `of` counts the words that there are, known or not. Order is left free, for what reads them has no positions, and
    eyes with relative ones cannot count their tokens.
    """
    chances = _chances(encoder, perceived)
    lost = []
    for number, (wanted, count) in enumerate(zip(words, of, strict=True)):
        known = wanted.unique().to(chances.device)
        mine = chances[perceived.owners == number][:, known]
        lost.append(-(mine.mean(0).clamp(max=1 / count) + 1e-6).log().mean())
        if count <= len(known):
            lost[-1] = lost[-1] - (mine.sum(1) + 1e-6).log().mean()
    return torch.stack(lost).mean()


@torch.no_grad()
def words_found(encoder: MLLMEncoder, perceived: Perceived, words: Sequence[Tensor]) -> list[float]:
    """Of each reference, the share of its words that are its tokens' likeliest ones."""
    chances = _chances(encoder, perceived)
    shares = []
    for number, wanted in enumerate(words):
        wanted = wanted.unique()
        likeliest = chances[perceived.owners == number].mean(0).topk(len(wanted)).indices.cpu()
        shares.append(torch.isin(wanted, likeliest).float().mean().item())
    return shares


def _chances(encoder: MLLMEncoder, perceived: Perceived) -> Tensor:
    """(N, vocabulary): which word each token is."""
    vocabulary = F.normalize(encoder.model.get_input_embeddings().weight.float(), dim=1)
    return (SHARPNESS * F.normalize(perceived.tokens.float(), dim=1) @ vocabulary.T).softmax(1)


def _pictures(encoder: MLLMEncoder, given: list[tuple[int, Any]]) -> Perceived:
    made = encoder.processor.image_processor(images=[image for _, image in given], return_tensors="pt")
    grids = made["image_grid_thw"]
    return _by_grid(encoder, encoder.model.get_image_features(made["pixel_values"], grids), grids, given)


def _clips(encoder: MLLMEncoder, given: list[tuple[int, Any]]) -> Perceived:
    videos = [frames for _, frames in given]
    made = encoder.processor.video_processor(videos=videos, do_sample_frames=False, return_tensors="pt")
    grids = made["video_grid_thw"]
    return _by_grid(encoder, encoder.model.get_video_features(made["pixel_values_videos"], grids), grids, given)


def _by_grid(encoder: MLLMEncoder, features: Any, grids: Tensor, given: list[tuple[int, Any]]) -> Perceived:
    counts = grids.prod(1) // encoder.model.model.visual.spatial_merge_size**2
    return Perceived(torch.cat(list(features.pooler_output)), _owners(given, counts))


def _sounds(encoder: MLLMEncoder, given: list[tuple[int, Any]]) -> Perceived:
    extractor = encoder.processor.feature_extractor
    made = extractor(
        [sound for _, sound in given],
        sampling_rate=extractor.sampling_rate,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )
    heard = encoder.model.get_audio_features(made["input_features"], made["attention_mask"])
    lengths = encoder.model.model.audio_tower._get_feat_extract_output_lengths(made["attention_mask"].sum(1))[1]
    return Perceived(heard.last_hidden_state, _owners(given, lengths))


def _owners(given: list[tuple[int, Any]], counts: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.tensor([number for number, _ in given]), counts)
