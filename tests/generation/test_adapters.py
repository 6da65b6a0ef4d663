"""Adapters by name: switched from request to request over one base that is loaded once."""

import pytest

from model.generator import Generator
from pipelines.generation.service import GenerationService, ModelSettings
from skyreels.serving.request import VideoRequest
from skyreels.serving.servable import RequestRefused, Work
from tests.model.network.test_lora import LAYER, OTHER, write


@pytest.fixture
def service(model_folder, tmp_path):
    names = {"warm": tmp_path / "warm"}
    write(names["warm"], shapes={LAYER: (96, 32), OTHER: (64, 32)})
    return GenerationService(ModelSettings(folder=str(model_folder), loras={k: str(v) for k, v in names.items()}))


def latents(service, folder, **asked):
    folder.mkdir()
    plan = service.plan(VideoRequest(prompt="x", seed=3, **asked), {}, folder)
    made = folder / "made"
    made.mkdir()
    service.run(Work("base", {path.name: path for path in plan.files}, made, lambda _: None))
    return (made / "latents.safetensors").read_bytes()


def test_an_adapter_works_for_its_request_alone(service, model_folder, tmp_path, monkeypatch):
    loads = []
    load = Generator.from_pretrained.__func__
    monkeypatch.setattr(Generator, "from_pretrained", classmethod(lambda *a, **k: loads.append(1) or load(*a, **k)))
    plain = latents(service, tmp_path / "1")
    adapted = latents(service, tmp_path / "2", lora="warm")
    weaker = latents(service, tmp_path / "3", lora="warm", lora_scale=0.25)
    assert len({plain, adapted, weaker}) == 3
    assert latents(service, tmp_path / "4") == plain
    assert latents(service, tmp_path / "5", lora="warm", lora_scale=0.0) == plain
    assert len(loads) == 1


def test_only_what_the_operator_allows_can_be_named(service, tmp_path):
    for name in ("cold", "../warm", str(tmp_path / "warm")):
        with pytest.raises(RequestRefused, match="there are: warm") as caught:
            service.plan(VideoRequest(prompt="x", lora=name), {}, tmp_path)
        assert caught.value.field == "lora"
    assert service.models[0].capabilities["loras"] == ["warm"]
