"""Media by URL: what is allowed is fetched from a real server, and every way around the guard is shut."""

import ipaddress
import json
import threading
import time
from dataclasses import replace

import pytest

from skyreels.config import ConfigError
from skyreels.serving.config import ServingConfig
from skyreels.serving.errors import ServingError
from skyreels.serving.intake.addresses import is_allowed, may_be_reached
from skyreels.serving.intake.fetch import Fetcher, resolved
from skyreels.serving.intake.media_check import UploadLimits
from skyreels.serving.intake.uploads import Body
from tests.skyreels.serving.clips import Clips
from tests.skyreels.serving.conftest import running
from tests.skyreels.serving.media_server import media_server
from tests.skyreels.serving.test_videos import picture

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with media_server(tmp_path_factory.mktemp("server")) as held:
        held.files |= {"a.png": picture(), "page": b"<html>", "list.mp4": b"#EXTM3U\nfile:///etc/passwd\n"}
        yield held


@pytest.fixture
def fetcher(server):
    """Of what lies on the server; loopback is allowed to it."""
    limits = replace(UploadLimits(), fetch_s=30.0, body_bytes=1 << 20)
    return Fetcher((server.url(""),), LOOPBACK, limits, server.trusted)


def fetched(fetcher, folder, url):
    """What the part of a first frame holds; a ServingError's code where it is refused."""
    body = Body({"prompt": "x", "first_frame": url})
    try:
        return fetcher.fetch(body, folder).parts[url].read_bytes()
    except ServingError as error:
        return error.code


def test_what_is_allowed_is_fetched_once_however_often_it_is_named(fetcher, server, tmp_path):
    server.seen.clear()
    url = server.url("a.png")
    rows = [{"type": "image", "tag": "@a", "source": {"image_url": {"url": url}}}]
    body = fetcher.fetch(Body({"prompt": "@a", "input_reference": url, "references": rows}), tmp_path)
    assert body.parts[url].read_bytes() == picture()
    assert server.seen == ["a.png"]


WRITTEN = (
    "127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0.0.0.0", "[::1]", "[::]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "169.254.169.254",
    "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "[fc00::1]", "[fe80::1]", "[fe80::1%25lo]", "[fec0::1]",
    "224.0.0.251", "255.255.255.255", "198.18.0.1", "[2001:db8::1]", "[ff02::1]", "no.such.host.invalid", "a..b",
)  # fmt: skip


@pytest.mark.parametrize("host", WRITTEN)
def test_no_machine_of_the_inside_is_called_however_it_is_written(host, server, tmp_path):
    anywhere = Fetcher(("https://",), trusted=server.trusted)
    assert fetched(anywhere, tmp_path, f"https://{host}/a.png") == "url_refused"


PUBLIC = ("93.184.215.14", "1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101")


@pytest.mark.parametrize("address", PUBLIC)
def test_machines_that_anybody_reaches_are_called(address):
    assert may_be_reached(ipaddress.ip_address(address), ())


def test_a_network_that_the_operator_names_may_be_reached_and_none_beside_it():
    inside = (ipaddress.ip_network("10.1.0.0/16"),)
    assert may_be_reached(ipaddress.ip_address("10.1.2.3"), inside)
    assert may_be_reached(ipaddress.ip_address("::ffff:10.1.2.3"), inside)
    assert not may_be_reached(ipaddress.ip_address("10.2.0.1"), inside)


def test_a_name_that_changes_its_mind_is_asked_once(fetcher, server, tmp_path):
    answers = [["127.0.0.1"], ["10.0.0.1"]]

    def rebinding(host, port):
        assert host == "media.example"
        return [ipaddress.ip_address(address) for address in answers.pop(0)]

    url = server.url("a.png", "media.example")
    rebound = replace(fetcher, resolve=rebinding, prefixes=(server.url("", "media.example"),))
    assert fetched(rebound, tmp_path, url) == picture()  # of the address that was looked at, under the URL's name
    assert answers == [["10.0.0.1"]]
    assert fetched(rebound, tmp_path, url) == "url_refused"


