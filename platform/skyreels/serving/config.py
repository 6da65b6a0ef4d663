"""How a service is run, in one process or on Ray Serve: where its files and jobs are, who may ask, who works."""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from skyreels.config import Config, ConfigError
from skyreels.serving.intake.addresses import Network
from skyreels.serving.intake.media_check import UploadLimits
from skyreels.serving.store.artifacts import Artifacts
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.quotas import Quotas
from skyreels.storage import Storage


class Pool(Config):
    """Replicas that work on `stages`, one at a time each: how many, what each takes of a cluster, how they end.

    A replica of several `ranks` is as many processes of one node, each of which takes `num_cpus` and `num_gpus`.
    """

    stages: tuple[str, ...] = Field(min_length=1)
    min_replicas: int = Field(0, ge=0)
    max_replicas: int = Field(1, ge=1)
    ranks: int = Field(1, ge=1, description="processes that share every clip, where one device is too small or slow")
    num_cpus: float = Field(1.0, ge=0)
    num_gpus: float = Field(0.0, ge=0)
    resources: Mapping[str, float] = Field({}, description="of the cluster's own names, such as those of a node pool")
    drain_s: float = Field(1800.0, gt=0, description="how long a replica that is to go may finish: above a stage's p99")
    idle_s: float = Field(600.0, ge=0, description="how long a replica without work stays")


class ServingConfig(Config):
    """Of one service. At an orderly end what runs has `grace_s` to be done; `pools` are for Ray Serve alone."""

    files: str = Field("runs/serve", description="a folder or s3://… for what is made")
    database: str = Field("", description='an SQLAlchemy URL; "" is SQLite beside local files')
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    lease_s: float = Field(30.0, gt=0)
    max_attempts: int = Field(3, ge=1)
    grace_s: float = Field(600.0, ge=0)
    batch: int = Field(
        4, ge=1, description="how many waiting jobs of equal shape are denoised together, where they fit"
    )
    queue: int = Field(500, ge=1, description="open jobs of all")
    queue_per_owner: int = Field(20, ge=1)
    requests_per_minute: int | None = Field(None, ge=1, description="of one key; none: no limit")
    seconds_per_day: float | None = Field(None, gt=0, description="of video, of one key; none: no limit")
    keep_s: float = Field(7 * 86400.0, gt=0)
    webhooks: tuple[str, ...] = Field(
        (), description="what a webhook's URL may begin with; each ends a host with a slash. None: they are refused"
    )
    media_urls: tuple[str, ...] = Field(
        (),
        description="what a URL of media may begin with, as of webhooks; https:// alone: every public host. None: off",
    )
    media_networks: tuple[str, ...] = Field(
        (), description="networks such as 10.1.0.0/16 that media may be fetched from, though they are not public"
    )
    webhook_secret: str = Field("", repr=False)
    limits: UploadLimits = UploadLimits()
    rubric: tuple[str, ...] = Field(("overall",), description="what may be judged in the arena")
    ingress_replicas: int = Field(1, ge=1)
    ingress_cpus: float = Field(1.0, ge=0)
    pools: Mapping[str, Pool] = {}

    def check(self) -> None:
        """ConfigError where what may be called is left open, or webhooks cannot be signed."""
        kinds = [(self.webhooks, "https?"), (tuple(url for url in self.media_urls if url != "https://"), "https")]
        for prefix, scheme in ((prefix, scheme) for prefixes, scheme in kinds for prefix in prefixes):
            if not re.fullmatch(scheme + r"://[^/@\\?#]+/[^?#]*", prefix):
                raise ConfigError(
                    f"{prefix!r} must be a URL whose host ends with a slash, such as https://example.com/"
                )
        self.networks()
        if self.webhooks and not self.webhook_secret:
            raise ConfigError("webhooks are allowed, and there is no secret to sign them with")

    def networks(self) -> tuple[Network, ...]:
        """Those of `media_networks`. Raises ConfigError."""
        try:
            return tuple(ipaddress.ip_network(network) for network in self.media_networks)
        except ValueError as error:
            raise ConfigError(f"service.media_networks: {error}: write networks such as 10.1.0.0/16") from error

    def open_store(self) -> JobStore:
        """The job store that this configuration names."""
        if not self.database and not Storage(self.files).is_local:
            raise ConfigError(f"files are at {self.files}: say which database the jobs are in, as an SQLAlchemy URL")
        if not self.database:
            Path(self.files).mkdir(parents=True, exist_ok=True)
        url = self.database or f"sqlite:///{Path(self.files).resolve() / 'jobs.db'}"
        quotas = Quotas(self.queue, self.queue_per_owner, self.requests_per_minute, self.seconds_per_day)
        return JobStore(url, quotas=quotas, keep_s=self.keep_s)

    def open_artifacts(self) -> Artifacts:
        """The place of files."""
        return Artifacts(Storage(self.files).sub("videos"))
