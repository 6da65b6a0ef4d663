"""Buckets by size, aspect and length."""

import pytest

from pipelines.curation.records import Kind
from pipelines.dataset.buckets import BucketSteps, bucket_of, nearest_aspect


@pytest.mark.parametrize(
    ("kind", "width", "height", "seconds", "bucket"),
    [
        (Kind.VIDEO, 1280, 720, 5.0, "video-720p-16x9-5s"),
        (Kind.VIDEO, 854, 480, 4.99, "video-480p-16x9-2s"),
        (Kind.VIDEO, 720, 1280, 15.0, "video-720p-9x16-15s"),
        (Kind.VIDEO, 200, 200, 3.0, "video-0p-1x1-2s"),
        (Kind.IMAGE, 640, 480, 0.0, "image-480p-4x3"),
        (Kind.AUDIO, 0, 0, 12.0, "audio-10s"),
    ],
)
def test_the_bucket_is_the_largest_it_fills(kind, width, height, seconds, bucket):
    assert bucket_of(kind, width, height, seconds, BucketSteps()) == bucket


def test_aspect_is_symmetric():
    assert (nearest_aspect(2000, 1000), nearest_aspect(1000, 2000)) == ("16x9", "9x16")
