import pytest
import torch

from model.network.rope import audio_times, axis_widths, grid_positions, reference_times, rotary_table, rotate
from model.shapes import AudioCodecSpec, ClipShape, VideoCodecSpec


def scores(q: torch.Tensor, k: torch.Tensor, q_at: torch.Tensor, k_at: torch.Tensor, widths: tuple[int, ...]):
    table = rotary_table(q_at, widths, 10_000.0), rotary_table(k_at, widths, 10_000.0)
    return rotate(q, table[0]) @ rotate(k, table[1]).mT


def test_rotation_equals_multiplication_by_complex_numbers() -> None:
    width = 16
    x = torch.randn(1, 1, 5, width, dtype=torch.float64)
    positions = torch.tensor([[-2.0], [0.0], [0.25], [3.0], [1000.0]])
    frequencies = torch.tensor([10_000.0 ** (-2 * i / width) for i in range(width // 2)], dtype=torch.float64)
    turned = torch.complex(x[..., : width // 2], x[..., width // 2 :]) * torch.exp(
        1j * positions.double() * frequencies
    )
    expected = torch.cat((turned.real, turned.imag), -1).float()
    torch.testing.assert_close(
        rotate(x.float(), rotary_table(positions, (width,), 10_000.0)), expected, atol=1e-4, rtol=0
    )


def test_a_constant_shift_of_all_times_changes_no_score() -> None:
    widths = axis_widths(32)
    q, k = torch.randn(2, 1, 2, 24, 32)
    grid = grid_positions(torch.arange(4.0), torch.arange(2.0), torch.arange(3.0))
    shifted = grid + torch.tensor([13.5, 0, 0])
    torch.testing.assert_close(
        scores(q, k, grid, grid, widths), scores(q, k, shifted, shifted, widths), atol=1e-4, rtol=1e-4
    )
    assert not torch.allclose(scores(q, k, grid, grid, widths), scores(q, k, grid, shifted, widths), atol=1e-2)


def test_every_axis_is_told_apart() -> None:
    widths = axis_widths(32)
    assert sum(widths) == 32
    q, k = torch.randn(2, 1, 1, 1, 32)
    origin = torch.zeros(1, 3)
    plain = scores(q, k, origin, origin, widths)
    for axis in range(3):
        moved = origin.clone()
        moved[0, axis] = 1
        assert not torch.allclose(scores(q, k, origin, moved, widths), plain)


def test_references_lie_one_after_another_before_frame_zero() -> None:
    assert reference_times([1, 3]).tolist() == [-4, -3, -2, -1]
    assert audio_times(3, 0.5, references=2).tolist() == [-1, -0.5, 0, 0.5, 1]


@pytest.mark.parametrize("seconds", [5, 15])
def test_audio_position_falls_on_the_video_time_it_sounds_at(seconds: float) -> None:
    video, audio = VideoCodecSpec(channels=16), AudioCodecSpec(channels=40, sample_rate=44_100, hop=1024)
    clip = ClipShape.from_seconds(seconds, 16, 64, 64, video, audio)
    times = audio_times(clip.audio_latent_length, clip.audio_time_scale)
    heard = torch.arange(clip.audio_latent_length) * 1024 / 44_100
    shown = heard / clip.seconds * clip.latent_frames
    assert (times - shown).abs().max() < clip.audio_time_scale  # whole latents: at most one short of the clip's end


def test_a_scale_per_sample_gives_times_per_sample() -> None:
    times = audio_times(4, torch.tensor([0.1, 0.2]))
    torch.testing.assert_close(times, torch.tensor([[0, 0.1, 0.2, 0.3], [0, 0.2, 0.4, 0.6]]))
