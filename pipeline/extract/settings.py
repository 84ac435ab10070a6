"""Settings of `vilbert extract`."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from tyro.conf import Positional, Suppress

from vilbert.extractors.images.error import is_reason
from vilbert.extractors.settings import DecodeSettings, DetectorSettings, SelectionSettings
from vilbert.pipeline.extract.fetching.settings import FetchSettings
from vilbert.pipeline.shards.location.place_option import PlaceOption
from vilbert.settings import NonNegativeFloat, PositiveInt, ShardSize, validated


@validated
class ExtractSettings:
    """Run a detector over the images of a manifest and write their regions to shards.

    Run the same command again after any interruption: it resumes, and writes the same shards.
    """

    manifest: Positional[Path]
    """The Parquet file that `vilbert manifest` wrote."""
    output: PlaceOption
    """Output folder, or its URL (s3://…, any fsspec URL). An unfinished data set is resumed."""
    format: Literal["tar", "lmdb"] = "tar"
    """tar: readable by any WebDataset reader. lmdb: one file per shard, values in the safetensors format."""
    shard_size: ShardSize = 1000
    """Samples per shard."""
    one_split_per_shard: bool = False
    """Start a new shard where the split changes in the manifest, so that other tools see the splits. `vilbert manifest
    --group-by-split` puts the rows of a split together."""
    limit: PositiveInt | None = None
    """Process only the first rows of the manifest."""
    keep_images: bool = False
    """Store the encoded image in its sample, beside the regions."""
    feature_dtype: Literal["float16", "int8", "float8_e4m3fn"] = "float16"
    """dtype of features. int8 and float8_e4m3fn have a scale per region and take half the bytes of float16; an image
    whose features they do not hold precisely is recorded as a failure."""
    batch_size: PositiveInt = 8
    """Maximum number of images per forward pass; images of a pass have the same resized shape."""
    backend: Literal["ray", "local"] = "ray"
    """ray: workers on this machine or a cluster. local: one worker, in this process."""
    workers: PositiveInt | Literal["auto"] = "auto"
    """Maximum number of worker processes; it follows nodes that join or leave a cluster. auto: limited by the GPUs, or
    by the cores if there is no GPU."""
    gpus_per_worker: NonNegativeFloat | None = None
    """GPUs per worker; a fraction shares one. Default: 1 if there is a GPU and --device is not cpu."""
    cpus_per_worker: PositiveInt = 1
    """Cores per worker: decoding threads and, without a GPU, threads of the detector."""
    stall_seconds: Annotated[float, Ge(0)] = 600.0
    """Seconds without progress before a worker is restarted; the image it was processing is recorded as a failure. 0:
    never."""
    retry_failed: tuple[str, ...] | None = None
    """Retry failed rows of a data set: all, or those with one of these reasons."""
    shared: bool = False
    """Share the output folder with other processes that run the same command, such as the tasks of a Slurm array: each
    claims shards until all are done. The data set is completed once."""
    dry_run: bool = False
    """Print the number of shards, disk space and time that the run would take; write nothing."""
    ray_address: str | None = None
    """Address of a running Ray cluster (`auto` or HOST:PORT); default: start Ray on this machine, on loopback."""
    dashboard: bool = False
    """Start Ray's dashboard and metrics exporter with a local Ray (needs ray[default])."""
    price_per_hour: NonNegativeFloat | None = None
    """Price of a worker per hour, in any currency; the summary then has the price of a million images."""
    column: Suppress[str | None] = None
    """Set by `--add-to`: the column to write instead of a data set; --manifest has the rows of its data set."""
    boxes_from: Suppress[Literal["base", "own"]] = "base"
    """Set by `--add-to`: the source of the boxes of the column."""
    labels: Suppress[bool] = False
    """Set by `--add-to`: whether the column stores samples with labels, or features only."""
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    decoding: DecodeSettings = field(default_factory=DecodeSettings)
    fetching: FetchSettings = field(default_factory=FetchSettings)

    def __post_init__(self) -> None:
        if self.backend == "local" and self.workers not in ("auto", 1):
            raise ValueError(f"--workers {self.workers}: the local backend runs one; use --backend ray for more")
        if unknown := [reason for reason in self.retry_failed or () if not is_reason(reason)]:
            raise ValueError(f"--retry-failed {unknown[0]}: unknown reason; docs/decoding.md lists them")
        if self.shared and self.retry_failed is not None:
            raise ValueError("--retry-failed cannot be combined with --shared; run it without --shared")
        if self.shared and not isinstance(self.output, Path):
            raise ValueError("--shared: --output is a URL; give a folder of a shared file system, or use Ray")
        if self.column is not None and self.feature_dtype != "float16":
            raise ValueError(f"--feature-dtype {self.feature_dtype}: a column has float16 features")
        if self.backend == "local" and (self.ray_address or self.dashboard):
            raise ValueError("--ray-address and --dashboard require --backend ray")
