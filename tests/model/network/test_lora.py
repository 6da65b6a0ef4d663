"""Adapters as files, merged; what peft makes of the same files is tested in tests/training/learners/test_lora.py."""

import json

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoint import save_transformer, saved_identity, transformer_identity
from model.checksums import CheckpointError
from model.config import TransformerConfig
from model.generator import Generator
from model.network.lora import load_lora, merge_lora, merged
from model.network.mmdit import MMDiT

CONFIG = TransformerConfig(32, 2, 1, 1, 8, 4, 4)
LAYER = "layers.0.audio.streams.media_attention.qkv"
OTHER = "layers.1.video.text_attention.kv"


def write(folder, *, base=None, shapes=None, **config):
    """A rank 2 adapter of two layers."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(7)
    shapes = shapes or {LAYER: (96, 32), OTHER: (64, 32)}
    tensors = {}
    for name, (out, width) in shapes.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(2, width)
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, 2)
    metadata = {"format": "pt"} | ({"base_identity": base} if base else {})
    save_file(tensors, folder / "adapter_model.safetensors", metadata=metadata)
    values = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "bias": "none"} | config
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return tensors


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MMDiT(CONFIG)


@pytest.mark.parametrize(("options", "scaling"), [({}, 1.5), ({"use_rslora": True}, 3 / 2**0.5)])
def test_weights_gain_the_scaled_product_and_nothing_else_changes(model, tmp_path, options, scaling):
    tensors = write(tmp_path, **options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    merge_lora(model, load_lora(tmp_path), scale=0.5)
    for name, value in model.state_dict().items():
        layer = name.removesuffix(".weight")
        update = torch.zeros_like(value)
        if layer in (LAYER, OTHER) and name != layer:
            down, up = (tensors[f"base_model.model.{layer}.lora_{part}.weight"].double() for part in "AB")
            update = 0.5 * scaling * torch.einsum("or,ri->oi", up, down)
        assert torch.allclose(value.double(), before[name].double() + update, atol=1e-5)


def test_weights_of_low_precision_are_rounded_once(model, tmp_path):
    tensors = write(tmp_path)
    exact = model.get_submodule(LAYER).weight.detach().bfloat16().double()
    down, up = (tensors[f"base_model.model.{LAYER}.lora_{part}.weight"].double() for part in "AB")
    model = model.bfloat16()
    merge_lora(model, load_lora(tmp_path))
    merged = model.get_submodule(LAYER).weight
    assert merged.dtype == torch.bfloat16
    assert ((merged.double() - (exact + 1.5 * up @ down)).abs() <= 2**-8 * (exact + 1.5 * up @ down).abs()).all()


def test_an_adapter_that_does_not_fit_changes_nothing(model, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    write(tmp_path, shapes={LAYER: (96, 32), OTHER: (64, 16), "layers.9.video.text_attention.q": (32, 32)})
    with pytest.raises(CheckpointError) as refused:
        merge_lora(model, load_lora(tmp_path))
    assert f"{OTHER} is (64, 32), not (64, 16)" in str(refused.value)
    assert "layers.9.video.text_attention.q is missing" in str(refused.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_folder_that_is_no_plain_adapter_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"adapter_config\.json does not exist"):
        load_lora(tmp_path)
    for wrong, told in [
        ({"peft_type": "LOHA"}, "holds a LOHA adapter"),
        ({"use_dora": True}, "sets use_dora: only plain LoRA"),
        ({"rank_pattern": {"q": 4}}, "sets rank_pattern"),
    ]:
        write(tmp_path, **wrong)
        with pytest.raises(CheckpointError, match=told):
            load_lora(tmp_path)
    tensors = write(tmp_path)
    tensors.popitem()
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="one lora_A and one lora_B per layer"):
        load_lora(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x99" * 100)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_lora(tmp_path)


def test_an_identity_follows_the_weights_and_not_how_they_are_split(model, tmp_path):
    save_transformer(model, tmp_path / "whole")
    save_transformer(model, tmp_path / "split", max_shard_bytes=20_000)
    identity = transformer_identity(model.config, model.state_dict())
    assert len(identity) == 16
    assert saved_identity(tmp_path / "whole") == saved_identity(tmp_path / "split") == identity
    with torch.no_grad():
        model.video.head.bias[0] += 1
    assert transformer_identity(model.config, model.state_dict()) != identity


def test_a_generator_refuses_the_adapter_of_another_base_before_it_is_loaded(model, tmp_path):
    save_transformer(model, tmp_path / "model" / "transformer")
    write(tmp_path / "adapter", base="0123456789abcdef")
    with pytest.raises(CheckpointError, match=r"trained on the transformer 0123456789abcdef, and .* holds"):
        Generator.from_pretrained(tmp_path / "model", lora=tmp_path / "adapter")


def test_a_model_is_the_bytes_that_it_was_when_an_adapter_goes(model, tmp_path):
    write(tmp_path)
    model = model.bfloat16()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), merged(model, load_lora(tmp_path)):
        assert not torch.equal(model.state_dict()[f"{LAYER}.weight"], before[f"{LAYER}.weight"])
        raise KeyboardInterrupt
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
