"""The page as it is served: whole, from here alone; and the arena behind it, read by the evaluation."""

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from pipelines.evaluation.people.records import read_records
from skyreels.serving import studio

PAGE = Path(studio.__file__).parent


def test_the_page_comes_whole_and_under_a_policy_that_lets_nothing_else_in(http):
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    wanted = set(re.findall(r'(?:src|href)="(studio/[^"]+)"', page.text))
    served = {}
    while wanted - served.keys():
        name = (wanted - served.keys()).pop()
        answer = http.get(f"/{name}")
        assert answer.status_code == 200, name
        served[name] = answer
        wanted |= {f"studio/{found}" for found in re.findall(r'from "\./([^"]+)"', answer.text)}
    kinds = {name.rpartition(".")[2]: answer.headers["content-type"].split(";")[0] for name, answer in served.items()}
    assert kinds == {"css": "text/css", "js": "text/javascript"}
    assert {f"studio/{path.name}" for path in PAGE.iterdir() if path.suffix in (".js", ".css")} == served.keys()


def test_nothing_of_the_page_is_loaded_from_elsewhere_and_no_text_becomes_markup():
    for path in PAGE.iterdir():
        if path.suffix in (".js", ".css", ".html"):
            text = path.read_text()
            assert re.findall(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text) == []
            assert "style=" not in text, "the policy lets no inline style in"
    page = (PAGE / "index.html").read_text()
    ids = set(re.findall(r'id="([\w-]+)"', page))
    asked = {
        name for path in PAGE.glob("*.js") for name in re.findall(r'getElementById\("([\w-]+)"\)', path.read_text())
    }
    assert asked <= ids
    assert "onclick=" not in page


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node to parse the modules")
@pytest.mark.parametrize("path", sorted(PAGE.glob("*.js")), ids=lambda path: path.name)
def test_every_module_parses(path, tmp_path):
    copy = tmp_path / f"{path.stem}.mjs"
    copy.write_text(path.read_text())
    checked = subprocess.run(["node", "--check", str(copy)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("name", ["index.html", "__init__.py", "..%2fconfig.py", "x", "studio.js/x"])
def test_only_the_page_is_served(http, name):
    assert http.get(f"/studio/{name}").status_code == 404


def test_votes_are_blind_turn_the_order_and_are_what_the_evaluation_ranks(http, ended, tmp_path):
    prompt = "red arena"
    for name in ("ours", "theirs"):
        answer = http.post("/v1/videos", json={"prompt": prompt, "metadata": {"arena": name}})
        assert ended(answer.json()["id"])["status"] == "completed"
    orders = Counter()
    for _ in range(6):
        pair = http.get("/v1/arena/pair").json()["pair"]
        assert pair.keys() == {"item", "first", "second", "dimensions"}
        names = [http.get(f"/v1/videos/{pair[side]}").json()["metadata"]["arena"] for side in ("first", "second")]
        verdict = "good" if names[0] == "ours" else "bad"
        said = {"first": pair["first"], "second": pair["second"], "verdict": verdict}
        told = http.post("/v1/arena/votes", json=said).json()
        assert [told["first"], told["second"]] == names
        orders[tuple(names)] += 1
    assert set(orders.values()) == {3}
    path = tmp_path / "votes.jsonl"
    path.write_text(http.get("/v1/arena/votes").text)
    records = read_records(path)
    assert len(records) == 6
    assert all(record.seen_from("ours") == "good" for record in records)


@pytest.mark.parametrize(
    ("vote", "status", "field"),
    [
        ({"first": "x", "second": "y", "verdict": "good"}, 404, None),
        ({"first": "x", "second": "y", "verdict": "best"}, 400, "verdict"),
        ({"first": "x", "verdict": "good"}, 400, "second"),
        ({"first": "x", "second": "y", "verdict": "good", "dimension": "luck"}, 400, "dimension"),
        ([], 400, None),
    ],
)
def test_a_vote_on_nothing_is_refused(http, vote, status, field):
    answer = http.post("/v1/arena/votes", content=json.dumps(vote), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, field)


def test_points_for_a_clip_are_what_the_evaluation_reads(http, ended, tmp_path):
    asked = {"prompt": "red with points", "metadata": {"arena": "ours"}}
    job = ended(http.post("/v1/videos", json=asked).json()["id"])["id"]
    told = http.post("/v1/arena/ratings", json={"clip": job, "points": 4}).json()
    assert told.pop("rater")
    named = {"item": "red with points", "dimension": "overall", "model": "ours"}
    assert told == {"kind": "likert", **named, "points": 4}
    path = tmp_path / "votes.jsonl"
    path.write_text("\n".join(line for line in http.get("/v1/arena/votes").text.splitlines() if "likert" in line))
    assert [(record.model, record.points) for record in read_records(path)] == [("ours", 4)]
    for wrong, field in (({"points": 6}, "points"), ({"points": 1, "dimension": "luck"}, "dimension")):
        answer = http.post("/v1/arena/ratings", json={"clip": job, **wrong})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    waiting = http.post("/v1/videos", json={"prompt": "slow"}).json()["id"]
    assert http.post("/v1/arena/ratings", json={"clip": waiting, "points": 1}).json()["error"]["param"] == "clip"
    ended(waiting)


def test_what_a_prompt_becomes_is_told_before_it_is_sent(http):
    told = http.post("/v1/prompts", json={"prompt": "a red ball"})
    assert told.json() == {"prompt": "a red ball", "asked": "A clip of a red ball."}
    for words, field in (("unspeakable", "prompt"), ("", "prompt")):
        answer = http.post("/v1/prompts", json={"prompt": words})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


@pytest.mark.parametrize(("path", "most"), [("arena/votes", 10_000), ("arena/ratings", 10_000), ("prompts", 200_000)])
def test_a_body_that_is_too_long_is_not_read(http, path, most):
    error = http.post(f"/v1/{path}", content=b" " * (most + 1)).json()["error"]
    assert (error["code"], f"{most} bytes" in error["message"]) == ("invalid_body", True)


def test_clips_of_one_model_are_not_compared(http, ended):
    jobs = [http.post("/v1/videos", json={"prompt": "red twice"}).json()["id"] for _ in range(2)]
    for job in jobs:
        ended(job)
    answer = http.post("/v1/arena/votes", json={"first": jobs[0], "second": jobs[1], "verdict": "same"})
    assert answer.status_code == 400
    assert "different models" in answer.json()["error"]["message"]
