import json

import numpy as np
import pytest
from safetensors.numpy import save_file as save_arrays

from pipelines.curation.embeddings.backends import make_aesthetics, make_backend
from pipelines.curation.recipe import EmbeddingConfig

TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic", "resize_mode": "shortest"}


def picture(seed, height=72, width=96):
    """A smooth random scene."""
    import cv2

    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """An open_clip model with random weights, saved as such models are published."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    import skyreels  # noqa: F401

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    model = CLIP(**TINY_CLIP)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": PREPROCESS}))
    return folder


@pytest.fixture(scope="module")
def clip(clip_folder):
    return make_backend(EmbeddingConfig(backend="open_clip", model=f"local-dir:{clip_folder}"))


def test_the_loaded_model_computes_what_its_weights_say(clip, clip_folder):
    import torch
    from open_clip.model import CLIP
    from PIL import Image
    from safetensors.torch import load_file

    model = CLIP(**TINY_CLIP)
    model.load_state_dict(load_file(clip_folder / "open_clip_model.safetensors"))
    frame = picture(1, 32, 32)  # already at the model's size: only the normalisation is left
    pixels = torch.from_numpy(np.array(Image.fromarray(frame))).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        expected = model.eval().encode_image((pixels - 0.5) / 0.25, normalize=True)[0].numpy()
    assert np.allclose(clip([frame]), expected, atol=1e-5)


def test_a_clip_is_the_mean_of_its_frames_whatever_its_company(clip):
    clips = [[picture(i * 10 + j) for j in range(count)] for i, count in enumerate((1, 4, 20))]
    together = clip.many(clips)
    assert together.shape == (3, 32)
    assert together.dtype == np.float32
    for row, frames in zip(together, clips, strict=True):
        mean = np.mean([clip([frame]) for frame in frames], axis=0)
        assert np.allclose(row, mean / np.linalg.norm(mean), atol=1e-5)
        assert np.array_equal(clip(frames), clip(frames))


def test_identity_follows_the_weights_not_the_place(clip, clip_folder, tmp_path):
    import shutil

    from safetensors.numpy import load_file

    copy = tmp_path / clip_folder.name
    shutil.copytree(clip_folder, copy)
    assert make_backend(EmbeddingConfig(backend="open_clip", model=f"local-dir:{copy}")).identity == clip.identity
    tensors = load_file(copy / "open_clip_model.safetensors")
    tensors["visual.proj"] += np.float32(1)
    save_arrays(tensors, copy / "open_clip_model.safetensors")
    assert make_backend(EmbeddingConfig(backend="open_clip", model=f"local-dir:{copy}")).identity != clip.identity


def test_weights_that_are_missing_or_pickled_are_refused(clip_folder, tmp_path):
    def load(**config):
        return make_backend(EmbeddingConfig(backend="open_clip", **config))

    with pytest.raises(ValueError, match="pretrained is empty"):
        load(model="ViT-B-32")
    with pytest.raises(ValueError, match="pickled checkpoint"):
        load(model="ViT-B-32", pretrained="/weights/clip.pt")
    with pytest.raises(ValueError, match="no file"):
        load(model="ViT-B-32", pretrained="/weights/clip.safetensors")
    with pytest.raises(ValueError, match=r"no \.safetensors"):
        load(model=f"local-dir:{tmp_path}")


def test_descriptor_vectors_are_unit_and_repeatable():
    backend = make_backend(EmbeddingConfig())
    assert backend.identity.startswith("descriptor")
    frames = [picture(1), picture(2)]
    vector = backend(frames)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(vector, backend(frames))
    assert np.array_equal(backend.many([[picture(3)], frames])[1], vector)


def test_descriptor_knows_a_picture_again_and_tells_others_apart():
    import cv2

    backend = make_backend(EmbeddingConfig())
    scenes = [picture(seed, 180, 320) for seed in range(20)]
    base = backend.many([[scene] for scene in scenes])
    smaller = backend.many([[cv2.resize(scene, (160, 90), interpolation=cv2.INTER_AREA)] for scene in scenes])
    jpegs = [cv2.imdecode(cv2.imencode(".jpg", s, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR) for s in scenes]
    encoded = backend.many([[jpeg] for jpeg in jpegs])
    likeness = base @ base.T
    others = likeness[~np.eye(20, dtype=bool)].max()
    assert (base * smaller).sum(axis=1).min() > 0.98
    assert (base * encoded).sum(axis=1).min() > 0.9
    assert others < 0.75


def test_an_even_picture_has_no_more_than_its_colour():
    backend = make_backend(EmbeddingConfig())
    red, blue = (np.full((40, 40, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    assert backend([red]) @ backend([blue]) < 0.9
    assert np.isfinite(backend([np.zeros((40, 40, 3), np.uint8)])).all()


def test_aesthetics_only_with_weights(tmp_path):
    assert make_aesthetics(EmbeddingConfig(backend="open_clip")) is None
    with pytest.raises(ValueError, match="needs a CLIP embedding"):
        make_aesthetics(EmbeddingConfig(aesthetics="head.safetensors"))


def test_aesthetics_head_equals_its_layers_in_torch(tmp_path):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Linear(32, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 8), torch.nn.Linear(8, 1)
    ).eval()
    path = tmp_path / "head.safetensors"
    save_file({f"layers.{name}": value for name, value in layers.state_dict().items()}, path)
    head = make_aesthetics(EmbeddingConfig(backend="open_clip", aesthetics=str(path)))
    vectors = torch.nn.functional.normalize(torch.randn(5, 32), dim=1)
    assert np.allclose(head(vectors.numpy()), layers(vectors)[:, 0].detach().numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="another model"):
        head(np.ones((1, 768), np.float32))


def test_aesthetics_head_of_one_layer_and_of_a_wrong_shape(tmp_path):
    one = {"weight": np.ones((1, 4), np.float32), "bias": np.float32([0.5])}
    save_arrays(one, tmp_path / "one.safetensors")
    save_arrays({**one, "weight": np.ones((2, 4), np.float32)}, tmp_path / "two.safetensors")
    config = EmbeddingConfig(backend="open_clip", aesthetics=str(tmp_path / "one.safetensors"))
    assert make_aesthetics(config)(np.float32([[1, 2, 3, 4]])).tolist() == [10.5]
    with pytest.raises(ValueError, match="do not lead to one number"):
        make_aesthetics(EmbeddingConfig(backend="open_clip", aesthetics=str(tmp_path / "two.safetensors")))
