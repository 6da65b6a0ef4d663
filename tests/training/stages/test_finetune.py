"""What ends a fine-tuning before it begins."""

import pytest
import torch

from model.checkpoint import save_transformer
from model.checksums import CheckpointError
from model.config import load_preset
from model.network.mmdit import MMDiT
from pipelines.training.stages.finetune import Request, finetune


def test_a_flipped_bit_in_the_base_is_seen_before_anything_is_made(tmp_path):
    """Ranks read pieces, which have no checksums: whoever starts them compares."""
    torch.manual_seed(0)
    folder = tmp_path / "model" / "transformer"
    save_transformer(MMDiT(load_preset("tiny").transformer), folder)
    (path,) = folder.glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{path.name} differs from its checksum"):
        finetune(Request(tmp_path / "model", str(tmp_path / "data"), tmp_path / "output", quiet=True, tracked=False))
    assert not (tmp_path / "output").exists()


def test_a_model_that_is_not_there_is_named_with_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere/transformer is no checkpoint folder; check its name"):
        finetune(Request(tmp_path / "nowhere", str(tmp_path), tmp_path / "output", quiet=True, tracked=False))
