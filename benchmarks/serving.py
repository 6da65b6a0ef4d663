"""What the service adds to the generator, and what a long queue costs: each beside a baseline of the same run.

    python benchmarks/serving.py --model runs/train/model
    python benchmarks/serving.py --model runs/train/model --only overhead,queue,restart,eta,replicas

overhead: a clip over HTTP against the same call of the generator, with its file; and from the base's commit to the
refiner's claim. queue: a status read with no job ahead and with a hundred, in turn. restart: a killed service started
again, until it works on the job that was killed. eta: what was told of clips of several lengths when they were asked
for, against what they took. replicas: eight clips by two replicas on Ray Serve against one, beside what the machine
allows, which is two bare processes against one.
"""

import argparse
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory

# This file is called as a script: its own folder would be first on the path, and it holds a `model` too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
import uvicorn
from fastapi import FastAPI

from pipelines.generation.render import origin, write_clip
from pipelines.generation.service import GenerationService, ModelSettings
from skyreels.serving.config import ServingConfig
from skyreels.serving.http.app import build_app
from skyreels.serving.http.service import open_service
from skyreels.serving.server import build_server

ROOT = Path(__file__).resolve().parent.parent
CLIENT = httpx.Client(timeout=None)  # one: making one reads certificates, which takes longer than a request
ASKED = {"prompt": "a red ball falls with a thud", "seed": 1}
PORT_LINE = " on http://"
CLIPS = 8
spawning = multiprocessing.get_context("spawn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/train/model"))
    parser.add_argument("--clips", type=int, default=6, help="per figure, after one to warm up (default: %(default)s)")
    parser.add_argument("--only", default="overhead,queue,restart,eta,replicas")
    arguments = parser.parse_args()
    known: tuple[Callable[[argparse.Namespace], None], ...] = (overhead, queue, restart, eta, replicas)
    parts = {part.__name__: part for part in known}
    for name in arguments.only.split(","):
        parts[name](arguments)


def overhead(arguments: argparse.Namespace) -> None:
    """Median seconds of a clip, bare and served, in turn."""
    service = GenerationService(ModelSettings(folder=str(arguments.model)))
    with TemporaryDirectory() as folder:
        config = ServingConfig(files=folder)
        with answering(build_server(service, config)) as url:
            pairs = [(bare(service, Path(folder)), served(url)) for _ in range(arguments.clips + 1)][1:]
            store = config.open_store()
            gaps = [handed_on(store, url) for _ in range(arguments.clips)] if service.spec.refines else []
            store.close()
    alone, over = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"a clip, bare: {alone:.3f} s; over HTTP: {over:.3f} s; more: {1000 * (over - alone):.0f} ms, ", end="")
    print(f"ratio {over / alone:.3f} (goal: 1.05, or 150 ms)")
    if gaps:
        print(f"from the base's end to the refiner's start: {1000 * statistics.median(gaps):.0f} ms (goal: 100)")


def bare(service: GenerationService, folder: Path) -> float:
    """Seconds of the generator's own call, with its file."""
    generator = service._generator
    start = time.perf_counter()
    made = generator(ASKED["prompt"], seed=ASKED["seed"])
    write_clip(made, "video", folder / "bare.mp4", origin({}, 1))
    return time.perf_counter() - start


def served(url: str, **more: object) -> float:
    """Seconds from the request to the clip's last byte."""
    start = time.perf_counter()
    job = ask(url, **more)
    with CLIENT.stream("GET", f"{url}/v1/videos/{job}/events") as events:
        events.read()
    CLIENT.get(f"{url}/v1/videos/{job}/content").raise_for_status()
    return time.perf_counter() - start


def handed_on(store, url: str) -> float:
    """Seconds between two events: the base is committed, the refiner's stage is claimed."""
    job = ask(url, refine=True)
    with CLIENT.stream("GET", f"{url}/v1/videos/{job}/events") as events:
        events.read()
    at = {(event.stage, str(event.state)): event.at for event in reversed(store.events(job))}
    return at["refine", "running"] - at["refine", "queued"]


def queue(arguments: argparse.Namespace) -> None:
    """Medians of status reads, with nobody at work."""
    service = GenerationService(ModelSettings(folder=str(arguments.model)), ())
    with TemporaryDirectory() as folder:
        config = ServingConfig(files=folder, queue_per_owner=1000)
        opened = open_service(service, config, config.open_store(), lambda: True)
        with answering(build_app(opened)) as url, httpx.Client(base_url=url) as client:
            first = ask(url)
            asked = time.perf_counter()
            last = [ask(url) for _ in range(100)][-1]
            asked = time.perf_counter() - asked
            pairs = [(read(client, first), read(client, last)) for _ in range(200)]
    one, many = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"a status read: {1000 * one:.2f} ms with none ahead, {1000 * many:.2f} ms with 100 ahead, ", end="")
    print(f"ratio {many / one:.2f} (goal: 1.2); a request is accepted in {10 * asked:.0f} ms")


def read(client: httpx.Client, job: str) -> float:
    start = time.perf_counter()
    client.get(f"/v1/videos/{job}").raise_for_status()
    return time.perf_counter() - start


