import dataclasses

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from model.config import TransformerConfig
from model.network import branch
from model.network.keyframes import KeyframeInput
from model.network.mmdit import AUDIO, VIDEO, JointInputs, MMDiT, predict
from model.network.modulation import Vector, gated_residual, modulated_norm
from model.network.rope import RotaryTable

TINY = TransformerConfig(
    width=48, heads=2, dual_blocks=1, single_blocks=2, text_width=20, video_channels=3, audio_channels=5, mlp_ratio=2.0
)


def build(config: TransformerConfig = TINY, seed: int = 0) -> MMDiT:
    """A model with nothing left at zero, so that every path carries something."""
    torch.manual_seed(seed)
    model = MMDiT(config)
    for parameter in model.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def joint_inputs(batch: int = 2, frames: int = 3, length: int = 12, text: int = 6) -> JointInputs:
    return JointInputs(
        text=torch.randn(batch, text, TINY.text_width),
        timesteps=torch.rand(batch, 1).expand(-1, 2),
        video=torch.randn(batch, 2 * TINY.video_channels + 1, frames, 4, 6),
        audio=torch.randn(batch, TINY.audio_channels, length),
        audio_time_scale=frames / length,
    )


def change(inputs: JointInputs, **values: object) -> JointInputs:
    return dataclasses.replace(inputs, **values)


def assert_same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def differs(a: Tensor, b: Tensor) -> bool:
    return not torch.allclose(a, b, atol=1e-4)


def test_shapes_of_all_outputs() -> None:
    keyframes = KeyframeInput(torch.randn(2, 7, 2, 8, 12), indices=(0, 2))
    outputs = predict(build(), change(joint_inputs(), keyframes=keyframes))
    assert outputs.video.shape == (2, 3, 3, 4, 6)
    assert outputs.audio.shape == (2, 5, 12)
    assert outputs.keyframes.shape == (2, 3, 2, 8, 12)
    assert {part.dtype for part in (outputs.video, outputs.audio, outputs.keyframes)} == {torch.float32}


def test_a_keyframe_at_the_sequences_own_size_is_one_more_copy_of_its_frame() -> None:
    """Same content, same place and time, no resolution vector: both copies must be given the same velocity."""
    model, inputs = build(), joint_inputs()
    torch.nn.init.zeros_(model.video.keyframe_embedding)
    keyframes = KeyframeInput(inputs.video[:, :, [0, 2]], indices=(0, 2))
    outputs = predict(model, change(inputs, keyframes=keyframes))
    assert_same(outputs.keyframes, outputs.video[:, :, [0, 2]])
    elsewhere = predict(model, change(inputs, keyframes=dataclasses.replace(keyframes, indices=(0, 1))))
    assert differs(elsewhere.keyframes[:, :, 1], elsewhere.video[:, :, 2])


def test_a_new_model_predicts_nothing_and_reads_nothing_across() -> None:
    torch.manual_seed(0)
    model = MMDiT(TINY)
    assert not predict(model, joint_inputs()).video.any()
    for name, parameter in model.named_parameters():
        if name.endswith(("reads_video.gate", "reads_audio.gate")) or "_modulation." in name:
            assert not parameter.any(), name


