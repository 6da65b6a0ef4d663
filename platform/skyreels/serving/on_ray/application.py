"""The graph of deployments: Ingress -> Dispatcher -> one pool of workers for each group of stages."""

import os
from collections.abc import Sequence
from typing import Any

from ray import serve

from skyreels.config import ConfigError
from skyreels.serving.config import Pool, ServingConfig
from skyreels.serving.http.origins import is_loopback
from skyreels.serving.on_ray.deployments import Dispatcher, Ingress, Workers
from skyreels.serving.on_ray.proxy import start_serve
from skyreels.serving.servable import Build
from skyreels.storage import normalise

NAME = "skyreels"
_HEALTH = {"health_check_period_s": 2.0, "health_check_timeout_s": 30.0}


def application(build: Build, config: ServingConfig, stages: Sequence[str]) -> Any:
    """A Serve application. `stages` are all that plans may name. ConfigError where a pool is missing for one."""
    config = config.model_copy(update={"files": normalise(config.files)})  # replicas run in folders of their own
    config.check()
    _check_control(config)
    held = [stage for pool in config.pools.values() for stage in pool.stages]
    if missing := [stage for stage in stages if stage not in held]:
        raise ConfigError(f"no pool works on {', '.join(missing)}: name a pool with these stages under pools")
    workers = {
        name: serve.deployment(Workers, name=name, **_scaled(pool)).bind(build, config, pool)
        for name, pool in config.pools.items()
    }
    lone = {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0.1}, "graceful_shutdown_timeout_s": 5.0}
    dispatcher = serve.deployment(Dispatcher, name="Dispatcher", **lone, **_HEALTH).bind(config, workers)
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="Ingress",
        num_replicas=config.ingress_replicas,
        max_ongoing_requests=1000,  # streams of progress stay open
        ray_actor_options={"num_cpus": config.ingress_cpus},
        **_HEALTH,
    )
    return ingress.bind(build, config, dispatcher)


def deploy(app: Any, config: ServingConfig) -> str:
    """Run the application on the cluster that is connected; its address. A second call is a rolling upgrade.

    Raises NoProxy where nothing comes to listen at that address.
    """
    start_serve(config.host, config.port)
    serve.run(app, name=NAME, route_prefix="/")
    return f"http://{config.host}:{config.port}"


def _check_control(config: ServingConfig) -> None:
    """Ray's own API runs the code of whoever reaches it: no public address beside one that asks nobody who he is."""
    if not is_loopback(config.host) and os.environ.get("RAY_AUTH_MODE") == "disabled":
        raise ConfigError(
            f"{config.host} can be reached by others, and RAY_AUTH_MODE=disabled lets them run code through Ray: start "
            "the cluster with RAY_AUTH_MODE=token, or serve on 127.0.0.1"
        )


def _scaled(pool: Pool) -> dict[str, Any]:
    """A replica works on one stage at a time, and one that is to go finishes it. Its followers lie on its node."""
    taken = {"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus, "resources": dict(pool.resources)}
    bundle = {"CPU": pool.num_cpus, "GPU": pool.num_gpus, **pool.resources}
    bundles = [{name: amount for name, amount in bundle.items() if amount}] * pool.ranks
    together = {"placement_group_bundles": bundles, "placement_group_strategy": "STRICT_PACK"}
    return {
        "max_ongoing_requests": 1,
        "autoscaling_config": {
            "min_replicas": pool.min_replicas,
            "max_replicas": pool.max_replicas,
            "target_ongoing_requests": 1,
            "upscale_delay_s": 5.0,
            "downscale_delay_s": pool.idle_s,
        },
        "graceful_shutdown_timeout_s": pool.drain_s,
        "max_constructor_retry_count": 3,
        "ray_actor_options": taken,
        **(together if pool.ranks > 1 else {}),
    }
