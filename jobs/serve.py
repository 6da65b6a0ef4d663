"""Serve a model over HTTP: jobs that survive a restart, in the shape of OpenAI's videos.

    python jobs/serve.py --model runs/train/model                        on http://127.0.0.1:8000, for this machine
    python jobs/serve.py --model M --files s3://bucket/serve --database postgresql+psycopg://… --host 0.0.0.0
    python jobs/serve.py --model M --ray                                 on Ray Serve: ingress, base, refiner apart
    python jobs/serve.py keys add alice                                  prints a secret, this once
    python jobs/serve.py keys list
    python jobs/serve.py keys revoke alice

Settings are those of cluster/serve.yaml, which `serve deploy` takes as well; `key=value` changes them. Without keys it
answers to this machine alone. Ctrl-C ends it: what runs is given service.grace_s seconds, and what is not done by then
goes on when the same command is started again. With --ray on a cluster that was joined, it stays when this ends.
"""

import argparse
import json
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.evaluation.people.records import dimensions
from pipelines.generation.service import GenerationService, ModelSettings
from skyreels.command_line import exit_status, parse
from skyreels.config import Config, ConfigError, apply_overrides, build, read_yaml
from skyreels.serving.config import ServingConfig
from skyreels.serving.dispatch.webhooks import secret_in
from skyreels.serving.server import serve
from skyreels.serving.store.keys import SCOPES, Keys
from skyreels.storage import normalise

CONFIG = Path(__file__).resolve().with_name("serve.yaml")
_TRY = """\
try it:
  id=$(curl -s {url}/v1/videos -F 'prompt=A red circle bounces, flat blue background, metal impacts.' | \\
    grep -o 'video_[0-9a-f]*' | head -n 1); \\
  curl -sN {url}/v1/videos/$id/events; curl -sf {url}/v1/videos/$id/content -o clip.mp4 && ls -l clip.mp4"""


class Settings(Config):
    """Arguments of the application in cluster/serve.yaml."""

    model: ModelSettings
    service: ServingConfig = ServingConfig()
    webhook_secret_file: Path = Path("webhook-secret")
    """Of the secret that signs webhooks, made where there is none."""

    def serving(self) -> ServingConfig:
        """With the secret where webhooks are allowed, and what people judge."""
        secret = secret_in(self.webhook_secret_file) if self.service.webhooks else ""
        rubric = ("overall", *sorted(dimensions() - {"overall"}))
        return self.service.model_copy(update={"webhook_secret": secret, "rubric": rubric})


def main(argv: Sequence[str] | None = None) -> int:
    """0 at an orderly end, 1 with the reason on stderr, 2 for wrong arguments."""
    words = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if words[:1] == ["keys"]:
        arguments, changes = parse(_keys_parser(), words[1:])
        return exit_status(lambda: _keys(arguments, changes), (ValueError,))
    arguments, changes = parse(_parser(), words)
    return exit_status(lambda: _serve(arguments, changes), (ValueError,))


def app(args: Mapping[str, Any]) -> Any:
    """What `serve deploy cluster/serve.yaml` builds, from `args` of that file."""
    return _application(build(Settings, args, "args of the application"))


def _application(settings: Settings) -> Any:
    from skyreels.serving.on_ray.application import application

    model = settings.model.model_copy(update={"folder": normalise(settings.model.folder)})
    ranks = {stage: pool.ranks for pool in settings.service.pools.values() for stage in pool.stages}
    build = partial(GenerationService, model, ranks=ranks)
    return application(build, settings.serving(), build(()).stages)


def _serve(arguments: argparse.Namespace, changes: Sequence[str]) -> int:
    settings = read_settings(arguments.config, [*_changes(arguments), *changes])
    config = settings.serving()
    if arguments.ray:
        return _serve_on_ray(settings, config)

    def started(url: str, keyed: bool) -> None:
        _tell(settings, url, keyed)

    serve(GenerationService(settings.model), config, started)
    return 0


def _serve_on_ray(settings: Settings, config: ServingConfig) -> int:
    from ray import serve as ray_serve

    from skyreels import cluster
    from skyreels.serving.on_ray.application import deploy

    with cluster.connect() as private:
        _tell(settings, deploy(_application(settings), config), bool(Keys(config.open_store()).names()))
        if private:  # the cluster is this command's own, and ends with it
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
            ray_serve.shutdown()
    return 0


def _tell(settings: Settings, url: str, keyed: bool) -> None:
    model = settings.model
    print(f"serving {model.folder} as {model.name} on {url}; its fields: {url}/openapi.json")
    asked = "send a key with each request: Authorization: Bearer sk-…"
    print(asked if keyed else _TRY.format(url=url), flush=True)
    print(f"the page: {url}/", flush=True)


def read_settings(path: Path, changes: Sequence[str]) -> Settings:
    """The application's arguments in a Serve config, with `key=value` laid over them. Raises ConfigError."""
    try:
        (application,) = read_yaml(path)["applications"]
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(f"{path} holds no Serve application ({error!r}): take {CONFIG} as a pattern") from error
    return build(Settings, apply_overrides(application.get("args", {}), changes), str(path))


def _keys(arguments: argparse.Namespace, changes: Sequence[str]) -> int:
    store = read_settings(arguments.config, [*_changes(arguments), *changes]).service.open_store()
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
    parser = argparse.ArgumentParser(
        prog="jobs/serve.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ray", action="store_true", help="on Ray Serve, in the cluster joined or one of its own")
    parser.add_argument("--model", dest="model_folder", help="folder of a model, as training exports it")
    parser.add_argument("--name", dest="model_name", help="what it is called in requests")
    parser.add_argument("--device", dest="model_device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--host", dest="service_host", help="another address than loopback needs keys")
    parser.add_argument("--port", dest="service_port", help="0 takes a free one, without --ray")
    _add_settings(parser)
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
        _add_settings(command)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    told = "a Serve config, whose args are the settings (default: %(default)s)"
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help=told)
    parser.add_argument("--files", dest="service_files", help="a folder or s3://… for clips")
    parser.add_argument("--database", dest="service_database", metavar="URL", help="of the jobs")
    parser.epilog = "KEY=VALUE changes any setting, such as service.keep_s=86400."


def _changes(arguments: argparse.Namespace) -> list[str]:
    """Options that were given, as settings: `model_folder` is `model.folder`."""
    given = ((name, value) for name, value in vars(arguments).items() if value is not None)
    return [
        f"{name.replace('_', '.', 1)}={json.dumps(value)}"
        for name, value in given
        if name.startswith(("model_", "service_"))
    ]


if __name__ == "__main__":
    sys.exit(main())
