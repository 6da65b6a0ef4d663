import pytest

from pipelines.curation.captions.captioners import make_captioner
from pipelines.curation.captions.measured import MeasuredCaptioner
from pipelines.curation.captions.served import ServedCaptioner
from pipelines.curation.recipe import CaptionConfig


def test_a_recipe_gets_the_captioner_it_names():
    assert make_captioner(CaptionConfig(backend="none")) is None
    assert isinstance(make_captioner(CaptionConfig()), MeasuredCaptioner)
    served = make_captioner(CaptionConfig(backend="http", url="http://127.0.0.1:8000/v1", model="m", timeout_s=7))
    assert isinstance(served, ServedCaptioner)
    assert (served.server.model, served.server.timeout_s) == ("m", 7)
    with pytest.raises(ValueError, match="Ray Data pipeline"):
        make_captioner(CaptionConfig(backend="vllm"))
