"""The job in each framework, as its own documentation recommends it for jobs that may be killed.

- This pipeline: `vilbert extract`, run again.
- Ray Data: `map_batches` with an actor, `write_parquet`, and `DataContext.checkpoint_config` with an ID column
  (docs.ray.io, "Checkpointing": a Dataset job that is run again skips the rows whose IDs were written).
- Daft: `read_parquet(checkpoint=CheckpointConfig(...))`, a batch method of a `daft.cls`, `write_parquet`
  (docs.daft.ai, "Checkpointing"). Only its Ray runner supports it. For Parquet files that page promises that finished
  inputs are skipped; exactly-once commits need Iceberg or Delta tables, and files of a crashed task may stay.
- NeMo Curator: a `Pipeline` of reader, stage and writer, `Pipeline.run(checkpoint_path=...)` on a Ray cluster that
  `RayClient` starts (docs.nvidia.com/nemo/curator, "Resumable processing").
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.chaos_peers.job import COLUMNS, MANIFEST, ROWS, Detector, Job, Row, columns

CPUS = 2


class Framework(NamedTuple):
    """A framework that runs the job."""

    run: Callable[[Path, Path, Job], None]
    """Of the folder that `prepare` filled, the output and the job."""
    package: str
    """Its distribution, whose version is reported."""
    results: str
    """Pattern of the files that say that samples are on the disk."""


def vilbert(folder: Path, output: Path, job: Job, *options: str) -> None:
    """Run `vilbert extract`."""
    from vilbert.pipeline.cli import main

    sizes = ["--shard-size", str(job.shard_size), "--batch-size", str(job.batch_size)]
    command = ["extract", str(folder / MANIFEST), "--output", str(output), "--detector", "shapes"]
    if main([*command, *sizes, *options]):
        raise SystemExit(1)


class RayDetector:
    """The detector as an actor of `map_batches`."""

    def __init__(self) -> None:
        """Build it."""
        self._detector = Detector()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the features of a batch."""
        return columns(self._detector.rows(batch["image_id"].tolist(), batch["path"].tolist()))


def ray_data(folder: Path, output: Path, job: Job) -> None:
    """Run the job with Ray Data."""
    import ray
    from ray.data.checkpoint import CheckpointConfig

    from vilbert.pipeline.ray_session import ray_session

    with ray_session(None, instead="try again on a machine with less work"):
        context = ray.data.DataContext.get_current()
        # The IDs are kept: by default they are deleted on success, and a run killed while it shuts down, whose results
        # are complete, would compute and append every row again.
        context.checkpoint_config = CheckpointConfig(
            id_column="image_id", checkpoint_path=str(output / "checkpoint"), delete_checkpoint_on_success=False
        )
        blocks = -(-job.images // job.shard_size)
        rows = ray.data.read_parquet(str(folder / ROWS), override_num_blocks=blocks)
        actors = ray.data.ActorPoolStrategy(size=1)
        features = rows.map_batches(RayDetector, batch_size=job.batch_size, compute=actors)
        features.write_parquet(str(output / "data"))


def daft(folder: Path, output: Path, job: Job) -> None:
    """Run the job with Daft."""
    import daft
    from daft import DataType, Series, col

    from vilbert.pipeline.ray_session import ray_session

    struct = DataType.struct({name: DataType.binary() for name in COLUMNS[1:]})

    class DaftDetector:
        def __init__(self) -> None:
            self._detector = Detector()

        def detect(self, image_id: Series, path: Series) -> list[Row]:
            rows = self._detector.rows(image_id.to_pylist(), path.to_pylist())
            return [{name: row[name] for name in COLUMNS[1:]} for row in rows]

        batches = daft.method.batch(return_dtype=struct, batch_size=job.batch_size)(detect)

    with ray_session(None, instead="try again on a machine with less work"):
        daft.set_runner_ray()
        store = daft.CheckpointStore(f"file://{output / 'checkpoint'}")
        config = daft.CheckpointConfig(store=store, on="image_id")
        rows = daft.read_parquet(str(folder / ROWS / "*.parquet"), checkpoint=config)
        detector = daft.cls(max_concurrency=1)(DaftDetector)()
        found = rows.with_column("found", detector.batches(col("image_id"), col("path")))
        values = [col("found").get(name).alias(name) for name in COLUMNS[1:]]
        found.select(col("image_id"), *values).write_parquet(str(output / "data"))


def nemo_curator(folder: Path, output: Path, job: Job) -> None:
    """Run the job with NeMo Curator."""
    import pandas as pd
    from nemo_curator.core.client import RayClient
    from nemo_curator.pipeline import Pipeline
    from nemo_curator.stages.base import ProcessingStage
    from nemo_curator.stages.resources import Resources
    from nemo_curator.stages.text.io.reader import ParquetReader
    from nemo_curator.stages.text.io.writer import ParquetWriter
    from nemo_curator.tasks import DocumentBatch

    class Detect(ProcessingStage[DocumentBatch, DocumentBatch]):  # type: ignore[misc]  # not installed where types are checked
        name = "detect"
        resources = Resources(cpus=1.0)

        def inputs(self) -> tuple[list[str], list[str]]:
            return ["data"], ["image_id", "path"]

        def outputs(self) -> tuple[list[str], list[str]]:
            return ["data"], list(COLUMNS)

        def num_workers(self) -> int:
            return 1

        def setup(self, worker_metadata: Any = None) -> None:
            self._detector = Detector()

        def process(self, task: DocumentBatch) -> DocumentBatch:
            table, rows = task.to_pandas(), []
            for start in range(0, len(table), job.batch_size):
                part = table.iloc[start : start + job.batch_size]
                rows += self._detector.rows(part["image_id"].tolist(), part["path"].tolist())
            return DocumentBatch(
                dataset_name=task.dataset_name, data=pd.DataFrame(columns(rows)), _metadata=task._metadata
            )

    small = Resources(cpus=0.25)  # so that all stages fit on two CPUs beside the detector
    reader = ParquetReader(file_paths=str(folder / ROWS), files_per_partition=1)
    writer = ParquetWriter(path=str(output / "data")).with_(resources=small)
    stages = [*(stage.with_(resources=small) for stage in reader.decompose()), Detect(), writer]
    client = RayClient(num_cpus=CPUS, include_dashboard=False)
    client.start()
    try:
        Pipeline(name="features", stages=stages).run(checkpoint_path=output / "checkpoint")
    finally:
        client.stop()


FRAMEWORKS = {
    "vilbert": Framework(
        lambda folder, output, job: vilbert(folder, output, job, "--backend", "local"),
        "vilbert-pipeline",
        "shards/*.json",
    ),
    "vilbert-ray": Framework(
        lambda folder, output, job: vilbert(folder, output, job, "--workers", "1"), "vilbert-pipeline", "shards/*.json"
    ),
    "ray-data": Framework(ray_data, "ray", "data/*.parquet"),
    "daft": Framework(daft, "daft", "data/*.parquet"),
    "nemo-curator": Framework(nemo_curator, "nemo_curator", "data/*.parquet"),
}
