"""A tiny MLLM of the real class, made here: a Qwen2.5-Omni thinker with random weights and a tokenizer of its own.

It hears, sees and reads through the same code as the published models. Its weights are random but fixed by a seed, save
those of the first layer, which adds to every word the one before it: "green" of "a green ring" and of "a flat green
background" are then told apart, which a transformer that reads text without positions needs (docs/decisions/0074).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.config import from_mapping
from model.prompt_encoder.encoder import EncoderConfig, MLLMEncoder

CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
)
"""What is read, and one token for its end: roles and turns would be half of a short caption."""

TINY_LIMITS = EncoderConfig(max_pixels=64 * 64, max_frames=8)
"""As large as its eyes are taught on, 16 tokens a picture at most."""

SPECIAL_TOKENS = {
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "audio_token": "<|AUDIO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}

CORPUS = """
A red circle, a green square, a blue triangle, a yellow star, a white ring, an orange disc, a purple ball, a black box.
A small ball bounces between the walls; a large cube slides to the left and a tiny one rolls to the right, slowly.
The camera pans right, tilts up, zooms in on the subject and then holds still while the light turns warm.
Two people talk in a kitchen at night; she laughs, he pours water into a glass, and rain falls on the window.
A wooden impact, a metal clang, a glass chime, a soft thud; footsteps, wind, waves, birds, an engine, applause.
A woman says calmly: "Good morning, how are you today?" A man sings a slow song with piano and strings.
Shot 1 (0.00-2.50 s): wide shot, eye level. Shot 2 (2.50-5.00 s): close-up, low angle. Style: flat, noise, film.
Subjects: one. Action: it moves up and down. Setting: a plain grey background, day. Camera: static.
<text>OPEN</text> <sfx>metal impact at 0.52 s</sfx> <dialogue>hello</dialogue> <singing>la la</singing> <bgm>calm</bgm>
Keep the background of @video_1 and show @Actor-1 in it; use the voice of @audio_1, the look of @image_1.
Remove the watermark, the subtitle and the logo. Add snow. Make it evening. Change the style to a pencil drawing.
A red, orange, yellow, green, teal, blue, purple, pink, white, grey, brown, black, plain, striped, dotted, checkered or
marbled, wood, metal, glass, rubber or stone circle, square, triangle, star, heart, hexagon, ring, diamond or cross
moves left, moves right, moves up, moves down, rests, circles, zigzags, bounces, flat background, gradient background,
textured background, two-tone background of red, orange, yellow, green, teal, blue, purple, pink, white, grey, brown and
black, wood impacts, metal impacts, glass impacts, rubber impacts, stone impacts, wood impact, metal impact, glass
impact, rubber impact, stone impact at 0.1 and 0.9 s, music, rain, wind, surf, room tone, speech, singing, silence.
stays still, glides left, glides right, glides up, glides down, moves in a circle, zigzags up and down, bounces off the
floor and the walls, faces the camera and speaks, collide. calm plucked chords, bright plucked chords, beats per minute.
Main subject: a red wood circle. Other subject: an orange star. Type: shape, square. Action: glides right. Setting.
Camera: The camera is static. The camera pans. The camera pushes in slowly. The camera zooms out slowly. Environment:
Lighting: soft studio light. hard light, high in contrast. The look is poster-like, with a limited palette, a cartoon
with dark outlines, pixel art, high-contrast black and white. The setting is a flat blue background. In the background.
One hears wood impact sounds. There is the sound of room tone. Rain is heard. Wind is heard. Surf is heard.
Nothing moves. A low voice, a high voice says in English, German, French, Spanish, Italian, Russian, Mandarin, Japanese
or Korean.
"""
"""Eleven lines of how people ask, and then the rendered worlds' own words, each of which becomes one token."""


def encoder_of(section: Mapping[str, Any], directory: str | Path) -> MLLMEncoder:
    """From a preset's section: `path` is a folder or hub id; null builds the tiny encoder in `directory`.

    Other keys are `EncoderConfig`'s. A tiny encoder that is there already is loaded.
    """
    values = {key: value for key, value in section.items() if key not in ("kind", "path")}
    if section.get("path") is not None:
        return MLLMEncoder.load(section["path"], from_mapping(EncoderConfig, values, "encoder"))
    config = from_mapping(EncoderConfig, {**dataclasses.asdict(TINY_LIMITS), **values}, "encoder")
    if (Path(directory) / "config.json").is_file():
        return MLLMEncoder.load(directory, config)
    return build_tiny_encoder(directory, config=config)


