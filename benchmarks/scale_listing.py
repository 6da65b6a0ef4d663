"""A listing of an S3 bucket into a stored plan: memory and time by the number of its names.

The bucket is made up: a server on loopback answers listings as S3 does, a thousand names a page, and keeps none. Each
size is a process of its own, the planner's; the server's is another.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from benchmarks.scale_figures import Figure

FEWEST = 10**5
_PER_FOLDER = 4096
_PAGE = 1000
_INPUT = "s3://bucket/pictures"


def measure(folder: Path, most: int = 10**6) -> Iterator[Figure]:
    """Growth from `FEWEST` names to the `most`."""
    few, many = (_planned(names, folder / str(names)) for names in (FEWEST, most))
    span = f"from {FEWEST:,} to {most:,} names"
    yield Figure("memory of planning a listing, growth", many["peak_mb"] - few["peak_mb"], most=300.0, unit="MB",
                 detail=f"{span}: {few['peak_mb']:.0f} and {many['peak_mb']:.0f} MB")  # fmt: skip
    each = [many["cpu_s"] / most * 1e6, few["cpu_s"] / FEWEST * 1e6]
    yield Figure("CPU time per name, growth", each[0] / each[1], most=1.5,
                 detail=f"{span}: {each[1]:.0f} and {each[0]:.0f} us")  # fmt: skip


def _planned(names: int, folder: Path) -> dict[str, float]:
    with _bucket(names) as endpoint:
        settings = {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}
        settings |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
        command = [sys.executable, "-m", "benchmarks.scale_listing", "--plan", str(names), "--folder", str(folder)]
        out = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | settings).stdout
    planned: dict[str, float] = json.loads(out.splitlines()[-1])
    return planned


@contextmanager
def _bucket(names: int) -> Iterator[str]:
    """The address of the server, which ends with the block."""
    command = [sys.executable, "-m", "benchmarks.scale_listing", "--serve", str(names)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


def _plan(names: int, folder: Path) -> dict[str, float]:
    from pipelines.curation.pool.plan import store_plan, stored_plans
    from pipelines.curation.recipe import ExtractConfig, PartsConfig
    from pipelines.curation.sources.account import Account
    from pipelines.curation.sources.find import stream_sources
    from skyreels.storage import Storage

    pool, extract = Storage(str(folder)), ExtractConfig(parts=PartsConfig(max_sources=1000, max_bytes=1 << 40))
    begun = time.process_time()
    for sources in stream_sources([_INPUT], Account()):
        store_plan(pool, sources, extract)
    spent, peak = time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    planned = sum(len(part.sources) for plan in stored_plans(pool, extract) for part in plan.parts)
    assert planned == names, f"{planned} of {names} names were planned"
    return {"peak_mb": peak, "cpu_s": spent}


class _Bucket(BaseHTTPRequestHandler):
    """Answers ListObjectsV2 of `names` pictures in folders; no object is there to be read."""

    protocol_version = "HTTP/1.1"
    names = 0

    def do_GET(self) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        keys, folders, following = self._listed(asked.get("prefix", ""), int(asked.get("continuation-token", 0)))
        contents = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>100000</Size>"
            "</Contents>"
            for key in keys
        )
        contents += "".join(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in folders)
        if following is not None:
            contents += f"<NextContinuationToken>{following}</NextContinuationToken>"
        truncated = str(following is not None).lower()
        self._answer(
            200,
            f'<?xml version="1.0"?><ListBucketResult><Name>bucket</Name><IsTruncated>{truncated}</IsTruncated>'
            f"<KeyCount>{len(keys) + len(folders)}</KeyCount>{contents}</ListBucketResult>",
        )

    def do_HEAD(self) -> None:
        self._answer(404, "")

    def _listed(self, prefix: str, start: int) -> tuple[list[str], list[str], int | None]:
        """(names, folders, where the next page begins) of one level."""
        parts = prefix.split("/")
        if len(parts) == 2:
            count, folder = -(-self.names // _PER_FOLDER), None
        else:
            folder = int(parts[1])
            count = min(_PER_FOLDER, self.names - folder * _PER_FOLDER)
        page = range(start, min(start + _PAGE, count))
        following = page.stop if page.stop < count else None
        if folder is None:
            return [], [f"pictures/{number:06d}/" for number in page], following
        return [f"{prefix}{number:06d}.jpg" for number in page], [], following

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: there is a line for every page."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--plan", type=int, help="plan a bucket of so many names, where AWS_ENDPOINT_URL is")
    what.add_argument("--serve", type=int, help="be a bucket of so many names; prints the port")
    parser.add_argument("--folder", type=Path, help="where the plan goes")
    options = parser.parse_args()
    if options.plan:
        print(json.dumps(_plan(options.plan, options.folder)))
        return
    _Bucket.names = options.serve
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Bucket)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
