import torch
from torch import nn

from model.network.inputs import JointInputs, JointOutputs
from pipelines.training.learners.transformer import objective
from pipelines.training.tasks.batch import Target, TrainingBatch


class Fixed(nn.Module):
    """Says zero velocities, whatever it is given."""

    def forward(self, inputs):
        return JointOutputs(inputs.video[:, :2] * 0, inputs.audio * 0)


def batch(errors, levels, weight=None):
    """Samples whose squared errors are `errors` everywhere, in both streams (the sound's twice the picture's)."""
    rows = torch.tensor(errors)
    video = rows.sqrt().view(-1, 1, 1, 1, 1).expand(-1, 2, 3, 2, 2).clone()
    audio = (2 * rows).sqrt().view(-1, 1, 1).expand(-1, 3, 4).clone()
    weight = torch.ones(len(rows), 1, 3, 2, 2) if weight is None else weight
    inputs = JointInputs(
        text=torch.zeros(len(rows), 1, 2),
        timesteps=torch.tensor(levels)[:, None].expand(-1, 2),
        video=torch.zeros(len(rows), 5, 3, 2, 2),
        audio=torch.zeros_like(audio),
        audio_time_scale=1.0,
    )
    targets = {"video": Target(video, weight), "audio": Target(audio, torch.ones(len(rows), 1, 1))}
    return TrainingBatch("t2av", inputs, targets, tuple(map(str, range(len(rows)))))


def test_the_loss_is_the_sum_of_both_modalities_means():
    made = objective(Fixed(), batch([1.0, 2.0], [0.1, 0.9]))
    assert torch.isclose(made.loss, torch.tensor(1.5 + 3.0))


def test_the_loss_does_not_depend_on_which_slot_a_sample_is_in():
    errors, levels = [1.0, 2.0, 4.0, 8.0], [0.1, 0.3, 0.6, 0.99]
    weight = torch.rand(4, 1, 3, 2, 2)  # however much of a sample is kept
    together = objective(Fixed(), batch(errors, levels, weight))
    for order in ([0, 1, 2, 3], [3, 0, 2, 1]):
        slots = [
            batch([errors[i] for i in pair], [levels[i] for i in pair], weight[list(pair)])
            for pair in (order[:2], order[2:])
        ]
        made = [objective(Fixed(), slot) for slot in slots]
        assert torch.isclose(sum(one.loss for one in made) / 2, together.loss)
        for name, (total, count) in together.sums.items():
            assert torch.isclose(sum(one.sums[name][0] for one in made), total)
            assert sum(one.sums[name][1] for one in made) == count


def test_losses_are_logged_by_task_and_by_quarter_of_the_timestep():
    sums = objective(Fixed(), batch([1.0, 2.0, 3.0], [0.1, 0.2, 1.0])).sums
    assert {name: (float(total), float(count)) for name, (total, count) in sums.items() if "video" in name} == {
        "loss/t2av/video": (6.0, 3.0),
        "loss/video/t0": (3.0, 2.0),
        "loss/video/t1": (0.0, 0.0),
        "loss/video/t2": (0.0, 0.0),
        "loss/video/t3": (3.0, 1.0),
    }
    assert float(sums["loss/t2av/audio"][0]) == 12.0


def test_weights_say_how_much_a_latent_counts():
    made = batch([1.0], [0.5])
    target = made.targets["video"]
    target.velocity[:, :, 0] = 10.0  # where nothing counts
    target.weight[:, :, 0] = 0.0
    assert torch.isclose(objective(Fixed(), made).sums["loss/t2av/video"][0], torch.tensor(1.0))
