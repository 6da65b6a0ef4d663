import json

import pytest
import torch
from safetensors.torch import save

from model.conditioning import ImageReference
from model.generation.prepared import Prepared
from model.generation.steps import BaseLatents
from model.generation.wire import WireError, from_bytes, to_bytes


@pytest.fixture(scope="module")
def prepared(build):
    picture = torch.rand(3, 8, 8) * 2 - 1
    twice = [ImageReference("@a", [picture, picture]), ImageReference("@b", [picture.flip(2)])]
    return build().prepare("@a and @b", "blue", image=picture, references=twice, refine=True, seed=7)


def test_a_call_comes_back_as_it_was(prepared):
    back = from_bytes(Prepared, to_bytes(prepared))
    assert (back.prompt, back.negative_prompt, back.seed) == ("@a and @b", "blue", 7)
    assert (back.clip, back.refined, back.settings) == (prepared.clip, prepared.refined, prepared.settings)
    assert torch.equal(back.media.image, prepared.media.image)
    for before, after in zip(prepared.references, back.references, strict=True):
        assert (type(after), after.tag) == (type(before), before.tag)
        assert all(torch.equal(*pair) for pair in zip(before.images, after.images, strict=True))


def test_damage_and_strangers_are_told(prepared):
    data = to_bytes(prepared)
    for harm in (b"", data[:40], data[:-100], b"\x00" * 64, data[:8] + b"[" + data[9:]):
        with pytest.raises(WireError, match="hold no Prepared"):
            from_bytes(Prepared, harm)
    with pytest.raises(WireError, match="hold a Prepared, not a BaseLatents"):
        from_bytes(BaseLatents, data)
    with pytest.raises(WireError, match="format 0, read is 1: prepare the call again"):
        from_bytes(Prepared, save({}, {"call": json.dumps({"format": 0, "value": None})}))


@pytest.mark.parametrize("described", [{"kind": "Path", "fields": {}}, {"kind": "ClipShape", "fields": {"x": 1}}, {}])
def test_only_what_is_listed_is_built(described):
    with pytest.raises(WireError, match="hold no Prepared"):
        from_bytes(Prepared, save({}, {"call": json.dumps({"format": 1, "value": described})}))


def test_what_cannot_be_sent_is_named():
    with pytest.raises(TypeError, match="a set cannot be sent"):
        to_bytes({1})
