"""Serve a model over HTTP: jobs that survive a restart, in the shape of OpenAI's videos.

    python jobs/serve.py --model runs/train/model                        on http://127.0.0.1:8000, for this machine
    python jobs/serve.py --model M --files s3://bucket/serve --database postgresql+psycopg://… --host 0.0.0.0
    python jobs/serve.py keys add alice                                  prints a secret, this once
    python jobs/serve.py keys list
    python jobs/serve.py keys revoke alice

Without keys it answers to this machine alone. Ctrl-C ends it: what runs is given --grace-seconds, and what is not done
by then goes on when the same command is started again.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from skyreels.command_line import exit_status
from skyreels.serving.keys import SCOPES, Keys
from skyreels.serving.server import ServingConfig, serve
from skyreels.serving.webhooks import secret_in

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
_TRY = """\
try it:
  id=$(curl -s {url}/v1/videos -F 'prompt=a red ball falls with a thud' | grep -o 'video_[0-9a-f]*' | head -n 1); \\
  curl -sN {url}/v1/videos/$id/events; curl -sf {url}/v1/videos/$id/content -o clip.mp4 && ls -l clip.mp4"""


def main(argv: Sequence[str] | None = None) -> int:
    """0 at an orderly end, 1 with the reason on stderr, 2 for wrong arguments."""
    words = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if words[:1] == ["keys"]:
        arguments = _keys_parser().parse_args(words[1:])
        return exit_status(lambda: _keys(arguments), (ValueError,))
    arguments = _parser().parse_args(words)
    return exit_status(lambda: _serve(arguments), (ValueError,))


def _serve(arguments: argparse.Namespace) -> int:
    import torch  # keys need neither it nor the model

    from pipelines.generation.enhance import asked_enhancer
    from pipelines.generation.service import GenerationService

    config = ServingConfig(
        files=arguments.files,
        database=arguments.database,
        host=arguments.host,
        port=arguments.port,
        grace_s=arguments.grace_seconds,
        keep_s=arguments.keep_days * 86400.0,
        webhooks=tuple(arguments.webhook),
        webhook_secret=secret_in(arguments.webhook_secret) if arguments.webhook else "",
    )
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = None if arguments.dtype is None else getattr(torch, _DTYPES[arguments.dtype])
    enhance = asked_enhancer(arguments, device)
    service = GenerationService(arguments.model, arguments.name, device, dtype, enhance)

    def started(url: str, keyed: bool) -> None:
        print(f"serving {arguments.model} as {arguments.name} on {url}; its fields: {url}/openapi.json")
        asked = "send a key with each request: Authorization: Bearer sk-…"
        print(asked if keyed else _TRY.format(url=url), flush=True)

    serve(service, config, started)
    return 0


def _keys(arguments: argparse.Namespace) -> int:
    store = ServingConfig(files=arguments.files, database=arguments.database).open_store()
    keys = Keys(store)
    if arguments.command == "add":
        print(keys.add(arguments.key, tuple(arguments.scope or ("read", "write"))))
        print("this is shown once; a service that runs without keys asks for them after a restart", file=sys.stderr)
    elif arguments.command == "revoke":
        keys.revoke(arguments.key)
    else:
        for name, scopes in keys.names().items():
            print(name, *scopes)
    store.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    from pipelines.generation.enhance import add_enhancer  # keys need neither it nor torch

    parser = argparse.ArgumentParser(
        prog="jobs/serve.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of a model, as training exports it")
    parser.add_argument("--name", default="skyreels", help="what it is called in requests (default: %(default)s)")
    _add_places(parser)
    add_enhancer(parser)
    parser.add_argument("--host", default="127.0.0.1", help="another address needs keys (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--dtype", choices=_DTYPES, help="of the transformers (default: as saved)")
    parser.add_argument("--grace-seconds", type=float, default=60.0, help="default: %(default)g")
    parser.add_argument("--keep-days", type=float, default=7.0, help="how long a clip is kept (default: %(default)g)")
    webhooks = "a URL that webhooks may begin with, such as https://example.com/hooks/; may be given again"
    parser.add_argument("--webhook", action="append", default=[], metavar="URL", help=webhooks)
    secret = "the file of the secret that signs them, made where there is none (default: %(default)s)"
    parser.add_argument("--webhook-secret", type=Path, default=Path("webhook-secret"), metavar="FILE", help=secret)
    return parser


def _keys_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jobs/serve.py keys", description="API keys, each the owner of its jobs.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, told in (("add", "make a key"), ("revoke", "end a key"), ("list", "names and scopes")):
        command = commands.add_parser(name, help=told)
        if name != "list":
            command.add_argument("key", metavar="NAME")
        if name == "add":
            command.add_argument("--scope", action="append", choices=SCOPES, help="default: read and write")
        _add_places(command)
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", default="runs/serve", help="a folder or s3://… for clips (default: %(default)s)")
    parser.add_argument("--database", default="", metavar="URL", help="of the jobs (default: SQLite below --files)")


if __name__ == "__main__":
    sys.exit(main())
