import json

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open

from model.checkpoint import save_transformer, saved_identity
from model.network.lora import load_lora, merge_lora
from model.network.mmdit import MMDiT
from pipelines.training.data.assembler import Assembler
from pipelines.training.learners.lora import LoraSettings, LoraStage, adapter_shapes, save_adapter
from pipelines.training.learners.network import network_config
from pipelines.training.learners.transformer import TransformerStage
from skyreels.training.trainable import Slot

SETTINGS = LoraSettings(rank=4, alpha=6)


@pytest.fixture
def base(small_preset, tmp_path):
    """The folder of a generator; of its parts only the transformer is there."""
    torch.manual_seed(0)
    model = MMDiT(network_config(small_preset, "joint"))
    for parameter in model.parameters():  # gates start at zero, and nothing would pass the layers
        torch.nn.init.normal_(parameter, std=0.1)
    save_transformer(model, tmp_path / "base" / "transformer")
    return tmp_path / "base"


@pytest.fixture
def stage(small_preset, latents, draws, base):
    assembler = Assembler(small_preset, "joint", latents)
    plain = TransformerStage(assembler, draws(latents, {"t2av": 1.0}, "joint"), [base / "transformer"])
    return LoraStage(plain, SETTINGS)


def started(stage):
    """The module with its initial weights, as the engine fills it."""
    module = stage.build()
    weights = stage.initial_weights()
    missing, unexpected = module.load_state_dict(dict(weights), strict=False)
    assert (missing, unexpected) == ([], [])
    return module


def trained(stage, steps):
    module = started(stage)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(steps):
        loss = stage.loss(module, stage.batch(Slot(0, 0))).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return module, losses


def velocities(module, stage):
    with torch.no_grad():
        made = module(stage.batch(Slot(1, 0)).inputs)
    return torch.cat([made.video.flatten(), made.audio.flatten()])


def test_a_new_adapter_changes_nothing(stage):
    plain = stage.stage.build()
    plain.load_state_dict(dict(stage.stage.initial_weights()))
    assert torch.equal(velocities(started(stage), stage), velocities(plain, stage))


def test_adapters_alone_train_and_all_of_them_do(stage):
    module = started(stage)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    trains = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trains == set(adapter_shapes(stage.stage.build(), SETTINGS.rank))
    assert sum(before[name].numel() for name in trains) < 0.3 * sum(value.numel() for value in before.values())
    module, losses = trained(stage, 12)
    moved = {name for name, parameter in module.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == trains
    assert losses[-1] < 0.9 * losses[0]


def test_samples_are_made_by_the_wrapped_model_too(stage):
    module = started(stage)
    called = []
    module.register_forward_hook(lambda *_: called.append(1))
    stage.write_samples(module, 1, None)  # as on ranks that write nothing
    assert len(called) == stage.stage.previews.steps


def test_every_kind_of_projection_is_adapted(stage):
    adapted = {name.split(".lora_")[0] for name in adapter_shapes(stage.stage.build(), 4)}
    linears = {name for name, part in stage.stage.build().named_modules() if type(part) is torch.nn.Linear}
    assert adapted == {name for name in linears if name.startswith("layers.")}


def test_the_merged_model_computes_what_the_wrapped_one_does(stage, base, tmp_path):
    module, _ = trained(stage, 3)
    save_adapter(module.state_dict(), SETTINGS, base, tmp_path / "adapter")
    merged = stage.stage.build()
    merged.load_state_dict(dict(stage.stage.initial_weights()))
    untouched = velocities(merged, stage)
    merge_lora(merged, load_lora(tmp_path / "adapter"))
    wanted = velocities(module, stage)
    assert (wanted - untouched).abs().max() > 1e-2
    assert torch.allclose(velocities(merged, stage), wanted, atol=1e-5)
    merge_lora(merged, load_lora(tmp_path / "adapter"), scale=-1.0)
    assert torch.allclose(velocities(merged, stage), untouched, atol=1e-5)


def test_peft_itself_loads_the_folder_and_merges_to_the_same_weights(stage, base, tmp_path):
    module, _ = trained(stage, 2)
    save_adapter(module.state_dict(), SETTINGS, base, tmp_path / "adapter")
    ours, theirs = (stage.stage.build() for _ in range(2))
    for model in (ours, theirs):
        model.load_state_dict(dict(stage.stage.initial_weights()))
    loaded = PeftModel.from_pretrained(theirs, str(tmp_path / "adapter"))
    assert loaded.peft_config["default"].r == 4
    merge_lora(ours, load_lora(tmp_path / "adapter"), scale=1.0)
    reference = loaded.merge_and_unload().state_dict()
    assert reference.keys() == ours.state_dict().keys()
    assert all(torch.allclose(value, reference[name], atol=1e-6) for name, value in ours.state_dict().items())


def test_the_folder_holds_the_adapter_alone_and_no_pickle(stage, base, tmp_path):
    save_adapter(started(stage).state_dict(), SETTINGS, base, tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "checksums.json",
    }
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert all(".lora_" in key for key in file.keys())  # noqa: SIM118 (not a mapping)
        assert file.metadata()["base_identity"] == saved_identity(base / "transformer")
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["peft_type"]) == (4, 6, "LORA")
