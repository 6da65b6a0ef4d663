import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.conditioning import AudioReference, ImageReference, VideoReference
from model.prompt_encoder.encoder import EncoderConfig, MLLMEncoder
from model.prompt_encoder.tiny_encoder import TINY_LIMITS, build_tiny_encoder, train_tokenizer

pytestmark = pytest.mark.slow

IMAGE = ImageReference("@image_1", [torch.linspace(-1, 1, 3 * 40 * 40).view(3, 40, 40)])
VIDEO = VideoReference("@video_1", torch.linspace(-1, 1, 3 * 9 * 40 * 40).view(3, 9, 40, 40))
SOUND = AudioReference("@audio_1", torch.sin(torch.arange(44100) / 20).expand(2, -1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("encoder")


@pytest.fixture(scope="module")
def encoder(folder):
    return build_tiny_encoder(folder)


def test_hidden_states_are_the_chosen_layer_at_unit_scale(encoder, folder):
    hidden, mask = encoder.encode("a red circle")
    assert hidden.shape == (mask.numel(), encoder.width)
    assert mask.all()
    inputs = encoder.processor(text=["a red circle<|im_end|>"], return_tensors="pt")
    layers = encoder.model(**inputs, output_hidden_states=True).hidden_states
    assert len(layers) == 3
    expected = layers[-2][0] / layers[-2][0].square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(hidden, expected, rtol=1e-3, atol=1e-3)
    last = MLLMEncoder.load(folder, EncoderConfig(layer=-1)).encode("a red circle")[0]
    assert not torch.allclose(last, hidden, atol=0.1)
    with pytest.raises(ValueError, match="layer 5 does not exist: this MLLM has 2"):
        MLLMEncoder.load(folder, EncoderConfig(layer=5))


def test_prompts_are_told_apart_and_read_alike_twice(encoder):
    red, blue = encoder.encode("a red circle")[0], encoder.encode("a blue circle")[0]
    assert red.shape == blue.shape
    assert (red - blue).abs().amax(1).max() > 0.5
    assert torch.equal(red, encoder.encode("a red circle")[0])


@pytest.mark.parametrize("reference", [IMAGE, VIDEO, SOUND], ids=["image", "video", "audio"])
def test_references_are_seen_and_heard(encoder, reference):
    prompt = f"like {reference.tag}"
    hidden, _ = encoder.encode(prompt, [reference])
    assert len(hidden) > len(encoder.encode(prompt)[0])
    field = {"@image_1": "images", "@video_1": "frames", "@audio_1": "waveform"}[reference.tag]
    value = getattr(reference, field)
    other = [-value[0]] if field == "images" else value.flip(1)
    changed, _ = encoder.encode(prompt, [type(reference)(reference.tag, other)])
    assert changed.shape == hidden.shape
    assert (changed - hidden).abs().max() > 1e-3


def test_several_media_go_in_together_and_each_needs_its_tag(encoder):
    hidden, _ = encoder.encode("@image_1 moves as in @video_1 with @audio_1", [IMAGE, VIDEO, SOUND])
    assert hidden.isfinite().all()
    with pytest.raises(ValueError, match="does not mention @video_1"):
        encoder.encode("@image_1 moves", [IMAGE, VIDEO])


def test_bars_are_drawn_of_slow_loading_alone(folder, monkeypatch, capsys):
    MLLMEncoder.load(folder, TINY_LIMITS)
    assert "Loading weights" not in capsys.readouterr().err
    monkeypatch.setattr("model.prompt_encoder.encoder.BARS_AFTER_S", 0.0)
    MLLMEncoder.load(folder, TINY_LIMITS)
    assert "Loading weights" not in capsys.readouterr().err, "no terminal, no bar"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    MLLMEncoder.load(folder, TINY_LIMITS)
    assert "Loading weights" in capsys.readouterr().err


def test_a_loaded_encoder_reads_as_the_one_that_was_saved(encoder, folder, tmp_path):
    loaded = MLLMEncoder.load(folder, TINY_LIMITS)
    assert loaded.identity == encoder.identity
    assert torch.equal(loaded.encode("a red circle")[0], encoder.encode("a red circle")[0])
    assert build_tiny_encoder(tmp_path / "again").identity == encoder.identity
    assert build_tiny_encoder(tmp_path / "other", seed=1).identity != encoder.identity
    assert MLLMEncoder.load(folder, EncoderConfig(layer=-1)).identity != encoder.identity


def test_common_words_have_one_token_and_any_text_comes_back():
    tokenizer = train_tokenizer()
    for word in ("red", "circle", "bounces", "background", "impacts", "Environment", "floor"):
        assert len(tokenizer.encode(f" {word}")) == len(tokenizer.encode(word)) == 1
    for text in ("a red circle", "Grüße, 世界! @image_1", "<sfx>thud</sfx>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def tiny_text(**changes):
    return {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        **changes,
    }


def test_qwen3_vl_loads_by_path_and_reads_audio_references_by_name_only(encoder, tmp_path):
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    tokenizer = train_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    model = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=tiny_text(vocab_size=len(tokenizer), rope_parameters=rope),
            vision_config={**vision, "deepstack_visual_indexes": [0], "num_position_embeddings": 64},
            image_token_id=tokenizer.image_token_id,
            video_token_id=tokenizer.video_token_id,
            vision_start_token_id=tokenizer.vision_bos_token_id,
            vision_end_token_id=tokenizer.vision_eos_token_id,
        )
    )
    tokenizer.image_token, tokenizer.video_token = "<|IMAGE|>", "<|VIDEO|>"
    tokenizer.vision_start_token, tokenizer.vision_end_token = "<|vision_bos|>", "<|vision_eos|>"
    processor = Qwen3VLProcessor(
        image_processor=type(encoder.processor.image_processor)(patch_size=16),
        video_processor=Qwen3VLVideoProcessor(),
        tokenizer=tokenizer,
        chat_template=encoder.processor.chat_template,
    )
    MLLMEncoder(model, processor, TINY_LIMITS).save(tmp_path)
    loaded = MLLMEncoder.load(tmp_path, TINY_LIMITS)
    assert not loaded.hears
    hidden, _ = loaded.encode("@image_1 moves as in @video_1", [IMAGE, VIDEO])
    assert hidden.shape[1] == 32
    assert len(hidden) > len(loaded.encode("@image_1 moves as in @video_1")[0])
    assert len(loaded.encode("with @audio_1", [SOUND])[0]) < len(loaded.encode("with @audio_1")[0]) + 12


def test_qwen3_omni_loads_its_thinker_by_path_and_hears(encoder, tmp_path):
    from transformers import (
        Qwen3OmniMoeProcessor,
        Qwen3OmniMoeThinkerConfig,
        Qwen3OmniMoeThinkerForConditionalGeneration,
    )

    parts = encoder.processor
    tokenizer = parts.tokenizer
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    sides = {"intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32, "num_position_embeddings": 64}
    model = Qwen3OmniMoeThinkerForConditionalGeneration(
        Qwen3OmniMoeThinkerConfig(
            audio_config={"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
            | {"output_dim": 32, "downsample_hidden_size": 16},
            vision_config={"depth": 1, "hidden_size": 32, "deepstack_visual_indexes": [0], **sides},
            text_config=tiny_text(vocab_size=len(tokenizer), rope_parameters=rope, **experts),
            image_token_id=tokenizer.image_token_id,
            video_token_id=tokenizer.video_token_id,
            audio_token_id=tokenizer.audio_token_id,
            vision_start_token_id=tokenizer.vision_bos_token_id,
            audio_start_token_id=tokenizer.audio_bos_token_id,
        )
    )
    pixels = {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
    processor = Qwen3OmniMoeProcessor(
        image_processor=type(parts.image_processor)(patch_size=16, size=pixels),
        video_processor=type(parts.video_processor)(patch_size=16, size=pixels, cap_pixels_per_frame=False),
        feature_extractor=parts.feature_extractor,
        tokenizer=tokenizer,
        chat_template=parts.chat_template,
    )
    MLLMEncoder(model, processor, TINY_LIMITS).save(tmp_path)
    loaded = MLLMEncoder.load(tmp_path, TINY_LIMITS)
    prompt = "@image_1 moves as in @video_1 with @audio_1"
    hidden, _ = loaded.encode(prompt, [IMAGE, VIDEO, SOUND])
    assert loaded.hears
    assert hidden.isfinite().all()
    assert len(hidden) > len(loaded.encode(prompt, [IMAGE, VIDEO])[0]) > len(loaded.encode(prompt)[0])


def test_of_a_whole_omni_checkpoint_the_thinker_is_read(encoder, tmp_path):
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

    config = Qwen2_5OmniConfig(thinker_config=encoder.model.config.to_dict(), enable_audio_output=False)
    whole = Qwen2_5OmniForConditionalGeneration(config)
    whole.thinker.load_state_dict(encoder.model.state_dict())
    whole.save_pretrained(tmp_path)
    encoder.processor.save_pretrained(tmp_path)
    loaded = MLLMEncoder.load(tmp_path, TINY_LIMITS)
    assert torch.equal(loaded.encode("a red circle")[0], encoder.encode("a red circle")[0])


def test_missing_weights_are_not_replaced_by_random_ones(encoder, tmp_path):
    encoder.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights = {name: value for name, value in weights.items() if "layers.1.mlp.up_proj" not in name}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "checksums.json").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 weights of Qwen2_5OmniThinker.*layers\.1\.mlp\.up_proj"):
        MLLMEncoder.load(tmp_path)


def test_other_architectures_are_refused_by_name(tmp_path):
    from transformers import GPT2Config

    GPT2Config(n_layer=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'gpt2' model: use one of qwen2_5_omni"):
        MLLMEncoder.load(tmp_path)
