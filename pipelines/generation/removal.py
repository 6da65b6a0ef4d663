"""Taking away what is laid over a video: where it is found, and the mask that this makes.

What is found stands in the request as `regions`, so that it is told and recorded, and can be asked for again.
"""

import math

import numpy as np

from pipelines.generation.media import MediaReader
from pipelines.generation.request import MAX_REGIONS, Files, GenerationRequest, Region, RequestError
from pipelines.overlays.find import OverlayKind, cover

_NAMES: dict[OverlayKind, str] = {"text": "text", "logo": "logo or watermark"}


def with_regions(request: GenerationRequest, files: Files, reader: MediaReader) -> GenerationRequest:
    """The request with what `remove` finds as its `regions`; as it is where it says itself what is made anew.

    Raises RequestError where nothing is found: a clip that is no other than the one given helps nobody.
    """
    if not request.remove or request.mask is not None or request.regions:
        return request
    request.check()
    video = next(file for file in request.files(files) if file.field == "video")
    reader.check([video], still=request.still)
    found, (width, height) = reader.overlays(video, request.remove), reader.size(video)
    regions = []
    for overlay in found.overlays:
        left, top, right, bottom = overlay.area
        box = (math.floor(left * width), math.floor(top * height), math.ceil(right * width), math.ceil(bottom * height))
        regions.append(Region(kind=overlay.kind, box=box, start=round(overlay.start_s, 3), end=round(overlay.end_s, 3)))
    if not regions:
        raise RequestError("remove", _nothing(request, unsure=found.unsure))
    if len(regions) > MAX_REGIONS:
        message = f"{len(regions)} regions are laid over the video, at most {MAX_REGIONS} are made anew: cut it shorter"
        raise RequestError("remove", message)
    return request.model_copy(update={"regions": tuple(regions)})


def region_mask(
    regions: tuple[Region, ...], video_size: tuple[int, int], shape: tuple[int, int, int], fps: float
) -> np.ndarray:
    """(F, H, W) bool of `shape`, True where a frame, of which there are `fps` a second, shows any of a region."""
    mask = np.zeros(shape, bool)
    for region in regions:
        cover(mask, region.box, video_size, region.start, region.end, fps)
    if not mask.any():
        raise RequestError(
            "regions", f"they cover nothing of the {shape[0]} frames: see whether times and boxes are in it"
        )
    return mask


def told_regions(regions: tuple[Region, ...]) -> list[str]:
    """A line for each: what goes, where and when."""
    return [
        f"{region.kind} at {region.box[0]:g},{region.box[1]:g} to {region.box[2]:g},{region.box[3]:g}, "
        f"{region.start:g} to {region.end:g} s"
        for region in regions
    ]


def _nothing(request: GenerationRequest, *, unsure: bool) -> str:
    sought = " or ".join(_NAMES[kind] for kind in request.remove)
    why = "; a logo cannot be told from a scene that stands still, or in one picture" if unsure else ""
    return f"no {sought} was found over the video{why}: draw a mask of what is to go, or leave remove out"
