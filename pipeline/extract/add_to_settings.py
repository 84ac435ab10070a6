"""Settings of `vilbert extract --add-to`."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from vilbert.extractors.settings import DecodeSettings, DetectorSettings, SelectionSettings
from vilbert.pipeline.extract.fetching.settings import FetchSettings
from vilbert.settings import NonNegativeFloat, PositiveInt, validated


@validated
class AddToSettings:
    """Run another detector over the images of a data set, and add what it says as a column.

    The data set does not change. Its images are those that it keeps (--keep-images), else they are read from where they
    were. Run the same command again after any interruption: it resumes, and writes the same files.
    """

    add_to: Path
    """Folder of the data set."""
    column: str
    """Name of the column: at most 20 of a-z, 0-9 and _."""
    boxes_from: Literal["base", "own"] = "base"
    """base: features at the boxes of the data set's regions. own: boxes that the detector selects, with features and
    labels; training on `--features NAME` uses them in place of the data set's."""
    labels: bool = False
    """Store objects, class probabilities and attributes besides the features, for `--class-targets NAME`. Always so
    with --boxes-from own."""
    batch_size: PositiveInt = 8
    """Maximum number of images per forward pass; images of a pass have the same resized shape."""
    backend: Literal["ray", "local"] = "ray"
    """ray: workers on this machine or a cluster. local: one worker, in this process."""
    workers: PositiveInt | Literal["auto"] = "auto"
    """Maximum number of worker processes. auto: limited by the GPUs, or by the cores if there is no GPU."""
    gpus_per_worker: NonNegativeFloat | None = None
    """GPUs per worker; a fraction shares one. Default: 1 if there is a GPU and --device is not cpu."""
    cpus_per_worker: PositiveInt = 1
    """Cores per worker: decoding threads and, without a GPU, threads of the detector."""
    stall_seconds: Annotated[float, Ge(0)] = 600.0
    """Seconds without progress before a worker is restarted; the image it was processing is recorded as a failure. 0:
    never."""
    retry_failed: tuple[str, ...] | None = None
    """Retry the samples that failed: all, or those with one of these reasons."""
    dry_run: bool = False
    """Print the disk space and time that the run would take; write nothing."""
    ray_address: str | None = None
    """Address of a running Ray cluster (`auto` or HOST:PORT); default: start Ray on this machine, on loopback."""
    dashboard: bool = False
    """Start Ray's dashboard and metrics exporter with a local Ray (needs ray[default])."""
    price_per_hour: NonNegativeFloat | None = None
    """Price of a worker per hour, in any currency; the summary then has the price of a million images."""
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    decoding: DecodeSettings = field(default_factory=DecodeSettings)
    fetching: FetchSettings = field(default_factory=FetchSettings)

    def __post_init__(self) -> None:
        if self.backend == "local" and self.workers not in ("auto", 1):
            raise ValueError(f"--workers {self.workers}: the local backend runs one; use --backend ray for more")
        if self.boxes_from == "base" and self.selection != SelectionSettings():
            raise ValueError(
                "--boxes, --selection, --confidence, --nms and --saved-box choose boxes, and a column has those of the "
                "data set; give --boxes-from own for others"
            )
