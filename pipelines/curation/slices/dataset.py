"""A large dataset: chosen, captioned, packed and accounted for slice by slice, in tasks; the driver adds up.

<output>/datasets/<name>/_work/<state>/   what the steps hand each other, while the pool is in that state; deleted when
                                          the dataset is finished
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from numpy.typing import NDArray

from pipelines.curation import annotators, layers, packing
from pipelines.curation.choice import elsewhere
from pipelines.curation.choice.selection import Decisions
from pipelines.curation.choice.sliced import Choosing, decision_table, decisions_of, select_slices
from pipelines.curation.packing import Pack, PackPlan
from pipelines.curation.pool import tables
from pipelines.curation.pool.read import Pool
from pipelines.curation.recipe import Recipe
from pipelines.curation.report import funnel
from pipelines.curation.report.write import write_report
from pipelines.curation.slices.finish import Finished, Making, finish_slice, joined_rows, to_be_said
from pipelines.curation.slices.pool import slice_of_keys, task_bytes
from pipelines.curation.summary import Dataset, Work, together
from pipelines.dataset.exchange import Facts, Steps, read, write
from pipelines.dataset.manifest import MANIFEST
from pipelines.dataset.parts_of_table import fingerprint, is_published, is_there, publish, write_part
from pipelines.dataset.tables import concat
from skyreels.cluster import LazyCluster
from skyreels.commits import digest, stable_json
from skyreels.storage import Storage

logger = logging.getLogger(__name__)

REJECTS = "rejects.parquet"
RECIPE = "recipe.yaml"
WORK = "_work"
_STATE = "_state.json"  # of a finished dataset
Place = Callable[[Sequence[str]], NDArray[np.int64]]
"""The slices of keys."""

_SHOWN = 20_000  # clips, and sources, that the report's histograms and lists are of


def finish_slices(
    root: Storage,
    slices: Sequence[Pool],
    recipe: Recipe,
    taken_down: frozenset[str],
    cluster: LazyCluster,
    started: float,
    work: Work,
) -> Dataset:
    """The dataset of these slices of a pool; its layers are filled first."""
    store = root.sub(f"datasets/{recipe.name}")
    place = partial(slice_of_keys, count=len(slices))
    _fill_layers(root, slices, recipe, cluster, place)
    steps = _steps(root, recipe, cluster)
    answers = layers.send_answers(steps, annotators.before_selection(recipe, root), root, place)
    steps.run("rows", _Rows(steps.store, slices, recipe, root, answers), len(slices))
    choosing = Choosing(recipe, partial(packing.kept_between, store), taken_down, tuple(elsewhere.stores(recipe, root)))
    step = select_slices(steps, "rows", len(slices), choosing)
    task = _Slice(steps.store, slices, recipe, root, step)
    task = _ask_captioner(steps, task, place)
    facts = steps.run("finished", _Finish(task, store, max(1, _SHOWN // len(slices))), len(slices))
    summary = together([Dataset(**fact["summary"]) for fact in facts], time.monotonic() - started)
    files = {name: [fact["files"][name] for fact in facts] for name in (MANIFEST, REJECTS)}
    made_by = recipe_yaml(recipe)
    same = all(is_published(store, name, listed) for name, listed in files.items())
    if not (same and store.exists("report.html") and store.exists(RECIPE) and store.read(RECIPE) == made_by):
        store.write("report.html", _page(root, steps.store, recipe, facts, summary, work).encode())
        publish(store, REJECTS, files[REJECTS])
        store.write(RECIPE, made_by)
        publish(store, MANIFEST, files[MANIFEST])
    plans = (PackPlan(fact["plan"], tuple(Pack(pack, "", ()) for pack in fact["packs"])) for fact in facts)
    packing.drop_stale(store, *plans)
    drop_work(store)
    told = {"state": _state(root, recipe, "choice"), "summary": asdict(summary)}
    store.write(_STATE, stable_json(told))
    return summary


def unchanged(root: Storage, recipe: Recipe) -> Dataset | None:
    """What the finished dataset came to, if it is of all that is there now: then there is nothing to do."""
    store = root.sub(f"datasets/{recipe.name}")
    if not store.exists(_STATE) or not is_there(store, MANIFEST):
        return None
    try:
        told = json.loads(store.read(_STATE))
    except ValueError as error:
        logger.warning("%s is damaged (%s): the dataset is made again", store.location(_STATE), error)
        return None
    return Dataset(**told["summary"]) if told["state"] == _state(root, recipe, "choice") else None


def work_of(root: Storage, recipe: Recipe, what: str) -> Storage:
    """Where steps leave their files while the pool, its layers, the recipe and the last dataset are what they are."""
    return root.sub(f"datasets/{recipe.name}/{WORK}/{what}-{_state(root, recipe, what)}")


def _steps(root: Storage, recipe: Recipe, cluster: LazyCluster | None) -> Steps:
    return Steps(work_of(root, recipe, "choice"), cluster, task_bytes(root.sub("pool")))


def _state(root: Storage, recipe: Recipe, what: str) -> str:
    store = root.sub(f"datasets/{recipe.name}")
    state: dict[str, Any] = {"recipe": recipe.model_dump(mode="json")}
    for folder in ("pool/_commits", "pool/_plan", "pool/_seen", *(["layers"] if what == "choice" else [])):
        cut = len(root.root)
        state[folder] = digest({entry.location[cut:]: entry.size for entry in root.files(folder)})
    state["taken_down"] = root.read("taken_down.json").decode() if root.exists("taken_down.json") else ""
    known = [store, *elsewhere.stores(recipe, root)] if what == "choice" else []
    state["manifests"] = [fingerprint(held, MANIFEST) if is_there(held, MANIFEST) else "" for held in known]
    return digest(state)


def drop_work(store: Storage) -> None:
    """Delete what steps left in a dataset's folder."""
    for name in store.names(WORK):
        store.delete(name)


