"""The settings of `vilbert extract`."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from tyro.conf import Positional

from vilbert.extractors.decode import DecodeSettings
from vilbert.extractors.extractor import DetectorSettings
from vilbert.extractors.images.error import is_reason
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.extract.fetching.settings import FetchSettings
from vilbert.pipeline.shards.location.place_option import PlaceOption
from vilbert.settings import NonNegativeFloat, PositiveInt, validated


@validated
class ExtractSettings:
    """Run a detector over the images of a manifest and write their regions to shards.

    Run the same command again after any interruption: it goes on where it stopped, and the shards come out the same.
    """

    manifest: Positional[Path]
    """The Parquet file that `vilbert manifest` wrote."""
    output: PlaceOption
    """The data set's folder, or the URL of one (s3://…, any fsspec URL); gone on with where it is unfinished."""
    format: Literal["tar", "lmdb"] = "tar"
    """tar: any WebDataset reader decodes it. lmdb: one file a shard, values in the safetensors encoding."""
    shard_size: PositiveInt = 1000
    """Samples a shard."""
    limit: PositiveInt | None = None
    """Only the first so many rows of the manifest."""
    keep_images: bool = False
    """Store each image's own bytes in its sample, beside the regions."""
    batch_size: PositiveInt = 8
    """Images a detector pass, at most: a pass takes images of one resized shape."""
    backend: Literal["ray", "local"] = "ray"
    """ray: workers on this machine or a cluster. local: one worker, in this process."""
    workers: PositiveInt | Literal["auto"] = "auto"
    """Worker processes, at most: nodes that join or leave a cluster change their number. auto: as many as the GPUs, or
    without one the cores, allow."""
    gpus_per_worker: NonNegativeFloat | None = None
    """GPUs of a worker, or a fraction to share one; by default 1 where there is a GPU and --device does not say cpu."""
    cpus_per_worker: PositiveInt = 1
    """Cores of a worker: its decoding threads and, without a GPU, its detector's threads."""
    stall_seconds: Annotated[float, Ge(0)] = 600.0
    """A worker in which nothing moves for so long is replaced, and the image that it was at found out; 0: wait on."""
    retry_failed: tuple[str, ...] | None = None
    """Try the failed rows of a data set again, all of them or those with one of these reasons, and keep the others."""
    dry_run: bool = False
    """Say how many shards, how much disk and time it would take, and write nothing."""
    ray_address: str | None = None
    """A running cluster to join (`auto`, or HOST:PORT); by default Ray starts on this machine alone, on loopback."""
    dashboard: bool = False
    """Start Ray's dashboard, and its exporter of metrics, with a local Ray (needs the ray[default] package)."""
    price_per_hour: NonNegativeFloat | None = None
    """What an hour of one worker costs, in any currency, so that the summary says what a million images cost."""
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    decoding: DecodeSettings = field(default_factory=DecodeSettings)
    fetching: FetchSettings = field(default_factory=FetchSettings)

    def __post_init__(self) -> None:
        if self.backend == "local" and self.workers not in ("auto", 1):
            raise ValueError(f"--workers {self.workers}: the local backend runs one; use --backend ray for more")
        if unknown := [reason for reason in self.retry_failed or () if not is_reason(reason)]:
            raise ValueError(f"--retry-failed {unknown[0]}: is no reason; docs/decoding.md lists them")
        if self.backend == "local" and (self.ray_address or self.dashboard):
            raise ValueError("--ray-address and --dashboard belong to --backend ray")