def build_tiny_encoder(
    directory: str | Path, width: int = 64, layers: int = 2, seed: int = 0, config: EncoderConfig = TINY_LIMITS
) -> MLLMEncoder:
    """Write a tiny MLLM to `directory` and load it from there as any other."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    processor = _processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5OmniThinkerForConditionalGeneration(_config(processor.tokenizer, width, layers))
        _add_word_before(model.model.language_model)
    MLLMEncoder(model, processor, config).save(directory)
    return MLLMEncoder.load(directory, config)


_EYES, _PATCH = 3, 8
"""Layers, and pixels of a side of what they look at: four to a token, so that shapes of 20 pixels have edges."""
_ROPE_THETA = 10000.0
_SHARPNESS = 60.0
"""Of the attention to the word before: all others together get less than a hundredth."""
_WORD_BEFORE = 0.5
"""How much of it is added to a word, which counts 1."""


@torch.no_grad()
def _add_word_before(text: Any) -> None:
    """Set the first layer: every position attends to the one before it, whatever stands there, and adds what it holds,
    turned into directions of its own; words are of one length."""
    words, layer, heads = text.embed_tokens.weight, text.layers[0], text.config.num_attention_heads
    length = text.config.initializer_range
    words.mul_(length * torch.rsqrt(words.square().mean(1, keepdim=True) + 1e-12))
    attention, width = layer.self_attn, words.shape[1]
    half = width // heads // 2
    near = min(3, half)  # rotations that tell near positions apart
    turns = 1.0 / _ROPE_THETA ** (torch.arange(near) / half)  # per position
    query, key = torch.zeros(2 * half), torch.zeros(2 * half)
    query[:near] = _SHARPNESS**0.5
    key[:near], key[half : half + near] = _SHARPNESS**0.5 * turns.cos(), _SHARPNESS**0.5 * turns.sin()
    for projection, bias in ((attention.q_proj, query), (attention.k_proj, key)):
        projection.weight.zero_()
        projection.bias.copy_(bias.repeat(heads))
    attention.v_proj.weight.copy_(torch.linalg.qr(torch.randn(width, width))[0])
    attention.v_proj.bias.zero_()
    attention.o_proj.weight.copy_(_WORD_BEFORE * length * torch.eye(width))
    layer.mlp.down_proj.weight.zero_()


def train_tokenizer(vocabulary: int = 2048) -> Any:
    """Byte-level BPE trained on the built-in corpus: any text has tokens, and common words have one each."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    structure = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIAL_TOKENS.values()]
    trained.train_from_iterator(
        # Words with a space before them, and as they begin a line; of numbers, all pairs of digits.
        [*(f" {line}" for line in CORPUS.splitlines()), *CORPUS.split(), *(f"{number:02}" for number in range(100))],
        vocab_size=vocabulary,
        min_frequency=1,
        special_tokens=structure,
        show_progress=False,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=SPECIAL_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
    )


def _processor() -> Any:
    from transformers import Qwen2_5OmniProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor, WhisperFeatureExtractor

    pixels = {"shortest_edge": 28 * 28, "longest_edge": 64 * 64}
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels, patch_size=_PATCH),
        video_processor=Qwen2VLVideoProcessor(size=pixels, patch_size=_PATCH, cap_pixels_per_frame=False),
        feature_extractor=WhisperFeatureExtractor(feature_size=128, return_attention_mask=True, chunk_length=15),
        tokenizer=train_tokenizer(),
        chat_template=CHAT_TEMPLATE,
    )


def _config(tokenizer: Any, width: int, layers: int) -> Any:
    from transformers import Qwen2_5OmniThinkerConfig

    heads = 4
    head = width // heads
    return Qwen2_5OmniThinkerConfig(
        audio_config={
            "d_model": width,
            "encoder_layers": 1,
            "encoder_attention_heads": heads,
            "encoder_ffn_dim": 2 * width,
            "output_dim": width,
            "n_window": 100,
        },
        vision_config={
            "depth": _EYES,
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_heads": heads,
            "out_hidden_size": width,
            "fullatt_block_indexes": list(range(_EYES)),
            "patch_size": _PATCH,
            "initializer_range": 0.1,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "initializer_range": 0.2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": _ROPE_THETA,
                "mrope_section": [head // 8, head // 8, head // 2 - 2 * (head // 8)],
            },
        },
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        audio_token_index=tokenizer.audio_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id,
        vision_end_token_id=tokenizer.vision_eos_token_id,
        audio_start_token_id=tokenizer.audio_bos_token_id,
        audio_end_token_id=tokenizer.audio_eos_token_id,
    )