def recipe_yaml(recipe: Recipe) -> bytes:
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False).encode()


@dataclass(frozen=True)
class _Rows:
    """The rows of a slice as selection looks at them."""

    store: Storage
    slices: Sequence[Pool]
    recipe: Recipe
    root: Storage
    answers: layers.SentAnswers

    def __call__(self, index: int) -> Facts:
        rows = joined_rows(self.slices[index], self.recipe, self.root, self.answers.of(index))
        write(self.store, f"rows/{index:06d}", tables.clip_table(rows))
        return {"clips": len(rows)}


@dataclass(frozen=True)
class _Slice:
    """A slice with its decisions."""

    store: Storage
    slices: Sequence[Pool]
    recipe: Recipe
    root: Storage
    step: str
    answers: layers.SentAnswers | None = None

    def read(self, index: int) -> tuple[Pool, list[dict[str, Any]], Decisions]:
        clips = read(self.store, f"rows/{index:06d}").to_pylist()
        return self.slices[index], clips, decisions_of(self.store, index, self.step)

    def making(self, index: int, decisions: Decisions) -> Making:
        store = self.root.sub(f"datasets/{self.recipe.name}")
        answers = self.answers.of(index) if self.answers else None
        return Making(self.root, store, self.recipe, None, decisions, quiet=True, answers=answers)


def _fill_layers(
    root: Storage, slices: Sequence[Pool], recipe: Recipe, cluster: LazyCluster | None, place: Place
) -> None:
    """Ask the layers that selection needs about the clips that they have no answer for."""
    steps = _steps(root, recipe, cluster)
    for layer in annotators.before_selection(recipe, root):
        answers = layers.send_answers(steps, [layer], root, place)
        name = f"missing-{layer.name}"
        missing = _Missing(steps.store, slices, recipe, root, name, answers, layer.name)
        _fill(steps, layer, name, steps.run(name, missing, len(slices)), root)


def _ask_captioner(steps: Steps, task: _Slice, place: Place) -> _Slice:
    """Fill the layer of captions, as far as chosen clips are not in it; the task with its answers."""
    layer = annotators.caption_layer(task.recipe.captions, task.root)
    if layer is None:
        return task
    sent = layers.send_answers(steps, [layer], task.root, place)
    name = f"unsaid-{digest(sent.sent)}"
    asked = _Unsaid(replace(task, answers=sent), name)
    _fill(steps, layer, name, steps.run(name, asked, len(task.slices)), task.root)
    return replace(task, answers=layers.send_answers(steps, [layer], task.root, place))


def _fill(steps: Steps, layer: layers.Layer, name: str, facts: Sequence[Facts], root: Storage) -> None:
    """Ask a layer about the clips that the slices of a step hold."""
    for index in [index for index, fact in enumerate(facts) if fact["clips"]]:
        if steps.cluster is not None:
            steps.cluster.join()
        clips = read(steps.store, f"{name}/{index:06d}").to_pylist()
        sum(layers.fill(layer, clips, root, here=steps.cluster is None))


