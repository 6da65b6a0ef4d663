"""The guides are run: tested blocks from top to bottom in a folder of their own; every other command must parse."""

import ast
import itertools
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import av
import mlflow
import pyarrow.parquet as pq
import pytest

from jobs import cache, curate, evaluate, finetune, generate, plan, train
from model.generator import Generator
from pipelines.curation.pool import cut, extract, measure
from pipelines.curation.recipe import RECIPES, load_recipe
from pipelines.evaluation.evaluate import suites_named
from pipelines.evaluation.suites import SUITES
from pipelines.synthesis.__main__ import main as render_world
from pipelines.training.curriculum.recipe import STAGES
from pipelines.training.stages.observe import read_metrics
from skyreels.command_line import parse
from skyreels.media import errors

REPOSITORY = Path(__file__).parents[2]
GUIDE = REPOSITORY / "docs" / "curation.md"
TRAINING = REPOSITORY / "docs" / "training.md"
EVALUATION = REPOSITORY / "docs" / "evaluation.md"
JOBS = {
    "cache": cache,
    "curate": curate,
    "evaluate": evaluate,
    "finetune": finetune,
    "generate": generate,
    "plan": plan,
    "train": train,
}
_BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)


class Block(NamedTuple):
    """A fenced block; `mark` is the comment above it: "tested", "file: <name>", or nothing."""

    mark: str
    language: str
    text: str

    @property
    def commands(self):
        """The words of every command line, comments left out."""
        lines = (shlex.split(line, comments=True) for line in self.text.replace("\\\n", " ").splitlines())
        return [words for words in lines if words]


def blocks_of(guide):
    return [Block(m["mark"] or "", m["language"], m["text"]) for m in _BLOCK.finditer(guide.read_text())]


BLOCKS = blocks_of(GUIDE)
CURATIONS = [
    words[words.index("jobs/curate.py") + 1 :]
    for block in BLOCKS
    if block.language == "bash"
    for words in block.commands
    if "jobs/curate.py" in words
]
TRAININGS = [
    words[next(place for place, word in enumerate(words) if word.startswith("jobs/")) :]
    for block in blocks_of(TRAINING)
    if block.language == "bash"
    for words in block.commands
    if any(word.startswith("jobs/") for word in words)
]


