"""Two workers that share every sequence learn what one worker learns alone, and groups that cannot be are refused."""

import json
import shutil
from contextlib import closing

import pytest
import torch
from safetensors.torch import load_file

from jobs import train
from model.codecs.loading import audio_codec_of, video_codec_of
from model.config import GenerationConfig, load_preset
from model.generation.components import Components
from model.generator import Generator
from model.network.mmdit import MMDiT
from model.prompt_encoder.tiny_encoder import encoder_of
from pipelines.training.curriculum.order import Curriculum
from pipelines.training.curriculum.recipe import STAGES
from pipelines.training.stages import train as run
from skyreels.training.checkpoints import Checkpoints, PieceReader

pytestmark = pytest.mark.e2e

STAGE, STEPS = "sft-1", 4
GIVEN = ("v2a", "a2v", "i2v", "start_end", "keyframes_at", "extend", "inpaint", "edit", "image_audio_ref")
MIX = [f"tasks.{task}=1" for task in ("t2av", "image_ref", "video_ref", "audio_ref")]
MIX += [f"tasks.{task}=0" for task in GIVEN]
"""Each of four tasks in one of four steps."""
PLAIN = ["precision=fp32", "ema=null", f"steps={STEPS}", f"latents={STAGE}", "samples_every_steps=4"]
"""No averages: the export is what was learned. A cache of this stage's own, as small as can be."""
LINEAR = ["optimizer.eps=100", "optimizer.learning_rate=100", "schedule.kind=constant", "schedule.warmup_steps=0"]
"""An `eps` above every gradient makes of AdamW's update the running average of gradients: SGD with momentum.

With a small one, an element whose gradient is near nothing moves as far as any other, in a direction that rounding
has chosen, and that no two orders of summation share.
"""


@pytest.fixture
def joined(smallest_preset, tmp_path):
    """An output folder where all stages before `STAGE` are on record, with a random generator as what they made.

    Not a fresh one: its heads and gates are zero and let no gradient through.
    """
    output, described = tmp_path / "alone", load_preset(smallest_preset)
    encoder = encoder_of(described.section("encoder"), tmp_path / "encoder")
    torch.manual_seed(0)
    video, audio = video_codec_of(described.section("video_codec")), audio_codec_of(described.section("audio_codec"))
    transformer = MMDiT(described.transformer)
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    parts = Components(transformer, video, encoder, audio, None, GenerationConfig.of(described))
    Generator(parts).save_pretrained(output / "components")
    curriculum = Curriculum(str(output), described)
    for stage in STAGES[: STAGES.index(STAGE)]:
        curriculum.mark_finished(stage, step=1, export=str(output / "components"), data="0")
    return output


def trained(output, curated, preset, workers, shared):
    """Metrics of every step, running averages of gradients, exported weights, and names of samples."""
    words = ["--data", str(curated), "--output", str(output), "--preset", str(preset), "--workers", str(workers)]
    words += [
        "--stage",
        STAGE,
        "--only",
        "--no-tracking",
        "--quiet",
        f"sequence_parallel={shared}",
        *MIX,
        *PLAIN,
        *LINEAR,
    ]
    assert train.main(words) == 0
    folder = output / STAGE
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = load_file(folder / "export/transformer/diffusion_pytorch_model.safetensors")
    with closing(PieceReader(Checkpoints.of(str(folder)), STEPS)) as reader:
        gradients = {name: reader.whole("exp_avg", name) for name in reader.facts.shapes}
    return metrics, gradients, weights, sorted(path.name for path in (folder / "samples").rglob("*.*"))


@pytest.mark.slow
def test_two_workers_that_share_sequences_learn_what_one_learns(joined, curated, smallest_preset, tmp_path):
    start = load_file(joined / "components/transformer/diffusion_pytorch_model.safetensors")
    metrics, gradients, weights, samples = trained(joined, curated, smallest_preset, workers=0, shared=1)
    together = tmp_path / "together"
    shutil.copytree(joined, together, symlinks=True, ignore=shutil.ignore_patterns(STAGE))
    metrics_shared, gradients_shared, weights_shared, samples_shared = trained(
        together, curated, smallest_preset, workers=2, shared=2
    )

    assert len(list((together / STAGE / "checkpoints").rglob("*.safetensors"))) == 2, "both ranks took part"
    assert [row["step"] for row in metrics_shared] == list(range(STEPS))
    for alone, shared in zip(metrics, metrics_shared, strict=True):
        named = [name for name in alone if name.startswith("loss") or name == "grad_norm"]
        assert {name: shared[name] for name in named} == pytest.approx({name: alone[name] for name in named}, rel=1e-5)
        tokens = [row["tokens_per_second"] * row["step_seconds"] for row in (alone, shared)]
        assert tokens[0] == pytest.approx(tokens[1]), "a slot that two ranks share counts once"
    tasks = {name.split("/")[1] for row in metrics for name in row if name.startswith("loss/")}
    assert {"t2av", "video_ref"} <= tasks
    assert gradients_shared.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (gradients_shared[name] - gradient).norm() <= 2e-5 * gradient.norm(), f"{name} has another gradient"
    assert weights_shared.keys() == weights.keys()
    learned = {name: (weight - start[name]).norm() for name, weight in weights.items()}
    assert [name for name, size in learned.items() if size == 0] == ["video.keyframe_embedding"]
    for name, weight in weights.items():
        rounding = torch.finfo(torch.float32).eps / 2 * weight.norm()
        assert (weights_shared[name] - weight).norm() <= 1e-5 * learned[name] + rounding, (
            f"{name} learned something else"
        )
    assert samples_shared == samples


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--workers", "3", "sequence_parallel=3"], "the 2 heads of preset smallest cannot be dealt out to"),
        (["--workers", "3", "sequence_parallel=2"], "3 workers do not form groups of sequence_parallel = 2"),
        (["--workers", "0", "sequence_parallel=2"], "1 workers do not form groups of sequence_parallel = 2"),
        (["--workers", "6", "sequence_parallel=2"], "2 slots cannot be shared evenly by 3 data-parallel ranks"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["", "dry"])
def test_groups_that_cannot_be_are_refused_before_anything_starts(
    smallest_preset, tmp_path, monkeypatch, capsys, words, reason, dry
):
    manifest = tmp_path / "data/datasets/default/manifest.parquet"
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(b"")
    monkeypatch.setattr(run, "fit_observed", lambda *arguments, **options: pytest.fail("the engine was started"))
    given = ["--stage", "video-1", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "runs"), *dry]
    assert train.main([*given, "--preset", str(smallest_preset), "--no-tracking", *words]) == 1
    assert f"error: codecs: {reason}" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "runs").exists()
