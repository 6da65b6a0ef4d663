"""The tiny encoder tells a word by itself and by the one before it."""

import dataclasses

import pytest
import torch

from model.prompt_encoder.encoder import MLLMEncoder
from model.prompt_encoder.tiny_encoder import TINY_LIMITS, build_tiny_encoder

PROMPT = "A green heart moves left, flat purple background."
SWAPPED = "A purple heart moves left, flat green background."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    build_tiny_encoder(folder)
    return folder


def reader(folder, layer):
    return MLLMEncoder.load(folder, dataclasses.replace(TINY_LIMITS, layer=layer))


def test_a_state_is_a_word_and_half_of_the_one_before(folder):
    ordered = reader(folder, 1)
    words, _ = reader(folder, 0).encode(PROMPT)
    turned = ordered.model.model.language_model.layers[0].self_attn.v_proj.weight
    torch.testing.assert_close(turned @ turned.T, torch.eye(len(turned)), atol=1e-5, rtol=0)
    wanted = words + 0.5 * torch.cat([words[:1], words[:-1]]) @ turned.T
    wanted *= torch.rsqrt(wanted.square().mean(1, keepdim=True))
    torch.testing.assert_close(ordered.encode(PROMPT)[0], wanted, atol=0.01, rtol=0)


def test_prompts_of_the_same_words_are_told_apart_by_their_order(folder):
    words, ordered = reader(folder, 0), reader(folder, 1)

    def sorted_states(encoder, prompt):
        states = encoder.encode(prompt)[0]
        return states[states[:, 0].argsort()]

    torch.testing.assert_close(sorted_states(words, PROMPT), sorted_states(words, SWAPPED))
    apart = (sorted_states(ordered, PROMPT) - sorted_states(ordered, SWAPPED)).square().mean(1)
    assert apart.max() > 0.2
