"""One worker in this process, for trials, debugging and tests."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.extract.settings import ExtractSettings
from pipeline.extract.worker import SHARDS_IN_FLIGHT, Description, Worker
from pipeline.shards.record import ShardRecord


class LocalHandle:
    """A worker whose shards are extracted by threads of this process."""

    def __init__(self, settings: ExtractSettings) -> None:
        self._worker = Worker(settings)
        self._threads = ThreadPoolExecutor(SHARDS_IN_FLIGHT, thread_name_prefix="shard")

    def start(self) -> Future[Description]:
        """Build the detector."""
        return self._threads.submit(self._worker.start)

    def extract_shard(self, shard: int, rows: tuple[int, int]) -> Future[ShardRecord]:
        """Write the shard of the manifest rows [start, stop)."""
        return self._threads.submit(self._worker.extract_shard, shard, rows)

    def rows_in_flight(self) -> int:
        """Return how many rows are done of the shards that are not."""
        return self._worker.rows_in_flight()

    def close(self) -> None:
        """Let shards under way end after their current batch, unwritten."""
        self._worker.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
