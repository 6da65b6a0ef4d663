"""Fixtures that every room's tests may use: one Ray cluster and one S3 server per process, both on loopback.

`make test` runs files beside each other in several processes (pytest-xdist), which are alike but for the basename of
their temporary folder. What takes long to make and is only read is made once for all of them: `made_once`.
"""

import fcntl
import os
import shutil
import uuid
from contextlib import ExitStack, contextmanager

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Of every process here and of those it starts: matrices are small, and threads that wait for each other spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Triton's kernels, where triton is installed at all, run in its interpreter on machines without a GPU.
if not os.path.exists("/dev/nvidiactl"):
    os.environ.setdefault("TRITON_INTERPRET", "1")

import hypothesis
import pytest

import skyreels  # noqa: F401  (before Ray: it keeps a private cluster on loopback)

hypothesis.settings.load_profile("ci")  # the same examples in every run, and none fails for being slow


_PAST_RAY = pytest.StashKey()  # paths of the files that follow the last one with a test that asks for `ray_cluster`
_CLUSTER = pytest.StashKey()  # the stack that ends it


def pytest_collection_modifyitems(config, items):
    """Files that take minutes come first, so that processes which run files beside each other end together.

    Those that need the Ray cluster come before others that are no whole journeys: at rest it takes 4 % of a core.
    Within a file, and among files that are alike, the order stays.
    """
    whole = {item.path for item in items if item.get_closest_marker("e2e")}
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    needs_ray = {item.path for item in items if "ray_cluster" in item.fixturenames}
    items.sort(key=lambda item: tuple(item.path not in first for first in (whole, needs_ray, slow)))
    last = max((place for place, item in enumerate(items) if item.path in needs_ray), default=-1)
    config.stash[_PAST_RAY] = {item.path for item in items[last + 1 :]}


def pytest_runtest_setup(item):
    """End the cluster where nothing follows that needs it."""
    if item.path in item.config.stash[_PAST_RAY]:
        item.config.stash.get(_CLUSTER, ExitStack()).close()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A folder that all processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def alone(run_folder):
    """`with alone(name)`: no other process of this test run is in the block of that name."""

    @contextmanager
    def locked(name):
        with open(run_folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    return locked


@pytest.fixture(scope="session")
def made_once(run_folder, alone):
    """`made_once(name, make)`: the folder that `make(folder)` fills, in the first process that asks. Read only."""

    def folder_of(name, make):
        folder, done = run_folder / name, run_folder / f"{name}.done"
        with alone(name):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what is left where `make` failed in another process
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def smallest_preset(tmp_path_factory):
    """The tiny preset with a smaller network and one window of every clip, as a file."""
    import yaml

    from model.config import PRESETS

    values = yaml.safe_load((PRESETS / "tiny.yaml").read_text())
    values["transformer"] |= {"width": 64, "heads": 2, "dual_blocks": 1, "single_blocks": 1}
    values["refiner"]["single_blocks"] = 1
    values["training"]["latents"]["windows"] = 1
    path = tmp_path_factory.mktemp("preset") / "smallest.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def compilations(monkeypatch):
    """Names of elementwise functions as they are compiled, in this process; no kernels are made. Off at the end."""
    from model.network import elementwise

    names = []

    def noted(function, **_):
        names.append(function.__name__)
        return function

    monkeypatch.setattr(elementwise.torch, "compile", noted)
    elementwise._compiled.cache_clear()
    yield names
    elementwise.compile_elementwise(False)
    elementwise._compiled.cache_clear()


@pytest.fixture(scope="session")
def ray_cluster(s3_endpoint, alone, request):
    """A two-CPU Ray cluster, started by the first test that asks; its address. Its workers reach the S3 server."""
    import ray

    from skyreels import cluster

    with ExitStack() as stack:
        request.config.stash[_CLUSTER] = stack
        with alone("ray-start"):  # it looks for free ports and takes them later
            stack.enter_context(cluster.connect(num_cpus=2, object_store_bytes=512 << 20))
        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def s3_endpoint():
    """A real S3 server in this process; AWS_* variables point at it for the session."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    yield settings["AWS_ENDPOINT_URL"]
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


@pytest.fixture
def s3_root(s3_endpoint):
    """`s3://<a new bucket>` on the test server."""
    import boto3

    bucket = f"test-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


@pytest.fixture
def one_thread():
    """For sums that must agree to the bit, and for matrices so small that threads only stall each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_disk(tmp_path):
    """A real filesystem of one megabyte, for tests that fill it. Mounting needs root."""
    import subprocess

    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk could be mounted: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def as_nobody(tmp_path):
    """Calls a function as a user without rights, whom `tmp_path` lets in. Needs root."""
    if os.geteuid() != 0:
        pytest.skip("only root may become somebody else")
    for folder in (tmp_path, *tmp_path.parents):
        if os.stat(folder).st_uid == 0 and not os.stat(folder).st_mode & 0o001:
            folder.chmod(0o711)

    def call(function):
        os.seteuid(65534)
        try:
            return function()
        finally:
            os.seteuid(0)

    return call