def restart(arguments: argparse.Namespace) -> None:
    """From the start of the process to the claim, and to the end of the job that was killed."""
    with TemporaryDirectory() as folder:
        words = [sys.executable, str(ROOT / "jobs/serve.py"), "--model", str(arguments.model), "--files", folder]
        words += ["--port", "0", "service.lease_s=3"]
        with started(words) as (process, url):
            job = ask(url)
            until(url, job, lambda told: told["state"] == "running")
            process.send_signal(signal.SIGKILL)
            process.wait()
        begun = time.perf_counter()
        with started(words) as (_, url):
            until(url, job, lambda told: told["attempts"] > 1)
            claimed = time.perf_counter() - begun
            until(url, job, is_done)
            print(f"killed and started again: at work after {claimed:.1f} s (goal: 15), ", end="")
            print(f"done after {time.perf_counter() - begun:.1f} s")


def eta(arguments: argparse.Namespace) -> None:
    """Of clips that wait for each other, after one of each length."""
    service = GenerationService(ModelSettings(folder=str(arguments.model)))
    lengths = (0.5, 1.0, 1.5)
    with TemporaryDirectory() as folder, answering(build_server(service, ServingConfig(files=folder))) as url:
        for seconds in (lengths[0], *lengths):
            served(url, seconds=seconds)
        asked, start = [ask(url, seconds=seconds) for seconds in lengths], time.perf_counter()
        told = [CLIENT.get(f"{url}/v1/videos/{job}").json()["eta_seconds"] for job in asked]
        took = []
        for job in asked:
            until(url, job, is_done)
            took.append(time.perf_counter() - start)
    off = [abs(said / real - 1) for said, real in zip(told, took, strict=True)]
    pairs = ", ".join(f"{said:.1f} s of {real:.1f} s" for said, real in zip(told, took, strict=True))
    print(f"told when asked for: {pairs}; off by {100 * max(off):.0f} % at most (goal: 30)")


def replicas(arguments: argparse.Namespace) -> None:
    """Clips per second, of one and of two: replicas that do every stage, then processes without a service."""
    folder = arguments.model.resolve()
    served, alone = (on_replicas(folder, 1), on_replicas(folder, 2)), (in_processes(folder, 1), in_processes(folder, 2))
    print(f"{CLIPS} clips by one replica: {served[0]:.1f} s; by two: {served[1]:.1f} s, ratio ", end="")
    print(
        f"{served[0] / served[1]:.2f} (goal: 1.8 where cores allow); two processes without a service over one: ", end=""
    )
    print(f"{alone[0] / alone[1]:.2f} on {os.cpu_count()} cores")


def on_replicas(model: Path, count: int) -> float:
    """Seconds of CLIPS, asked for at once, on a Ray of this machine's own."""
    from ray import serve

    from skyreels import cluster
    from skyreels.serving.config import Pool
    from skyreels.serving.on_ray.application import application, deploy

    build = partial(GenerationService, ModelSettings(folder=str(model)))
    pool = Pool(stages=build(()).stages, min_replicas=count, max_replicas=count, num_cpus=1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory() as folder:
        config = ServingConfig(files=folder, port=port, batch=1, ingress_cpus=0.1, pools={"All": pool})
        with cluster.connect(num_cpus=4):
            url = deploy(application(build, config, pool.stages), config)
            for job in [ask(url) for _ in range(2 * count)]:  # every replica has made one
                until(url, job, is_done, 0.2)
            start = time.perf_counter()
            for job in [ask(url) for _ in range(CLIPS)]:
                until(url, job, is_done, 0.2)
            taken = time.perf_counter() - start
            serve.shutdown()
    return taken


def in_processes(model: Path, count: int) -> float:
    """Seconds of CLIPS, by the bare generator in so many processes at once."""
    start = spawning.Barrier(count + 1)
    shares = [spawning.Process(target=bare_clips, args=(model, CLIPS // count, start)) for _ in range(count)]
    for share in shares:
        share.start()
    start.wait()
    begun = time.perf_counter()
    for share in shares:
        share.join()
        assert share.exitcode == 0
    return time.perf_counter() - begun


def bare_clips(model: Path, clips: int, start: Barrier) -> None:
    service = GenerationService(ModelSettings(folder=str(model)))
    with TemporaryDirectory() as folder:
        bare(service, Path(folder))
        start.wait()
        for _ in range(clips):
            bare(service, Path(folder))


def is_done(told: dict) -> bool:
    return bool(told["state"] == "completed")


def ask(url: str, **more: object) -> str:
    answer = CLIENT.post(f"{url}/v1/videos", json={**ASKED, **more})
    answer.raise_for_status()
    return str(answer.json()["id"])


def until(url: str, job: str, holds: Callable[[dict], bool], every_s: float = 0.02) -> None:
    while not holds(told := CLIENT.get(f"{url}/v1/videos/{job}").json()):
        assert told["status"] != "failed", told
        time.sleep(every_s)


@contextmanager
def answering(app: FastAPI) -> Iterator[str]:
    """The address of a service in this process."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def started(words: list[str]) -> Iterator[tuple[subprocess.Popen, str]]:
    """A process of its own, and its address."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        yield process, "http://" + line.partition(PORT_LINE)[2].partition(";")[0]
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
