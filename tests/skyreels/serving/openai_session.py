"""One session of OpenAI's client, whichever is installed where this runs: python openai_session.py URL KEY."""

import io
import json
import sys

import openai

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000080000000808020000004b6d29dc0000001249444154789c63f8cfc0801561"
    "171db4120028ff3fc16eecdf610000000049454e44ae426082"
)


def main(url, key):
    """What was seen, as JSON."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    videos, seen = client.videos, {"version": openai.__version__}
    extra = {"seed": 11, "metadata": {"shot": "4"}}
    first = videos.create_and_poll(prompt="a green room", seconds="2", size="96x64", extra_body=extra)
    seen["first"] = [first.status, first.progress, first.size, first.seconds, first.seed, first.metadata]
    film = videos.download_content(first.id).read()
    seen["film"] = film[4:8].decode()
    seen["small"] = videos.download_content(first.id, variant="thumbnail").read()[:2].hex()
    shown = videos.create(prompt="x", input_reference=("a.png", io.BytesIO(PNG)))
    seen["task"] = videos.poll(shown.id).task if hasattr(videos, "poll") else videos.retrieve(shown.id).task
    mask = {"type": "bbox", "box": [0, 0, 8, 8]}
    painted = {"source_video": {"video_id": first.id}, "mask": mask, "mask_mode": "edit_white"}
    made = videos.create(prompt="x", extra_body=painted)
    seen["masked"] = made.status in ("queued", "in_progress", "completed")
    seen["remixed"] = videos.remix(first.id, prompt="blue").remixed_from_video_id == first.id
    if hasattr(videos, "edit"):
        edits = (videos.edit(prompt="y", video=film), videos.extend(prompt="y", seconds="2", video=film))
        seen["edits"] = [videos.poll(video.id).status for video in edits]
    seen["refused"] = videos.create_and_poll(prompt="refuse").error.code
    try:
        videos.create(prompt="x", size="65x48")
    except openai.BadRequestError as error:
        seen["wrong"] = [error.param, error.code]
    seen["listed"] = first.id in [video.id for video in videos.list(limit=3)]
    seen["deleted"] = videos.delete(first.id).deleted
    try:
        videos.retrieve(first.id)
    except openai.NotFoundError as error:
        seen["gone"] = error.status_code
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
