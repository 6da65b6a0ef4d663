import cv2
import numpy as np
import pytest

from pipelines.curation.captions.requests import CaptionRequest

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def omni(tmp_path_factory):
    """A Qwen2.5-Omni thinker with random weights on disk: it sees and hears."""
    from model.prompt_encoder.tiny_encoder import build_tiny_encoder

    folder = tmp_path_factory.mktemp("omni")
    build_tiny_encoder(folder)
    return load(folder)


@pytest.fixture(scope="module")
def vl_folder(tmp_path_factory):
    """A Qwen2.5-VL with random weights on disk: it sees."""
    import transformers

    from model.prompt_encoder.tiny_encoder import CHAT_TEMPLATE, train_tokenizer

    folder = tmp_path_factory.mktemp("vl")
    tokenizer = train_tokenizer()
    pixels = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
    transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(size=pixels),
        video_processor=transformers.Qwen2VLVideoProcessor(size=pixels),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 2, 4]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id,
        vision_end_token_id=tokenizer.vision_eos_token_id,
    )
    torch.manual_seed(0)
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    return folder


def load(folder, max_tokens=6):
    from pipelines.curation.captions.local_model import LocalCaptioner

    return LocalCaptioner(str(folder), max_tokens=max_tokens)


def test_noise_from_a_model_that_sees_is_an_honest_error(vl_folder, request_for):
    captioner = load(vl_folder)
    requests = [request_for("a", audio=(np.zeros((1, 800), np.float32), 16_000)), request_for("b")]  # sound is left out
    results = captioner.caption(requests)
    assert [result.key for result in results] == ["a", "b"]
    for result in results:
        assert result.caption is None
        assert "not a caption" in result.error.reason
        assert result.error.remedy
        assert 2 <= result.tokens <= 12  # the first try and its repair
        assert result.seconds > 0


def test_frames_and_sound_reach_the_model(omni, request_for):
    """The same words about other pictures or another sound give other inputs and other scores for the next token."""
    tone = (np.sin(np.arange(24_000) / 9)[None].astype(np.float32), 24_000)
    plain = request_for("a")
    brighter = cv2.imencode(".jpg", np.full((48, 64, 3), 220, np.uint8))[1].tobytes()
    other = CaptionRequest("a", [plain.frames[0], brighter], None, plain.measurements)
    heard = CaptionRequest("a", plain.frames, tone, plain.measurements)

    def scores(request):
        with torch.no_grad():
            return omni.writer.model(**omni._inputs(request, None)).logits[0, -1]

    assert torch.equal(scores(plain), scores(plain))
    assert not torch.allclose(scores(plain), scores(other))
    assert "input_features" in omni._inputs(heard, None)
    assert not torch.allclose(scores(plain), scores(heard))


def test_what_the_model_writes_is_read_as_a_reply(omni, request_for, reply, monkeypatch):
    def generate(input_ids, **_):
        written = omni.writer.processor.tokenizer(reply("a"), return_tensors="pt").input_ids
        return torch.cat([input_ids, written], dim=1)

    monkeypatch.setattr(omni.writer.model, "generate", generate)
    own, other = omni.caption([request_for("a"), request_for("b")])
    assert own.caption.structured.subjects[0].type == "animal, fox"
    assert own.caption.caption_source == "model"
    assert other.caption is None
    assert "names clip 'a'" in other.error.reason


def test_pictures_that_are_none_cost_their_clip_only(vl_folder, request_for):
    bad, good = load(vl_folder).caption([CaptionRequest("bad", [b"no jpeg"]), request_for("good")])
    assert "could not be given to the model" in bad.error.reason
    assert "not a caption" in good.error.reason


def test_pickled_weights_and_unknown_models_are_refused(vl_folder, tmp_path):
    import json
    import shutil

    folder = tmp_path / "pickled"
    shutil.copytree(vl_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no \.safetensors"):
        load(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="is a bert; captions know"):
        load(folder)
    with pytest.raises(ValueError, match=r"captions\.model is empty"):
        load("")