def test_gradients_flow_to_every_parameter() -> None:
    model = build(dataclasses.replace(TINY, sparse=True, sparse_min_tokens=1))
    model.gradient_checkpointing = True
    inputs = change(
        joint_inputs(),
        keyframes=KeyframeInput(torch.randn(2, 7, 1, 8, 12), indices=(2,)),
        video_references=[torch.randn(2, 3, 1, 4, 6)],
        audio_references=[torch.randn(2, 5, 2)],
        sparsity=0.5,
    )
    outputs = model(inputs)
    sum(part.square().sum() for part in (outputs.video, outputs.audio, outputs.keyframes)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model, inputs = build(), joint_inputs()
    gradients = []
    for checkpointing in (False, True):
        model.gradient_checkpointing = checkpointing
        model.zero_grad()
        model(inputs).video.square().sum().backward()
        gradients.append(model.video.media_in.weight.grad.clone())
    assert_same(*gradients)


class Counted(TorchDispatchMode):
    """How often attention runs."""

    attentions = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.attentions += "scaled_dot_product" in operation.name() and "backward" not in operation.name()
        return operation(*args, **(kwargs or {}))


def test_kept_attention_is_not_made_again_and_changes_no_gradient() -> None:
    model, inputs = build(), change(joint_inputs(), video_references=[torch.randn(2, 3, 1, 4, 6)])
    gradients, runs = [], []
    for checkpointing, keeping in ((False, False), (True, False), (True, True)):
        model.gradient_checkpointing, model.keeps_attention = checkpointing, keeping
        model.zero_grad()
        with Counted() as counted:
            outputs = model(inputs)
            (outputs.video.square().sum() + outputs.audio.square().sum()).backward()
        runs.append(counted.attentions)
        gradients.append({name: part.grad for name, part in model.named_parameters() if part.grad is not None})
    assert runs == [15, 30, 15]  # five a layer: two of themselves, one of the text, two of each other
    for name, gradient in gradients[0].items():
        assert_same(gradients[1][name] / gradient.abs().max(), gradient / gradient.abs().max())
        assert_same(gradients[2][name] / gradient.abs().max(), gradient / gradient.abs().max())


def test_video_alone_equals_the_joint_model_with_its_audio_path_gated_off() -> None:
    model, inputs = build(), joint_inputs()
    joint = predict(model, inputs).video
    alone = predict(model, change(inputs, audio=None)).video
    assert differs(joint, alone)
    for layer in model.layers:
        torch.nn.init.zeros_(layer.video_reads_audio.gate)
    for parameter in model.audio.media_modulation.parameters():
        torch.nn.init.zeros_(parameter.view(9, TINY.width, -1)[8])
    assert_same(predict(model, inputs).video, alone)


def test_cross_modal_switch_works_per_sample() -> None:
    model, inputs = build(), joint_inputs()
    on, off = predict(model, inputs), predict(model, change(inputs, cross_modal=False))
    mixed = predict(model, change(inputs, cross_modal=torch.tensor([True, False])))
    assert_same(mixed.video, torch.stack((on.video[0], off.video[1])))
    assert_same(mixed.audio, torch.stack((on.audio[0], off.audio[1])))
    assert differs(on.audio, off.audio)


def test_branches_built_alone_run_alone() -> None:
    inputs = joint_inputs()
    video_only = build(dataclasses.replace(TINY, audio_channels=0))
    assert predict(video_only, change(inputs, audio=None)).audio is None
    audio_only = build(dataclasses.replace(TINY, video_channels=0))
    assert predict(audio_only, change(inputs, video=None)).audio.shape == (2, 5, 12)
    with pytest.raises(ValueError, match="audio latents were given"):
        predict(video_only, inputs)


@pytest.mark.parametrize("audio_first", [True, False])
def test_audio_first_order_is_told_from_parallel_by_perturbation(audio_first: bool) -> None:
    """In one layer, what audio reads from video reaches the video output only if audio is updated first."""
    config = dataclasses.replace(TINY, dual_blocks=0, single_blocks=1, audio_first=audio_first)
    model, inputs = build(config), joint_inputs()
    before = predict(model, inputs).video
    torch.nn.init.normal_(model.layers[0].audio_reads_video.attention.out.weight, std=1.0)
    assert differs(predict(model, inputs).video, before) == audio_first


def test_text_padding_has_no_effect() -> None:
    model, inputs = build(), joint_inputs()
    padded = torch.cat((inputs.text, 100 * torch.randn(2, 3, TINY.text_width)), 1)
    mask = torch.arange(9).expand(2, -1) < 6
    expected, actual = predict(model, inputs), predict(model, change(inputs, text=padded, text_mask=mask))
    assert_same(actual.video, expected.video)
    assert_same(actual.audio, expected.audio)


def test_a_batch_of_mixed_lengths_equals_one_by_one() -> None:
    model = build()
    short, long = joint_inputs(1, frames=2, length=7, text=4), joint_inputs(1, frames=4, length=15, text=9)
    batch = JointInputs(
        text=torch.cat((torch.nn.functional.pad(short.text, (0, 0, 0, 5)), long.text)),
        text_mask=torch.arange(9)[None] < torch.tensor([[4], [9]]),
        timesteps=torch.cat((short.timesteps, long.timesteps)),
        video=torch.cat((torch.nn.functional.pad(short.video, (0, 0, 0, 0, 0, 2), value=9.0), long.video)),
        video_mask=torch.arange(4)[None] < torch.tensor([[2], [4]]),
        audio=torch.cat((torch.nn.functional.pad(short.audio, (0, 8), value=9.0), long.audio)),
        audio_mask=torch.arange(15)[None] < torch.tensor([[7], [15]]),
        audio_time_scale=torch.tensor([2 / 7, 4 / 15]),
    )
    together, first, second = predict(model, batch), predict(model, short), predict(model, long)
    assert_same(together.video[:1, :, :2], first.video)
    assert_same(together.audio[:1, :, :7], first.audio)
    assert_same(together.video[1:], second.video)
    assert_same(together.audio[1:], second.audio)


def test_what_one_step_cached_gives_the_same_velocities_at_another() -> None:
    model = build()
    first = change(
        joint_inputs(),
        text_mask=torch.arange(6)[None] < torch.tensor([[6], [3]]),
        video_references=[torch.randn(2, 3, 2, 4, 6)],
        audio_references=[torch.randn(2, 5, 3)],
        reference_rows=torch.tensor([[True, True], [False, True]]),
        keyframes=KeyframeInput(torch.randn(2, 7, 2, 8, 12), indices=(0, 2)),
    )
    other = change(
        first,
        timesteps=torch.tensor([[0.3, 0.6]]),
        video=torch.randn_like(first.video),
        audio=torch.randn_like(first.audio),
        keyframes=KeyframeInput(torch.randn(2, 7, 2, 8, 12), indices=(0, 2)),
    )
    cached = predict(model, other, model.cache(first))
    plain = predict(model, change(other, timesteps=other.timesteps.expand(2, 2)))
    for stream in ("video", "audio", "keyframes"):
        assert_same(getattr(cached, stream), getattr(plain, stream))
    assert differs(plain.video, predict(model, first).video)


def test_references_can_be_left_out_per_sample() -> None:
    model, inputs = build(), joint_inputs()
    references = {"video_references": [torch.randn(2, 3, 2, 4, 6)], "audio_references": [torch.randn(2, 5, 3)]}
    with_references, without = predict(model, change(inputs, **references)), predict(model, inputs)
    rows = torch.tensor([[True, True], [False, False]])
    mixed = predict(model, change(inputs, **references, reference_rows=rows))
    assert_same(mixed.video, torch.stack((with_references.video[0], without.video[1])))
    assert_same(mixed.audio, torch.stack((with_references.audio[0], without.audio[1])))
    assert differs(with_references.video, without.video)


def test_one_reference_can_be_left_out_and_the_others_keep_their_times() -> None:
    """Leaving out the first of two is the same as never having had it; the last keeps its place beside frame 0."""
    model, inputs = build(), joint_inputs()
    first, last = torch.randn(2, 3, 2, 4, 6), torch.randn(2, 3, 1, 4, 6)
    voice = torch.randn(2, 5, 3)
    both = change(inputs, video_references=[first, last], audio_references=[voice])
    masked = predict(model, change(both, reference_rows=torch.tensor([[False, True, True]] * 2)))
    never = predict(model, change(inputs, video_references=[last], audio_references=[voice]))
    assert_same(masked.video, never.video)
    assert_same(masked.audio, never.audio)
    voiceless = predict(model, change(both, reference_rows=torch.tensor([[True, True, False]] * 2)))
    assert_same(voiceless.audio, predict(model, change(inputs, video_references=[first, last])).audio)
    with pytest.raises(ValueError, match=r"reference_rows \(2, 2\) must be \(batch 2, 3"):
        change(both, reference_rows=torch.ones(2, 2, dtype=torch.bool))


def test_references_are_seen_as_clean_at_every_timestep() -> None:
    """With video at t = 1 the reference's modulation and the video's agree: a reference is then a frame at t = -1."""
    model, inputs = build(), joint_inputs()
    reference = torch.randn(2, 3, 1, 4, 6)
    seen = []
    for timestep in (0.2, 0.7):
        at = change(inputs, video_references=[reference], timesteps=torch.full((2, 2), timestep))
        tokens = model.video.embed(at.video, at)
        context = model.video.context(tokens, at.timesteps[:, VIDEO], torch.zeros(2, 1, TINY.width), None)
        shift = context.modulation.with_table(torch.zeros(9, TINY.width))[0]
        seen.append(per_token(shift, tokens.count))
    per_frame = 2 * 3
    assert_same(seen[0][:, :per_frame], seen[1][:, :per_frame])
    assert differs(seen[0][:, per_frame:], seen[1][:, per_frame:])


def per_token(vector: Vector, tokens: int) -> Tensor:
    """(B, N, width): what each token is modulated by."""
    if vector.clean is None:
        return vector.noisy.expand(-1, tokens, -1)
    is_reference = torch.arange(tokens)[None, :, None] < vector.references
    return torch.where(is_reference, vector.clean, vector.noisy)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("references", [0, 3, 8])
def test_modulation_by_slices_is_that_of_every_token_by_itself(references: int, precision: torch.dtype) -> None:
    tokens, width = 8, 6
    x, update, direction = (torch.randn(2, tokens, width, dtype=precision) for _ in range(3))
    given = [torch.randn(2, 1, width) for _ in range(6)]

    def run(sliced: bool) -> list[Tensor]:
        leaves = [part.clone().requires_grad_() for part in (x, update, *given)]
        vectors = [
            Vector(n, c if references else None, references) for n, c in zip(leaves[2::2], leaves[3::2], strict=True)
        ]
        if not sliced:
            vectors = [Vector(per_token(vector, tokens)) for vector in vectors]
        shift, scale, gate = vectors
        made = gated_residual(modulated_norm(leaves[0], shift, scale), leaves[1], gate)
        read = leaves if references not in (0, tokens) else [*leaves[:2], *leaves[2 + (references > 0) :: 2]]
        return [made, *torch.autograd.grad(made, read, direction)]

    for ours, slow in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(ours, slow, atol=1e-6 if precision == torch.float32 else 2e-2, rtol=1e-5)


def test_a_layer_makes_no_modulation_of_every_token() -> None:
    """What autograd keeps beside references is what it keeps of as many tokens without any."""
    kept = []
    for frames, references in ((3, 2), (5, 0)):
        model = build(dataclasses.replace(TINY, single_blocks=1, dual_blocks=1, audio_channels=0))
        inputs = change(joint_inputs(frames=frames), audio=None)
        inputs = change(inputs, video_references=[torch.randn(2, 3, references, 4, 6)] if references else [])
        sizes: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: Tensor, sizes: dict[int, torch.UntypedStorage] = sizes) -> Tensor:
            sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(inputs)
        kept.append(sum(storage.nbytes() for storage in sizes.values()))
    assert kept[0] == pytest.approx(kept[1], rel=0.05)


