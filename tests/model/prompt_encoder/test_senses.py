"""What eyes and ears make of references is what a prompt is read with, and can be held to words."""

import dataclasses

import pytest
import torch

from model.conditioning import AudioReference, ImageReference, VideoReference
from model.prompt_encoder.encoder import MLLMEncoder
from model.prompt_encoder.senses import Perceived, learning_towers, perceive, reading_loss, word_ids, words_found
from model.prompt_encoder.tiny_encoder import TINY_LIMITS, build_tiny_encoder

IMAGE = ImageReference("@image_1", [torch.linspace(-1, 1, 3 * 40 * 56).view(3, 40, 56)])
VIDEO = VideoReference("@video_1", torch.linspace(-1, 1, 3 * 9 * 40 * 40).view(3, 9, 40, 40))
SOUND = AudioReference("@audio_1", torch.sin(torch.arange(22050) / 20).expand(2, -1))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    build_tiny_encoder(folder)
    return MLLMEncoder.load(folder, dataclasses.replace(TINY_LIMITS, layer=0))


@pytest.mark.parametrize("reference", [IMAGE, VIDEO, SOUND], ids=["image", "video", "audio"])
def test_what_is_perceived_stands_in_the_prompt(encoder, reference):
    states, _ = encoder.encode(f"like {reference.tag}", [reference])
    tokens = perceive(encoder, [reference]).tokens
    wanted = tokens * torch.rsqrt(tokens.square().mean(1, keepdim=True) + 1e-6)
    places = [at for at in range(len(states) - len(wanted) + 1) if torch.allclose(states[at], wanted[0], atol=1e-4)]
    assert places, "the first token of what is perceived is nowhere in the prompt"
    torch.testing.assert_close(states[places[0] : places[0] + len(wanted)], wanted, atol=1e-4, rtol=1e-4)


def test_tokens_of_several_references_know_their_owners(encoder):
    together = perceive(encoder, [SOUND, IMAGE, VIDEO, IMAGE])
    for number, reference in enumerate([SOUND, IMAGE, VIDEO, IMAGE]):
        alone = perceive(encoder, [reference]).tokens
        torch.testing.assert_close(together.tokens[together.owners == number], alone, atol=1e-5, rtol=1e-5)


def test_the_loss_is_least_where_tokens_are_the_words_in_any_order(encoder):
    words = word_ids(encoder, "red ring")
    others = word_ids(encoder, "blue star")
    assert len(words) == 2
    vectors = encoder.model.get_input_embeddings().weight
    owners = torch.zeros(4, dtype=torch.long)

    def lost(*ids):
        return reading_loss(encoder, Perceived(vectors[torch.tensor(ids)], owners), [words], [2]).item()

    red, ring, blue = *words.tolist(), others[0].item()
    assert lost(red, ring, red, ring) == pytest.approx(lost(ring, ring, red, red), abs=1e-5)
    assert lost(red, ring, red, ring) < 0.75, "half of the tokens are each word: log 2, and nothing else"
    assert lost(red, red, red, ring) < lost(red, red, red, red), "a word that no token says is lost"
    assert lost(red, ring, red, ring) < lost(red, ring, red, blue), "a token that says another word is lost"


def test_of_words_that_are_not_all_known_each_has_its_share(encoder):
    ring = word_ids(encoder, "ring")
    vectors, owners = encoder.model.get_input_embeddings().weight, torch.zeros(4, dtype=torch.long)
    red, blue, star = word_ids(encoder, "red blue star").tolist()

    def lost(*ids):
        return reading_loss(encoder, Perceived(vectors[torch.tensor(ids)], owners), [ring], [2]).item()

    at = ring.item()
    assert lost(at, at, red, blue) == pytest.approx(lost(at, at, at, at), abs=1e-3), "half of them is all it asks for"
    assert lost(at, red, blue, star) > lost(at, at, red, blue) + 0.5


def test_a_word_is_found_where_it_is_among_the_likeliest(encoder):
    words = word_ids(encoder, "red ring")
    red, ring = words.tolist()
    blue = word_ids(encoder, "blue").item()
    vectors, owners = encoder.model.get_input_embeddings().weight, torch.zeros(4, dtype=torch.long)
    assert words_found(encoder, Perceived(vectors[torch.tensor([red, red, ring, red])], owners), [words]) == [1.0]
    assert words_found(encoder, Perceived(vectors[torch.tensor([red, red, blue, red])], owners), [words]) == [0.5]


def test_only_eyes_and_ears_learn_and_only_for_a_while(encoder):
    with learning_towers(encoder) as weights:
        learning = {name for name, weight in encoder.model.named_parameters() if weight.requires_grad}
        assert len(learning) == len(weights)
        assert {name.split(".")[1] for name in learning} == {"visual", "audio_tower"}
    assert not any(weight.requires_grad for weight in encoder.model.parameters())
