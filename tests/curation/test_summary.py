"""What a run says of itself."""

from pipelines.curation.summary import summarise
from skyreels.storage import Storage


def _reject(stage, reason, detail):
    return {"stage": stage, "reason": reason, "detail": detail, "remedy": f"mend {reason}"}


def test_the_rule_that_took_most_is_named_with_what_it_saw_and_what_to_do(tmp_path):
    rejects = [
        _reject("probe", "empty_file", ""),
        _reject("filter", "basic:short_side", "short_side = 240 < 480"),
        _reject("filter", "basic:short_side", "short_side = 100 < 480"),
    ]
    found = summarise(Storage(str(tmp_path)), [], [], {}, rejects, 1.0)
    assert list(found.rejected) == ["filter:basic:short_side", "probe:empty_file"]
    assert found.took_most == (
        "filter:basic:short_side took most, 2 of 3 (such as: short_side = 240 < 480): mend basic:short_side"
    )
    assert summarise(Storage(str(tmp_path)), [], [], {}, [], 1.0).took_most == ""
