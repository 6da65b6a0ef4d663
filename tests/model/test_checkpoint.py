import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import (
    CheckpointError,
    StoredState,
    load_into,
    load_transformer,
    read_config,
    save_module,
    save_transformer,
)
from model.config import TransformerConfig
from model.network.mmdit import MMDiT

TINY = TransformerConfig(
    width=24, heads=2, dual_blocks=1, single_blocks=1, text_width=8, video_channels=2, audio_channels=3
)


def model() -> MMDiT:
    torch.manual_seed(0)
    return MMDiT(TINY)


def assert_same_weights(a: MMDiT, b: MMDiT) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key]), key


@pytest.mark.parametrize("max_shard_bytes", [2**30, 20_000])
def test_round_trip_in_one_file_and_in_shards(tmp_path: Path, max_shard_bytes: int) -> None:
    saved = model()
    save_transformer(saved, tmp_path, max_shard_bytes=max_shard_bytes)
    loaded = load_transformer(tmp_path)
    assert loaded.config == TINY
    assert_same_weights(loaded, saved)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) == 1) == (max_shard_bytes > 20_000)
    if len(files) > 1:
        index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text())
        assert files[0].name == f"diffusion_pytorch_model-00001-of-{len(files):05d}.safetensors"
        for key, name in index["weight_map"].items():
            assert key in load_file(tmp_path / name)


def test_saving_again_leaves_nothing_of_the_earlier_save(tmp_path: Path) -> None:
    save_transformer(model(), tmp_path, max_shard_bytes=20_000)
    save_transformer(model(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "checksums.json",
        "diffusion_pytorch_model.safetensors",
    }


def test_weights_load_in_the_precision_asked_for(tmp_path: Path) -> None:
    saved = model()
    save_transformer(saved, tmp_path)
    loaded = load_transformer(tmp_path, dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.video.media_in.weight, saved.video.media_in.weight.bfloat16())


def test_keys_that_do_not_fit_are_named_and_nothing_is_changed(tmp_path: Path) -> None:
    saved = model()
    save_transformer(saved, tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["video.head.weight"] = torch.zeros(1, 1)
    state["extra"] = torch.zeros(1)
    del state["audio.head.bias"]
    save_file(state, path)
    (tmp_path / "checksums.json").unlink()
    other = MMDiT(TINY)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_into(other, tmp_path)
    for part in ("1 missing: audio.head.bias", "1 unexpected: extra", "video.head.weight (file (1, 1), model (8, 24))"):
        assert part in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_folders_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        load_transformer(tmp_path)
    save_transformer(model(), tmp_path, max_shard_bytes=20_000)
    next(iter(tmp_path.glob("*00002-of*"))).unlink()
    with pytest.raises(CheckpointError, match=r"00002-of.* is missing"):
        load_transformer(tmp_path)
    (tmp_path / "checksums.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks shards .*00002-of"):
        load_transformer(tmp_path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    save_transformer(model(), tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_transformer(tmp_path)


@pytest.mark.parametrize("max_shard_bytes", [2**30, 20_000])
@pytest.mark.parametrize("place", [-1, 3000, 10_000])
def test_a_flipped_bit_is_seen(tmp_path: Path, max_shard_bytes: int, place: int) -> None:
    save_transformer(model(), tmp_path, max_shard_bytes=max_shard_bytes)
    path = sorted(tmp_path.glob("*.safetensors"))[-1]
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{path.name} differs from its checksum.*export it again"):
        load_transformer(tmp_path)
    (tmp_path / "checksums.json").unlink()
    if place == -1:
        load_transformer(tmp_path)  # nothing else would have told


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}'])
def test_damaged_records_beside_weights_are_named(tmp_path: Path, content: str) -> None:
    save_transformer(model(), tmp_path, max_shard_bytes=20_000)
    for name in ("checksums.json", "diffusion_pytorch_model.safetensors.index.json"):
        (tmp_path / name).write_text(content)
        with pytest.raises(CheckpointError, match=rf"{name}.*"):
            load_transformer(tmp_path)
        (tmp_path / "checksums.json").unlink(missing_ok=True)


def test_of_weights_that_are_read_one_by_one_the_sizes_are_compared(tmp_path: Path) -> None:
    save_transformer(model(), tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"has \d+ bytes, not \d+"):
        StoredState(tmp_path)


class Watched(StoredState):
    """Counts the elements that are read."""

    count = 0

    def __getitem__(self, key: str) -> torch.Tensor:
        found = super().__getitem__(key)
        self.count += found.numel()
        return found

    def rows(self, key: str, first: int, last: int) -> torch.Tensor:
        found = super().rows(key, first, last)
        self.count += found.numel()
        return found


@pytest.mark.parametrize("max_shard_bytes", [2**30, 20_000])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_pieces_of_all_ranks_make_up_the_whole_and_none_reads_what_is_anothers(
    tmp_path: Path, max_shard_bytes: int, world: int
) -> None:
    one = model()
    save_transformer(one, tmp_path, max_shard_bytes=max_shard_bytes)
    ranks = [Watched(tmp_path) for _ in range(world)]
    spare = 0
    for name, tensor in one.state_dict().items():
        size = -(-tensor.numel() // world)
        bounds = [(min(rank * size, tensor.numel()), min((rank + 1) * size, tensor.numel())) for rank in range(world)]
        pieces = [state.piece(name, *span) for state, span in zip(ranks, bounds, strict=True)]
        assert torch.equal(torch.cat(pieces), tensor.reshape(-1))
        assert ranks[0].shape(name) == tuple(tensor.shape)
        assert name in ranks[0]
        spare += 2 * (tensor[0].numel() if tensor.dim() else 1)
    share = sum(tensor.numel() for tensor in one.state_dict().values()) / world
    assert all(state.count <= share + spare for state in ranks)


def test_a_scalar_and_nothing_are_pieces_too(tmp_path: Path) -> None:
    module = torch.nn.Module()
    module.scale = torch.nn.Parameter(torch.tensor(2.5))
    save_module(module, {}, tmp_path)
    state = StoredState(tmp_path)
    assert state.piece("scale", 0, 1).tolist() == [2.5]
    assert state.piece("scale", 1, 1).tolist() == []


def test_an_unknown_setting_in_the_config_is_named(tmp_path: Path) -> None:
    save_transformer(model(), tmp_path)
    values = read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**values, "depth": 3}))
    with pytest.raises(ValueError, match=r"unknown keys \['depth'\]"):
        load_transformer(tmp_path)


def test_any_module_is_saved_the_same_way(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 3)
    save_module(layer, {"size": 3}, tmp_path)
    other = torch.nn.Linear(2, 3)
    load_into(other, tmp_path)
    assert torch.equal(other.weight, layer.weight)
    assert read_config(tmp_path) == {"_class_name": "Linear", "size": 3}
