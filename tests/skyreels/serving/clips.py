"""A servable of two stages that makes real H.264 clips of plain colours: small, and open to every mishap.

What goes wrong is asked for in the prompt: `crash` (each attempt raises), `refuse` (the stage says no); how long a step
takes is one of PAUSES.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from skyreels.media.encode import write_video
from skyreels.media.image import write_image
from skyreels.serving.servable import ModelCard, Plan, RequestRefused, StageFailed

STEPS = 4
PAUSES = {"glacial": 2.0, "slow": 0.5, "steady": 0.15, "brief": 0.05}
COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


class Clips:
    models = (ModelCard("clips", 1_700_000_000, {"sizes": "any even"}),)
    stages = ("base", "refine")

    def __init__(self, log: Path | None = None) -> None:
        self.log = log
        """A file to which every start of a stage is written."""

    def load(self, stages):
        assert set(stages) <= set(self.stages)

    def asked(self, prompt):
        if prompt == "unspeakable":
            raise RequestRefused("prompt", "there are no words for that")
        return f"A clip of {prompt}."

    def plan(self, request, files, folder):
        if (request.seconds or 1) > 5:
            raise RequestRefused("seconds", "5 s is the longest clip: ask for less")
        facts = {
            "model": "clips",
            "size": request.size or "64x48",
            "seconds": request.seconds or 1.0,
            "seed": 7 if request.seed is None else request.seed,
            "fps": 8,
            "task": "removal" if request.remove else "i2v" if request.first_frame else "t2v",
        }
        plan = folder / "plan.json"
        sizes = {name: path.stat().st_size for name, path in files.items()}
        plan.write_text(json.dumps({**facts, "prompt": request.prompt, "given": sizes}))
        return Plan(self.stages, (plan,), facts, dict.fromkeys(self.stages, facts["seconds"]))

    def reseeded(self, plan, seed, folder):
        (given,) = plan.files
        path = folder / given.name
        path.write_text(json.dumps({**json.loads(given.read_text()), "seed": seed}))
        return replace(plan, files=(path,), facts={**plan.facts, "seed": seed})

    def run(self, work):
        plan = json.loads(work.files["plan.json"].read_text())
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(f"{work.stage} {plan['prompt']}\n")
        for number in range(STEPS):
            time.sleep(next((pause for word, pause in PAUSES.items() if word in plan["prompt"]), 0.0))
            work.step((number + 1) / STEPS)
            if "show" in plan["prompt"]:
                work.show(np.full((24, 32, 3), 40 * number, np.uint8))
        if "crash" in plan["prompt"]:
            raise RuntimeError("the device fell over")
        if "refuse" in plan["prompt"]:
            raise StageFailed("out_of_memory", "this clip does not fit: ask for a smaller one")
        if work.stage == "base":
            colour = next((rgb for word, rgb in COLOURS.items() if word in plan["prompt"]), (90, 90, 90))
            np.save(work.folder / "latents.npy", np.array(colour, np.uint8))
            return {}
        width, height = map(int, plan["size"].split("x"))
        frame = np.broadcast_to(np.load(work.files["latents.npy"]), (height, width, 3))
        count = round(plan["seconds"] * plan["fps"])
        write_video(work.folder / "video.mp4", (frame for _ in range(count)), plan["fps"])
        write_image(work.folder / "thumbnail.jpg", np.ascontiguousarray(frame))
        return {"frames": count}
