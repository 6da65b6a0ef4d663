import torch
from torch import nn

from model.network.inputs import JointOutputs
from pipelines.training.data.assembler import Assembler
from pipelines.training.learners.preview import PreviewSettings, denoise
from pipelines.training.tasks import TaskSettings


class Knowing(nn.Module):
    """Points at the clean latents from wherever it is, and keeps what it was given."""

    def __init__(self, **clean):
        super().__init__()
        self.anywhere = nn.Parameter(torch.zeros(1))
        self.clean, self.seen = clean, []

    def forward(self, inputs):
        self.seen.append(inputs)
        noisy = {"video": inputs.video[:, :4], "audio": inputs.audio}
        if inputs.keyframes is not None:
            noisy["keyframes"] = inputs.keyframes.latents[:, :4]
        return JointOutputs(**{name: self._velocity(name, noisy[name], inputs.timesteps) for name in self.clean})

    def _velocity(self, name, noisy, timesteps):
        t = timesteps[:, 1 if name == "audio" else 0].view(-1, *[1] * (noisy.ndim - 1))
        return (self.clean[name] - noisy) / (1 - t)


def denoised(task, latents, preset, streams):
    settings = TaskSettings(refiner=preset.refiner)
    batch = Assembler(preset, "joint", latents, settings).batch(
        task, [latents.samples["video-0"]], torch.Generator().manual_seed(0)
    )
    clean = {name: torch.randn_like(batch.targets[name].velocity) for name in streams}
    module = Knowing(**clean)
    made = denoise(module, batch, PreviewSettings(steps=3, shift=1.0), torch.Generator().manual_seed(1))
    return batch, clean, module, made


def test_noise_follows_the_velocity_to_the_latents_it_points_at(latents, small_preset):
    batch, clean, module, made = denoised("keyframes", latents, small_preset, ("video", "audio", "keyframes"))
    for name, expected in clean.items():
        assert torch.allclose(made[name], expected, atol=1e-5)
    assert [float(inputs.timesteps[0, 0]) for inputs in module.seen] == [
        0.0,
        *[float(torch.tensor(i / 3)) for i in (1, 2)],
    ]
    for inputs in module.seen:  # the conditions stay
        assert torch.equal(inputs.video[:, 4:], batch.inputs.video[:, 4:])
        assert torch.equal(inputs.keyframes.latents[:, 4:], batch.inputs.keyframes.latents[:, 4:])


def test_a_given_stream_stays_clean_at_timestep_one(latents, small_preset):
    batch, clean, module, made = denoised("v2a", latents, small_preset, ("audio",))
    assert torch.allclose(made["audio"], clean["audio"], atol=1e-5)
    assert torch.equal(made["video"][0], latents.samples["video-0"].video)
    for inputs in module.seen:
        assert torch.equal(inputs.video, batch.inputs.video)
        assert inputs.timesteps[0, 0] == 1