@dataclass(frozen=True)
class _Missing:
    """The clips of a slice that a layer is for and has no answer for."""

    store: Storage
    slices: Sequence[Pool]
    recipe: Recipe
    root: Storage
    name: str
    answers: layers.SentAnswers
    layer: str

    def __call__(self, index: int) -> Facts:
        (layer,) = (one for one in annotators.before_selection(self.recipe, self.root) if one.name == self.layer)
        clips = [row for row in self.slices[index].clips.to_pylist() if row["stage"] is None and layer.wants(row)]
        said = self.answers.of(index)(layer, clips)
        missing = [clip for clip in clips if said.get(clip["key"], {"error": ""})["error"] is not None]
        write(self.store, f"{self.name}/{index:06d}", tables.clip_table(missing))
        return {"clips": len(missing)}


@dataclass(frozen=True)
class _Unsaid:
    """The clips of a slice that the captioner has to be asked about."""

    task: _Slice
    name: str

    def __call__(self, index: int) -> Facts:
        pool, clips, decisions = self.task.read(index)
        asked = to_be_said(pool, clips, self.task.making(index, decisions))
        write(self.task.store, f"{self.name}/{index:06d}", tables.clip_table(asked))
        return {"clips": len(asked)}


@dataclass(frozen=True)
class _Finish:
    """One slice of the dataset, and what the report needs of it: its counts, and `shown` of its clips and sources."""

    task: _Slice
    store: Storage
    shown: int

    def __call__(self, index: int) -> Facts:
        pool, clips, decisions = self.task.read(index)
        made = finish_slice(pool, clips, self.task.making(index, decisions))
        self._sample(index, pool, made, decisions)
        return {
            "plan": made.plan.name,
            "packs": [pack.pack_id for pack in made.plan.packs],
            "files": {
                MANIFEST: write_part(self.store, MANIFEST, index, made.manifest),
                REJECTS: write_part(self.store, REJECTS, index, made.rejects),
            },
            "summary": asdict(made.summary),
            "steps": [asdict(step) for step in funnel.funnel_steps(pool.clips, pool.sources, decisions)],
            "reasons": [asdict(reason) for reason in funnel.reasons(pool.clips, pool.sources, decisions)],
        }

    def _sample(self, index: int, pool: Pool, made: Finished, decisions: Decisions) -> None:
        clips = _even(pool.clips, self.shown)
        keys = set(clips["key"].to_pylist())
        named = pc.is_in(pool.sources["source_id"], pc.unique(clips["source_id"]))
        lost = _even(pool.sources.filter(pc.not_equal(pool.sources["status"], "ok")), self.shown)
        of_clips = pool.sources.filter(named)
        known = set(of_clips["source_id"].to_pylist())
        more = lost.filter(pa.array([i not in known for i in lost["source_id"].to_pylist()], pa.bool_()))
        shown = {
            "clips": clips,
            "sources": concat([of_clips, more]),
            "decisions": decision_table({key: why for key, why in decisions.items() if key in keys}),
            "captions": pa.Table.from_pylist([
                {"key": key, **{n: str(row.get(n) or "") for n in ("short", "long", "caption_source")}}
                for key, row in made.captions.items() if key in keys
            ], pa.schema([(n, pa.string()) for n in ("key", "short", "long", "caption_source")])),
        }  # fmt: skip
        for what, table in shown.items():
            write(self.task.store, f"finished/{what}/{index:06d}", table)


def _even(table: pa.Table, most: int) -> pa.Table:
    """At most so many rows, evenly from all."""
    if len(table) <= most:
        return table
    return table.take(pa.array(np.linspace(0, len(table) - 1, most).round().astype(np.int64)))


def _page(root: Storage, store: Storage, recipe: Recipe, facts: Sequence[Facts], summary: Dataset, work: Work) -> str:
    """The report: counts of everything, histograms and lists of an even sample."""
    shown = {
        what: concat([read(store, f"finished/{what}/{index:06d}") for index in range(len(facts))])
        for what in ("clips", "sources", "captions")
    }
    decisions: Decisions = {}
    for index in range(len(facts)):
        decisions |= decisions_of(store, index, "finished/decisions")
    captions: Mapping[str, dict[str, Any]] = {row["key"]: row for row in shown["captions"].to_pylist()}
    counts = (
        funnel.steps_together([[funnel.Step(**step) for step in fact["steps"]] for fact in facts]),
        funnel.reasons_together([[funnel.Reason(**reason) for reason in fact["reasons"]] for fact in facts]),
    )
    pool = Pool(shown["clips"], shown["sources"])
    return write_report(root, pool, recipe, decisions, captions, summary, work, counts)