def test_the_order_of_references_matters_and_none_collides_with_frame_zero() -> None:
    model, inputs = build(), joint_inputs()
    first, second = torch.randn(2, 2, 3, 1, 4, 6)
    one = predict(model, change(inputs, video_references=[first, second])).video
    other = predict(model, change(inputs, video_references=[second, first])).video
    assert differs(one, other)


def test_a_constant_shift_of_all_times_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = build(), change(joint_inputs(), video_references=[torch.randn(2, 3, 2, 4, 6)])
    expected, table = predict(model, inputs), branch.rotary_table

    def shifted(positions: Tensor, widths: tuple[int, ...], theta: float) -> RotaryTable:
        moved = positions.clone()
        moved[..., 0] += 7.5
        return table(moved, widths, theta)

    monkeypatch.setattr(branch, "rotary_table", shifted)
    outputs = predict(model, inputs)
    assert_same(outputs.video, expected.video)
    assert_same(outputs.audio, expected.audio)


def test_x0_prediction_is_returned_as_a_velocity() -> None:
    config = dataclasses.replace(TINY, prediction="x0")
    velocity_model, x0_model = build(TINY), build(config)
    inputs = change(joint_inputs(), timesteps=torch.full((2, 2), 0.25))
    predicted, velocity = predict(velocity_model, inputs), predict(x0_model, inputs)
    noisy = inputs.video[:, :3]
    assert_same(noisy + 0.75 * velocity.video, predicted.video)
    assert_same(inputs.audio + 0.75 * velocity.audio, predicted.audio)


