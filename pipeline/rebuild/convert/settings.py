"""The settings of `vilbert convert`."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Ge

from vilbert.pipeline.rebuild.formats.registry import FORMATS, ImportOptions
from vilbert.pipeline.rebuild.where import parse_where
from vilbert.pipeline.shards.location.place_option import PlaceOption
from vilbert.settings import NonNegativeFloat, PositiveInt, Seed, ShardSize, Share, validated

Group = Literal["objects", "classes", "attributes", "object_boxes", "images"]
"""Optional parts of a data set: two arrays each, or the bytes of the images."""


@validated
class ConvertSettings:
    """Rebuild shards from data sets or published features: merge, select, join new captions, change fields and format.

    No image is read and no detector is needed. Every row of the sources becomes a sample or a failed row, or is
    dropped for a reason that the records count; `vilbert verify` checks the sum. Run the same command again after any
    interruption: it resumes, and writes the same shards.
    """

    sources: tyro.conf.Positional[Annotated[tuple[PlaceOption, ...], tyro.conf.arg(metavar="SOURCE ...")]]
    """Data sets (folders or URLs), or files of published features, see docs/formats.md."""
    output: PlaceOption
    """Output folder, or its URL (s3://…, any fsspec URL). An unfinished data set is resumed."""
    format: Literal["tar", "lmdb"] = "tar"
    """tar: readable by any WebDataset reader. lmdb: one file per shard, values in the safetensors format."""
    shard_size: ShardSize = 1000
    """Samples per shard."""
    append: bool = False
    """Add the sources to the data set in --output, which must have the same fingerprint."""
    source_format: str | None = None
    """Format of sources with published features; default: detected from their content."""
    ids: Path | None = None
    """Keep only these images: text file with one image id per line, JSON list, .npy, or a manifest."""
    selection: tuple[Path, ...] = ()
    """Files of `vilbert select`, at most one for each source: keep only these samples of it. A source without a file is
    kept whole."""
    split: tuple[str, ...] | None = None
    """Keep only these splits."""
    where: str | None = None
    """Keep only samples for which this expression over their metadata is true: "width >= 200 and n_boxes > 10 and
    'dog' in captions"."""
    columns: tuple[str, ...] = ()
    """Store these columns of the sources in the samples: vectors of regions are appended to the features, regions with
    boxes of their own replace those of the samples, other values become metadata, which --where sees. Other columns are
    not copied."""
    join: tuple[Path, ...] = ()
    """Take new captions, splits and metadata from these files by image id: a manifest, COCO or Karpathy JSON, JSONL,
    CSV. Later files override earlier ones; --split and --where see the joined values."""
    join_fields: tuple[str, ...] | None = None
    """Take only these fields from --join, such as captions; default: all."""
    unjoined: Literal["keep", "drop"] = "keep"
    """Images that no --join file has: keep them as they are, or drop them."""
    deduplicate: Literal["id", "image"] | None = None
    """Keep the first sample of each image id, or of each image (SHA-256 of its bytes). Default: equal ids are an
    error."""
    max_boxes: PositiveInt | None = None
    """Keep the boxes with the highest scores, at most this many, in their order."""
    min_score: Share | None = None
    """Keep the boxes with at least this score; a sample without any left is dropped."""
    drop_fields: tuple[Group, ...] = ()
    """Leave out fields: objects (ids and scores), classes (the probabilities of soft labels), attributes, images."""
    add_fields_from: PlaceOption | None = None
    """Data set or file of the same images and boxes whose fields are added where the sources lack them."""
    feature_dtype: Literal["float16", "float32", "int8", "float8_e4m3fn"] | None = None
    """dtype of features; default: that of the sources. int8 and float8_e4m3fn have a scale per region and take half the
    bytes of float16."""
    max_classes: PositiveInt | None = None
    """Keep only this many of the most probable classes of each box."""
    shuffle_seed: Seed | None = None
    """Shuffle all samples by this seed; default: the order of the sources."""
    one_split_per_shard: bool = False
    """Write shards of one split each, in the order of the splits' names."""
    backend: Literal["ray", "local"] = "local"
    """local: one worker, in this process. ray: workers on this machine or a cluster."""
    workers: PositiveInt | Literal["auto"] = "auto"
    """Maximum number of worker processes with --backend ray."""
    cpus_per_worker: PositiveInt = 1
    """Cores per worker with --backend ray."""
    stall_seconds: Annotated[float, Ge(0)] = 600.0
    """Seconds without progress before a worker is restarted. 0: never."""
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
    importing: ImportOptions = field(default_factory=ImportOptions)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("SOURCES are missing: give at least one data set or file of features")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"--columns {' '.join(self.columns)}: give each name once")
        if self.where is not None:
            parse_where(self.where)
        if self.join_fields is not None and not self.join:
            raise ValueError("--join-fields requires --join")
        if self.unjoined == "drop" and not self.join:
            raise ValueError("--unjoined drop needs --join")
        if self.source_format is not None and not FORMATS.is_known(self.source_format):
            raise ValueError(f"--source-format: {FORMATS.unknown(self.source_format)}")
        self._require_outside()
        if self.backend == "local" and self.workers not in ("auto", 1):
            raise ValueError(f"--workers {self.workers}: the local backend runs one; use --backend ray for more")
        if self.shared and self.append:
            raise ValueError("--append cannot be combined with --shared; run it without --shared")
        if self.shared and not isinstance(self.output, Path):
            raise ValueError("--shared: --output is a URL; give a folder of a shared file system, or use Ray")
        if self.backend == "local" and (self.ray_address or self.dashboard):
            raise ValueError("--ray-address and --dashboard require --backend ray")

    def _require_outside(self) -> None:
        """Raise ValueError if the output is a source, by any path, or is inside one."""
        for source in self.sources:
            if not isinstance(source, Path) or not isinstance(self.output, Path):
                same, inside = source == self.output, False
            else:
                same = source.resolve() == self.output.resolve()
                inside = not same and self.output.resolve().is_relative_to(source.resolve())
            if same and not self.append:
                raise ValueError(f"--output {self.output}: is one of the sources; write to another folder")
            if inside:
                raise ValueError(f"--output {self.output}: is inside the source {source}; give a folder outside it")

    @property
    def gpus_per_worker(self) -> float | None:
        """No worker needs a GPU."""
        return 0.0

    def region_operations(self) -> dict[str, Any]:
        """Return the operations on regions as JSON values, without those that have no effect."""
        operations = {
            "max_boxes": self.max_boxes,
            "min_score": self.min_score,
            "drop_fields": sorted(set(self.drop_fields) - {"images"}),
            "feature_dtype": self.feature_dtype,
            "max_classes": self.max_classes,
        }
        return {name: value for name, value in operations.items() if value not in (None, [])}
