import pytest

from pipelines.curation.captions.captioners import CAPTIONERS, NAMES, check_captioner
from pipelines.curation.captions.measured import MeasuredCaptioner
from pipelines.curation.captions.served import ServedCaptioner
from pipelines.curation.pipeline import curate, plan_inputs, refilter
from pipelines.curation.recipe import CaptionConfig, load_recipe
from skyreels.config import ConfigError


def test_a_recipe_gets_the_captioner_it_names():
    assert isinstance(CAPTIONERS[CaptionConfig().backend].make(CaptionConfig(), "cpu"), MeasuredCaptioner)
    config = CaptionConfig(backend="http", url="http://127.0.0.1:8000/v1", model="m", timeout_s=7)
    served = CAPTIONERS["http"].make(config, "cpu")
    assert isinstance(served, ServedCaptioner)
    assert (served.server.model, served.server.timeout_s) == ("m", 7)


def test_a_recipe_may_name_each_of_them_and_no_other():
    for name in NAMES:
        check_captioner(CaptionConfig(backend=name))
    with pytest.raises(ConfigError, match=r"no captioner 'mesured': use measured, .* did you mean 'measured'"):
        check_captioner(CaptionConfig(backend="mesured"))


def test_a_name_that_no_captioner_has_is_refused_before_any_work(tmp_path):
    recipe = load_recipe("default", ("captions.backend=mesured",))
    for start in (
        lambda: curate([], str(tmp_path), recipe),
        lambda: refilter(str(tmp_path), recipe),
        lambda: plan_inputs([], str(tmp_path), recipe),
    ):
        with pytest.raises(ConfigError, match="no captioner 'mesured'"):
            start()