def test_one_address_of_the_inside_among_public_ones_is_enough_to_refuse(fetcher, server, tmp_path):
    server.seen.clear()
    both = [ipaddress.ip_address(address) for address in ("127.0.0.1", "10.0.0.1")]
    assert fetched(replace(fetcher, resolve=lambda *_: both), tmp_path, server.url("a.png")) == "url_refused"
    assert server.seen == []


def test_an_address_that_is_down_gives_way_to_the_next(fetcher, server, tmp_path):
    two = [ipaddress.ip_address(address) for address in ("::1", "127.0.0.1")]  # nobody listens on the first
    assert fetched(replace(fetcher, resolve=lambda *_: two), tmp_path, server.url("a.png")) == picture()


REDIRECTS = {
    "inside": ("https://169.254.169.254/latest", "url_refused"),
    "another host": ("https://example.com/a.png", "url_refused"),
    "another port": ("https://localhost:1/a.png", "url_refused"),
    "not encrypted": ("http://localhost/a.png", "url_refused"),
    "a file": ("file:///etc/passwd", "url_refused"),
    "nowhere": ("", "fetch_failed"),
    "in a circle": ("/in a circle", "url_refused"),
    "round": ("/round", "fetch_failed"),
    "within": ("/a.png", picture()),
}


@pytest.mark.parametrize("case", REDIRECTS)
def test_a_redirect_is_a_url_like_the_first(fetcher, server, tmp_path, case):
    to, ends = REDIRECTS[case]
    name = case.replace(" ", "-")
    server.redirects[name] = to
    assert fetched(fetcher, tmp_path, server.url(name)) == ends


def test_a_redirect_is_held_against_public_addresses_too(fetcher, server, tmp_path):
    """Where every host is allowed, the network is what stops it: loopback itself is, and the other machine is not."""
    server.redirects["out"] = "https://10.0.0.1/a.png"
    both = replace(fetcher, prefixes=(server.url(""), "https://"))
    assert fetched(both, tmp_path, server.url("out")) == "url_refused"


ANSWERS = {"missing": "fetch_failed", "packed": "fetch_failed", "drip": "fetch_failed", "slow-head": "fetch_failed"}


@pytest.mark.parametrize("path", ANSWERS)
def test_a_server_that_misbehaves_ends_in_time(fetcher, server, tmp_path, path):
    hasty = replace(fetcher, limits=replace(fetcher.limits, fetch_s=1.0))
    start = time.monotonic()
    assert fetched(hasty, tmp_path, server.url(path)) == ANSWERS[path]
    assert time.monotonic() - start < 10  # the server itself would go on for 30


def test_all_urls_of_a_request_have_one_limit(fetcher, server, tmp_path):
    server.files |= {"first": bytes(400_000), "second": bytes(400_000), "third": bytes(400_000)}
    rows = [{"type": "image", "tag": f"@{name}", "source": server.url(name)} for name in ("first", "second", "third")]
    with pytest.raises(ServingError) as refused:
        fetcher.fetch(Body({"prompt": "x", "references": rows}), tmp_path)
    assert (refused.value.code, refused.value.field) == ("file_too_large", "references.2.source")


def test_a_body_without_end_is_cut_off(fetcher, server, tmp_path):
    assert fetched(fetcher, tmp_path, server.url("endless")) == "file_too_large"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= fetcher.limits.body_bytes


def test_more_urls_than_files_are_taken_are_not_fetched(fetcher, server, tmp_path):
    server.seen.clear()
    rows = [{"time": 0, "image": server.url(f"{number}.png")} for number in range(20)]
    with pytest.raises(ServingError, match="at most 16 files"):
        fetcher.fetch(Body({"prompt": "x", "keyframes": rows}), tmp_path)
    assert server.seen == []


def test_a_server_that_nobody_vouches_for_is_not_believed(fetcher, server, tmp_path):
    strangers = replace(fetcher, trusted=Fetcher().trusted)
    server.seen.clear()
    assert fetched(strangers, tmp_path, server.url("a.png")) == "fetch_failed"
    assert server.seen == []