@pytest.mark.slow
def test_what_is_marked_as_tested_runs(ray_cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines").symlink_to(REPOSITORY / "pipelines")
    ran = Counter()
    for block in BLOCKS:
        if block.mark.startswith("file: "):
            (tmp_path / block.mark.removeprefix("file: ")).write_text(block.text)
        elif block.mark == "tested":
            ran[block.language] += 1
            _run(block)
    assert ran == {"bash": 6, "python": 1}
    said = capsys.readouterr().out
    assert "took down 1 sources" in said
    assert re.search(r"^\w+_\d{5} A .+ \(\d+, \d+, 3\)$", said, re.MULTILINE), "the shards were read, and held a clip"
    mine, brief = (_keys(tmp_path, name) for name in ("mine", "mine-short"))
    assert brief < mine, "one of these films gives a clip that is longer than 2.6 s"
    assert _keys(tmp_path, "rest") == mine - brief
    repeated = pq.read_table(tmp_path / "data/datasets/rest/rejects.parquet").to_pylist()
    assert any(row["detail"].startswith("repeats elsewhere:") for row in repeated)
    left = [row["uri"] for row in pq.read_table(tmp_path / "data/datasets/default/rejects.parquet").to_pylist()]
    assert not any("000000-clean" in uri for uri in left)


@pytest.mark.slow
@pytest.mark.e2e
def test_the_training_guide_leads_from_films_through_every_stage_to_a_fine_tuned_model(
    ray_cluster, smallest_preset, tmp_path, monkeypatch
):
    """With a smaller network than the guide's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tested = [block for block in blocks_of(TRAINING) if block.mark == "tested"]
    assert len(tested) == 2
    smaller = ["--preset", str(smallest_preset)]
    for block in tested:
        _run(block, train=smaller, finetune=smaller)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    for stage in STAGES:
        experiment = client.get_experiment_by_name(f"training/{stage}")
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED", stage
        assert {"git_sha", "recipe.seed", "preset"} <= run.data.params.keys()
        assert {"loss", "lr", "grad_norm", "tokens_per_second", "data_wait", "memory_bytes"} <= run.data.metrics.keys()
        assert len(read_metrics(tmp_path / "runs" / stage)) == 2
        if stage in ("audio", "joint", "sft-1", "sft-2", "keyframes", "refiner"):
            assert client.list_artifacts(run.info.run_id, "samples"), f"{stage} left no sample"
        assert client.get_model_version_by_alias("skyreels-smallest", stage).run_id == run.info.run_id
    made = [facts(tmp_path / name) for name in ("clip.mp4", "my.mp4")]
    assert all(clip["frames"] > 1 and clip["audio_rate"] for clip in made)
    generator = Generator.from_pretrained(tmp_path / "runs" / "model", lora=tmp_path / "mine" / "adapter")
    assert generator.components.refiner is not None, "the newest export is the refiner's"


def facts(path):
    """Of a playable file, by another reader than ours."""
    with av.open(str(path)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate if container.streams.audio else None
    return {"frames": frames, "audio_rate": rate}


def _run(block, **added):
    """`added` are more words for jobs, by name."""
    if block.language == "python":
        exec(compile(block.text, str(GUIDE), "exec"), {})
        return
    for words in block.commands:
        if words[:3] == ["python", "-m", "pipelines.synthesis"]:
            render_world(words[3:])
            continue
        job = re.fullmatch(r"jobs/(\w+)\.py", words[1])
        assert words[0] == "python", words
        assert job, f"no tested block may run {words}"
        quiet = ["--quiet"] if job[1] not in ("plan",) else []
        assert JOBS[job[1]].main([*words[2:], *quiet, *added.get(job[1], [])]) == 0, words


def _keys(folder, dataset):
    return set(pq.read_table(folder / "data/datasets" / dataset / "manifest.parquet").column("key").to_pylist())


@pytest.mark.parametrize("words", CURATIONS, ids=" ".join)
def test_every_command_of_the_guide_has_arguments_and_settings_that_exist(words, tmp_path, monkeypatch):
    for block in BLOCKS:
        if block.mark.startswith("file: "):
            (tmp_path / block.mark.removeprefix("file: ")).write_text(block.text)
    (tmp_path / "pipelines").symlink_to(REPOSITORY / "pipelines")
    monkeypatch.chdir(tmp_path)
    arguments, settings = parse(curate._parser(), curate._with_command(words), many=("input", "source"))
    load_recipe(arguments.recipe, settings)


@pytest.mark.parametrize("words", TRAININGS, ids=" ".join)
def test_every_command_of_the_training_guide_has_arguments_that_exist(words):
    job = re.fullmatch(r"jobs/(\w+)\.py", words[0])[1]
    if words[:2] == ["jobs/train.py", "verify"]:
        train._verify_parser().parse_args(words[2:])
        return
    parse(JOBS[job]._parser(), curate._with_command(words[1:]) if job == "curate" else words[1:], many=("input",))


def test_the_evaluation_guide_judges_the_judge_and_ranks_votes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tested = [block for block in blocks_of(EVALUATION) if block.mark == "tested"]
    assert [block.language for block in tested] == ["bash", "python"]
    for block in tested:
        _run(block)
    said = capsys.readouterr().out
    assert re.search(r"^v2a +event_f1 +truth +1\.000", said, re.MULTILINE)
    assert re.search(r"^ours: \d+ \(\d+ to \d+\)$", said, re.MULTILINE)
    assert (tmp_path / "judged" / "report.html").stat().st_size > 10_000


def test_every_command_of_the_evaluation_guide_has_arguments_that_exist_and_its_table_every_suite():
    for block in blocks_of(EVALUATION):
        for words in block.commands if block.language == "bash" else ():
            suites_named(evaluate._parser().parse_args(words[2:]).suite)
    text = EVALUATION.read_text()
    assert [name for name in SUITES if f"`{name}`" not in text] == []


def test_the_guide_knows_every_reason_that_a_source_can_be_refused_for():
    rooms = [Path(errors.__file__).parent, Path(measure.__file__).parent]
    files = itertools.chain(rooms[0].glob("*.py"), (Path(module.__file__) for module in (cut, extract, measure)))
    reasons = {reason for file in files for reason in _reasons(file)}
    assert len(reasons) > 25
    text = GUIDE.read_text()
    assert {reason for reason in reasons if f"`{reason}`" not in text} == set()


def _reasons(file):
    """The first argument of every refusal in a module: `MediaError("truncated", …)`, or a choice between two."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("MediaError", "_refusal") and node.args:
            yield from _choices(node.args[0])


def _choices(node):
    if isinstance(node, ast.IfExp):
        yield from _choices(node.body)
        yield from _choices(node.orelse)
    elif isinstance(node, ast.Constant):
        yield node.value


def test_the_guide_names_every_shipped_recipe_and_every_score():
    text = GUIDE.read_text()
    assert [path.stem for path in RECIPES.glob("*.yaml") if f"| `{path.stem}` |" not in text] == []
    rules = [rule for path in RECIPES.glob("*.yaml") for rule in load_recipe(path.stem).filters.values()]
    assert {rule.score for rule in rules if rule is not None and f"`{rule.score}`" not in text} == set()
