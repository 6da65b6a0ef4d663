"""Real loading code on tiny random checkpoints: what a model says is noise, how it is asked and read is not."""

import numpy as np
import pytest
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from pipelines.curation.audio.asr import Transcriber
from pipelines.curation.audio.tagger import AudioTagger, class_of_tag

LANGUAGES = ("en", "zh", "de")


def _bytes_as_letters() -> list[str]:
    """The 256 letters that byte-level BPE writes bytes as (the GPT-2 table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) if byte in plain else chr(256 + sum(b not in plain for b in range(byte))) for byte in range(256)]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A Whisper of 20 thousand weights whose vocabulary is bytes, specials and timestamps."""
    specials = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{name}|>" for name in LANGUAGES)]
    specials += ["<|translate|>", "<|transcribe|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    tokens = [*_bytes_as_letters(), *specials, *(f"<|{step * 0.02:.2f}|>" for step in range(1501))]
    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = WhisperTokenizer(vocab={token: ids[token] for token in tokens[:256]}, merges=[])
    tokenizer.add_tokens(specials, special_tokens=True)
    tokenizer.add_tokens(tokens[256 + len(specials) :])
    assert tokenizer.convert_tokens_to_ids(tokens) == list(range(len(tokens)))
    torch.manual_seed(0)
    end = ids["<|endoftext|>"]
    bounds = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end}
    bounds["decoder_start_token_id"] = ids["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=len(tokens), d_model=16, encoder_layers=1, decoder_layers=1, num_mel_bins=80,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, **bounds,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        is_multilingual=True,
        lang_to_id={f"<|{name}|>": ids[f"<|{name}|>"] for name in LANGUAGES},
        task_to_id={task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        max_initial_timestamp_index=50,
        **bounds,
    )
    folder = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def transcriber(whisper):
    return Transcriber(whisper)


def test_transcript_of_a_long_sound_is_cut_at_pauses_and_stays_on_its_clock(transcriber):
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.1, (2, 40 * 8000)).astype(np.float32)
    spans = []
    decode = transcriber._decode
    transcriber._decode = lambda windows, spans_, *rest: spans.extend(spans_) or decode(windows, spans_, *rest)
    try:
        found = transcriber(samples, 8000, speech=[(0.0, 20.0), (22.0, 40.0)], language="de", max_new_tokens=20)
    finally:
        del transcriber._decode
    assert spans == [(0.0, 21.0), (21.0, 40.0)]
    assert found.language == "de"
    assert found.segments
    assert "<|" not in found.text
    assert found.text == " ".join(segment.text for segment in found.segments)
    assert all(0 <= segment.start_s <= segment.end_s <= 40 for segment in found.segments)


def test_language_is_heard_when_not_given(transcriber, sound):
    found = transcriber(sound("speech")[:, : 2 * 44100], 44100, max_new_tokens=8)
    assert found.language in LANGUAGES


@pytest.fixture(scope="module")
def ast(tmp_path_factory):
    tags = ["Speech", "Male singing", "Acoustic guitar", "Dog", "Silence", "Steelpan music"]
    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_length=128,
        id2label=dict(enumerate(tags)), label2id={tag: index for index, tag in enumerate(tags)},
    )  # fmt: skip
    model = ASTForAudioClassification(config)
    folder = tmp_path_factory.mktemp("ast")
    model.save_pretrained(folder)
    ASTFeatureExtractor(max_length=128).save_pretrained(folder)
    return folder


def test_tagger_reads_the_class_of_the_loudest_tag(ast, sound):
    tagger = AudioTagger(ast)
    head = tagger._model.classifier.dense
    for tag, label in ((0, "speech"), (1, "singing"), (2, "music"), (5, "music"), (3, "sound_effect"), (4, "silence")):
        with torch.no_grad():
            head.bias.copy_(torch.full((6,), -4.0).index_fill_(0, torch.tensor([tag]), 4.0))
        found = tagger(sound("impacts"), 44100)
        assert found.label == label
        assert found.confidence > 0.5


@pytest.mark.parametrize(
    ("tag", "label"),
    [
        ("Child speech, kid speaking", "speech"),
        ("Choir", "singing"),
        ("Electric piano", "music"),
        ("Rain", "sound_effect"),
    ],
)
def test_tags_fall_into_classes(tag, label):
    assert class_of_tag(tag) == label