def test_per_modality_timesteps_reach_their_own_branch() -> None:
    model, inputs = build(), change(joint_inputs(), cross_modal=False)
    moved = inputs.timesteps.clone()
    moved[:, AUDIO] += 0.3
    outputs, other = predict(model, inputs), predict(model, change(inputs, timesteps=moved))
    assert_same(outputs.video, other.video)
    assert differs(outputs.audio, other.audio)


def test_bfloat16_weights_stay_close_to_float32() -> None:
    model, inputs = build(), joint_inputs()
    expected = predict(model, inputs).video
    actual = predict(model.bfloat16(), inputs).video
    assert actual.dtype == torch.float32
    assert (actual - expected).norm() / expected.norm() < 0.05


def test_every_module_shows_sharding_hooks_what_goes_in_and_what_comes_out() -> None:
    """ZeRO-3 gathers a module's weights by hooks on tensors in tuples; tensors inside dataclasses it does not see."""
    model = build(dataclasses.replace(TINY, sparse=True, sparse_min_tokens=1))
    inputs = change(joint_inputs(), video_references=[torch.randn(2, 3, 1, 4, 6)], sparsity=0.5)

    def visible(value: object) -> bool:
        return any(map(visible, value)) if isinstance(value, tuple | list) else isinstance(value, Tensor)

    called: list[str] = []
    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(
                lambda _, given, out, name=name: called.append(name) if visible(given) and visible(out) else None
            )
    hidden = {name for name, module in model.named_modules() if name and "forward" in type(module).__dict__}
    model(inputs)
    assert hidden <= set(called)


