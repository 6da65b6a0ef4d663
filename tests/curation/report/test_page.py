import re
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import pytest
import yaml

from pipelines.curation.report import Preview, render_report
from pipelines.curation.report.gallery import MAX_PREVIEW_BYTES
from pipelines.curation.report.page import count, counted, duration, percent, size, ticked, times

VOID = {"meta", "img", "br", "link", "input", "hr"}
SELF_CLOSED = {"rect", "line"}
CODE = {"script", "style"}


class Page(HTMLParser):
    """A strict reading of the page: elements with attributes, text by element, and complaints."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.complaints: list[str] = []
        self.feed(text)
        self.close()
        self.complaints += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        if len(set(names)) != len(names):
            self.complaints.append(f"<{tag}> has an attribute twice: {names}")
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        if tag not in SELF_CLOSED:
            self.complaints.append(f"<{tag}/> closes itself")
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.complaints.append(f"</{tag}> at {self.getpos()} closes something else")

    def handle_data(self, data):
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def with_class(self, name: str) -> int:
        return sum(name in (attributes.get("class") or "").split() for _, attributes in self.elements)


@pytest.fixture(scope="module")
def html(run):
    return render_report(run)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_page_is_well_formed_and_repeats_exactly(run, html, page):
    assert page.complaints == []
    assert html.startswith("<!doctype html>")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [attributes["href"] for attributes in page.all("a")]
    assert {link[1:] for link in links} <= set(ids)
    assert render_report(run) == html


def test_nothing_is_fetched_and_only_our_own_code_runs(html, page):
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}={value}>"
            assert name not in ("style", "srcset", "srcdoc", "action", "ping", "data", "xlink:href")
            if name == "href":
                assert value.startswith("#")
            if name in ("src", "poster") and value:
                assert re.fullmatch(r"data:(video/mp4|audio/mpeg|image/jpeg);base64,[A-Za-z0-9+/=]+", value)
    assert not {"iframe", "object", "embed", "link", "base", "form"} & {tag for tag, _ in page.elements}
    assert "@import" not in html
    assert "url(" not in html


def test_the_policy_names_exactly_the_style_and_the_script_of_the_page(html, page):
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert (rules["img-src"], rules["media-src"]) == ("data:", "data:")
    assert (rules["base-uri"], rules["form-action"]) == ("'none'", "'none'")
    for tag in CODE:
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = b64encode(sha256(content.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_hostile_names_are_text(run, hostile, html, page):
    assert len(page.all("script")) == 1
    assert all("onerror" not in attributes for attributes in page.all("img"))
    shown = re.sub("[\x00\x1b\u202e]", "�", hostile)
    assert page.text["title"][0] == f"run of {shown} · curation report"
    assert sum(shown in text for texts in page.text.values() for text in texts) > 5
    assert not re.search("[\x00-\x08\x0e-\x1f\u202e\ud800-\udfff]", html)
    html.encode("utf-8")


def test_text_that_is_no_unicode_still_gives_a_page(run):
    key = next(iter(run.captions))
    Page(render_report(replace(run, captions={key: {"short": "\udcff\x0b"}}))).text["title"][0].encode("utf-8")


def test_the_headline_is_the_runs_own_numbers(run, page):
    kept = sum(why is None for why in run.decisions.values())
    tiles = dict(zip(page.text["dt"], page.text["dd"], strict=False))
    assert tiles["Sources"] == "12"
    assert tiles["Media in"] == "8.0 min"
    assert tiles["Clips kept"] == str(kept)
    assert tiles["Retention, of clips"] == f"{100 * kept / run.clips.num_rows:.1f} %"
    assert tiles["Real time, this run"] == "8×"
    assert tiles["Real time, per core"] == "6×"


def test_every_section_shows_its_share(run, page):
    assert page.with_class("card") == len(run.previews)
    assert page.with_class("plot") == 7  # five scores of video, two of sound
    buttons = [b["data-filter"] for b in page.all("button") if "data-filter" in b]
    assert buttons == ["", "kept", "dedup:exact"]
    assert {a["data-show"] for a in page.all("a") if a.get("data-show")} == {"dedup:exact"}
    media = [a["src"] for tag in ("video", "audio", "img") for a in page.all(tag)]
    assert b64decode(media[0].partition(",")[2]) == b"mp4"
    assert any("same bytes as" in text for text in page.text["p"])
    assert any("--replay-rejects" in text for text in page.text["code"])
    recipe = next(text for text in page.text["code"] if text.startswith("name: test"))
    assert yaml.safe_load(recipe) == run.recipe.model_dump(mode="json")


def test_everything_that_plays_can_be_reached_and_named(page):
    playable = [b for b in page.all("button") if b.get("class", "") and b["class"].split()[0] == "clip"]
    assert len(playable) == 2
    assert all(button["type"] == "button" and button["aria-label"] for button in playable)
    assert all(image["alt"] for image in page.all("img"))
    assert all(svg.get("aria-hidden") == "true" or svg.get("aria-label") for svg in page.all("svg"))


def test_a_run_that_found_nothing_has_a_report(empty_run):
    page = Page(render_report(empty_run))
    assert page.complaints == []
    assert page.with_class("card") == 0
    assert any("left no previews" in text for text in page.text["p"])


def test_previews_beyond_the_pages_size_are_left_out_and_counted(run):
    heavy = Preview(run.previews[0].key, "video/mp4", bytes(MAX_PREVIEW_BYTES // 2), 240, 134, 4.0)
    html = render_report(
        replace(run, previews=[heavy, *[replace(p, data=bytes(MAX_PREVIEW_BYTES)) for p in run.previews[1:]]])
    )
    assert len(html) < 4_200_000
    page = Page(html)
    assert page.with_class("card") == 1
    assert any("2 more were left out" in text for text in page.text["p"])


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (percent(0), "0.0 %"),
        (percent(0.0004), "<0.1 %"),
        (percent(0.1234), "12.3 %"),
        (percent(0.9999), ">99.9 %"),
        (percent(1), "100.0 %"),
        (duration(48.21), "48.2 s"),
        (duration(750), "12.5 min"),
        (duration(3600 * 3104), "3,104 h"),
        (count(12345), "12,345"),
        (counted(1, "clips"), "1 clip"),
        (counted(1204, "sources"), "1,204 sources"),
        (size(3.2e9), "3.2 GB"),
        (size(512), "512 B"),
        (size(5e15), "5,000.0 TB"),
        (times(2.824), "2.82×"),
        (times(1234), "1,234×"),
        (ticked("run `a <b>` & wait"), "run <code>a &lt;b&gt;</code> &amp; wait"),
    ],
)
def test_numbers_are_written_for_people(said, wanted):
    assert said == wanted
