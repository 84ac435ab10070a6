"""The settings of `vilbert extract`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from extractors.decode import DecodeSettings
from extractors.extractor import DetectorSettings
from extractors.selection import SelectionSettings


@dataclass(frozen=True, kw_only=True)
class ExtractSettings:
    """Run a detector over the images of a manifest and write their regions to shards.

    Run the same command again after any interruption: it goes on where it stopped, and the shards come out the same.
    """

    manifest: Positional[Path]
    """The Parquet file that `vilbert manifest` wrote."""
    output: Path
    """The data set's folder; it is made where it is missing, and gone on with where it is unfinished."""
    format: Literal["tar", "lmdb"] = "tar"
    """tar: any WebDataset reader decodes it. lmdb: one file a shard, values in the safetensors encoding."""
    shard_size: int = 1000
    """Samples a shard."""
    limit: int | None = None
    """Only the first so many rows of the manifest."""
    batch_size: int = 8
    """Images a detector pass, at most: a pass takes images of one resized shape."""
    backend: Literal["ray", "local"] = "ray"
    """ray: workers on this machine or a cluster. local: one worker, in this process."""
    workers: int | Literal["auto"] = "auto"
    """Worker processes; auto: as many as the GPUs, or without one the cores, allow."""
    gpus_per_worker: float | None = None
    """GPUs of a worker, or a fraction to share one; by default 1 where there is a GPU and --device does not say cpu."""
    cpus_per_worker: int = 1
    """Cores of a worker: its decoding threads and, without a GPU, its detector's threads."""
    ray_address: str | None = None
    """A running cluster to join (`auto`, or HOST:PORT); by default Ray starts on this machine alone, on loopback."""
    dashboard: bool = False
    """Start Ray's dashboard with a local Ray (needs the ray[default] package)."""
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    decoding: DecodeSettings = field(default_factory=DecodeSettings)

    def __post_init__(self) -> None:
        for name in ("shard_size", "batch_size", "cpus_per_worker"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit}: give at least 1 row")
        if isinstance(self.workers, int) and self.workers < 1:
            raise ValueError(f"--workers {self.workers}: give at least 1, or auto")
        if self.backend == "local" and self.workers not in ("auto", 1):
            raise ValueError(f"--workers {self.workers}: the local backend runs one; use --backend ray for more")
        if self.gpus_per_worker is not None and self.gpus_per_worker < 0:
            raise ValueError(f"--gpus-per-worker {self.gpus_per_worker}: give 0 or more")
        if self.backend == "local" and (self.ray_address or self.dashboard):
            raise ValueError("--ray-address and --dashboard belong to --backend ray")