def test_autocast_trains_with_float32_weights() -> None:
    model = build(dataclasses.replace(TINY, sparse=True, sparse_min_tokens=1))
    inputs = change(joint_inputs(), video_references=[torch.randn(2, 3, 1, 4, 6)], sparsity=0.5)
    expected = predict(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(inputs)
    assert (outputs.video - expected.video).norm() / expected.video.norm() < 0.05
    (outputs.video.square().mean() + outputs.audio.square().mean()).backward()
    assert all(
        parameter.grad.dtype == torch.float32
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    )


def test_what_cannot_work_is_refused() -> None:
    inputs = joint_inputs()
    with pytest.raises(ValueError, match="audio_time_scale"):
        change(inputs, audio_time_scale=0.0)
    with pytest.raises(ValueError, match="padded to the video"):
        change(inputs, video_references=[torch.randn(2, 3, 1, 4, 4)])
    with pytest.raises(ValueError, match="sparse: true"):
        predict(build(), change(inputs, sparsity=0.5))
    with pytest.raises(ValueError, match="full-rank noise"):
        dataclasses.replace(TINY, video_channels=16)


@pytest.mark.slow
@pytest.mark.parametrize("references", [False, True])
def test_layers_compile_without_a_graph_break_and_share_their_code(references: bool) -> None:
    """Two compilations per kind of layer, for its first (whose inputs lie in memory otherwise) and all the rest."""
    config = dataclasses.replace(TINY, dual_blocks=3, single_blocks=4, sparse=True, sparse_min_tokens=1)
    model, inputs = build(config), change(joint_inputs(), sparsity=0.5)
    if references:
        inputs = change(inputs, video_references=[torch.randn(2, 3, 1, 4, 6)])
    expected = predict(model, inputs)
    graphs = CompileCounter()
    torch._dynamo.reset()
    for layer in model.layers:
        layer.compile(backend=graphs, fullgraph=True)
    with torch.no_grad():
        assert_same(model(inputs).video, expected.video)
    assert graphs.frame_count == 4


class AttentionMasks(TorchFunctionMode):
    """The masks that fused attention is called with: on a GPU its fastest kernel, flash attention, takes none."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[Tensor | None] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.masks.append((kwargs or {}).get("attn_mask"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("padded", [False, True])
def test_flash_attention_can_run_wherever_nothing_is_padded_or_hidden(padded: bool) -> None:
    full = torch.ones(2, 6, dtype=torch.bool)
    inputs = change(
        joint_inputs(),
        text_mask=full.clone().index_fill_(1, torch.tensor([5]), not padded),
        video_references=(torch.randn(2, 3, 1, 4, 6),),
        audio_references=(torch.randn(2, 5, 4),),
        reference_rows=torch.ones(2, 2, dtype=torch.bool),
        video_mask=torch.ones(2, 3, dtype=torch.bool),
        audio_mask=torch.ones(2, 12, dtype=torch.bool),
    )
    with AttentionMasks() as seen:
        predict(build(), inputs)
    assert seen.masks
    assert any(mask is not None for mask in seen.masks) == padded