NOT_ALLOWED = (
    "https://media.example.evil.example/a", "https://media.example@evil.example/a", "http://media.example/in/a",
    "https://media.example:8443/in/a", "https://media.example/in/../a", "https://media.example/in/%2e%2E/a",
    "https://media.example/in/..%2fa", "https://media.example/in/..;/a", "https://media.example/in/..", "https://é/in/",
    "https://media.example/in/a\nHost: evil", "https://media.example/in/\\..\\a", "HTTPS://media.example/in/a",
    "https://media.example/in/" + "a" * 5000, "https://media.example",
)  # fmt: skip


@pytest.mark.parametrize("url", NOT_ALLOWED)
def test_only_what_the_operator_spelled_is_allowed(url):
    assert not is_allowed(url, ("https://media.example/in/",))


@pytest.mark.parametrize(
    "url", ["https://a@b/", "https://b:22/", "https://b:x/", "https://[b/", "https:///a", "http://b/"]
)
def test_every_public_host_means_its_usual_port_and_nobodys_name(url):
    assert not is_allowed(url, ("https://",))
    assert is_allowed("https://b:443/a?x=../y", ("https://",))


def test_nothing_is_allowed_where_nothing_was_said():
    assert not is_allowed("https://media.example/a", ())


@pytest.mark.parametrize(
    "wrong", [{"media_urls": ["http://a/"]}, {"media_urls": ["https://a"]}, {"media_networks": ["x"]}]
)
def test_what_is_left_open_does_not_start(tmp_path, wrong):
    with pytest.raises(ConfigError):
        ServingConfig(files=str(tmp_path), **wrong).check()


class TestOverHttp:
    @pytest.fixture(scope="class")
    def address(self, server, tmp_path_factory):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(server.certificate))
            config = ServingConfig(
                files=str(tmp_path_factory.mktemp("files")),
                grace_s=5,
                media_urls=(server.url(""),),
                media_networks=("127.0.0.0/8", "::1/128"),
                limits=replace(UploadLimits(), fetch_s=10.0),
            )
            with running(Clips(), config) as url:
                yield url

    def test_a_url_is_a_file_like_any_other(self, http, ended, server):
        rows = [{"type": "image", "tag": "@a", "source": server.url("a.png")}]
        form = {"prompt": "red @a", "input_reference": server.url("a.png"), "references": json.dumps(rows)}
        job = ended(http.post("/v1/videos", data=form).json()["id"])
        assert (job["state"], job["task"]) == ("completed", "i2v")

    @pytest.mark.parametrize(("path", "code"), [("page", "invalid_media"), ("list.mp4", "invalid_media")])
    def test_what_it_holds_is_told_by_its_content(self, http, server, path, code):
        answer = http.post("/v1/videos", json={"prompt": "x", "task": "edit", "source_video": server.url(path)})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)

    def test_slow_servers_hold_up_nobody_else(self, http, server):
        waiting, codes = {"prompt": "x", "first_frame": server.url("drip")}, []
        asking = [
            threading.Thread(target=lambda: codes.append(http.post("/v1/videos", json=waiting).status_code))
            for _ in range(6)
        ]
        for thread in asking:
            thread.start()
        start = time.monotonic()
        assert http.post("/v1/videos", json={"prompt": "red"}).status_code == 200
        assert time.monotonic() - start < 8
        for thread in asking:
            thread.join()
        assert sorted(codes) == [400] * 4 + [429] * 2  # four of one owner's wait at a time

    def test_the_python_client_passes_urls_on(self, address, server):
        from skyreels.serving.client import Client

        with Client(address) as client:
            clip = client("green @a", image=server.url("a.png"), references={"@a": server.url("a.png") + "?v=1.png"})
        assert clip.video.facts["task"] == "i2v"


def test_it_is_off_by_default(http, server):
    answer = http.post("/v1/videos", json={"prompt": "x", "first_frame": server.url("a.png")})
    assert answer.json()["error"]["code"] == "url_refused"


def test_numbers_are_addresses_to_the_resolver():
    assert [str(address) for address in resolved("2130706433", 443)] == ["127.0.0.1"]
