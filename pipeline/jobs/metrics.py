"""Counts of a run as Prometheus metrics, exported by the Ray node."""

from __future__ import annotations

from vilbert.pipeline.jobs.run_state import RunState


class Metrics:
    """Metrics of one run, which the driver's node exports. Ray must be initialised."""

    def __init__(self, command: str, dataset: str) -> None:
        """Create the metrics `vilbert_COMMAND_…`; `dataset` becomes the label of that name."""
        from ray.util.metrics import Counter, Gauge

        def gauge(name: str, description: str) -> Gauge:
            made = Gauge(f"vilbert_{command}_{name}", description, tag_keys=("dataset",))
            made.set_default_tags({"dataset": dataset})
            return made

        def counter(name: str, description: str, *labels: str) -> Counter:
            made = Counter(f"vilbert_{command}_{name}", description, tag_keys=("dataset", *labels))
            made.set_default_tags({"dataset": dataset})
            return made

        self._rows = gauge("rows", "Rows of the manifest.")
        self._rows_done = gauge("rows_done", "Rows that are a sample or a failure, earlier runs included.")
        self._workers = gauge("workers", "Workers at work.")
        self._waited = gauge("detector_waited_ratio", "Share of the workers' time in which the detector had no images.")
        self._samples = counter("samples", "Samples written by this run.")
        self._failures = counter("failures", "Rows that failed in this run.", "reason")
        self._bytes = counter("bytes", "Bytes of samples written by this run.")
        self._lost = counter("workers_lost", "Workers that were killed, died or got stuck in this run.")
        self._told: dict[str, int] = {}

    def show(self, state: RunState) -> None:
        """Set the metrics to the values of `state`."""
        self._rows.set(state.rows)
        self._rows_done.set(state.rows_done + state.rows_in_work)
        self._workers.set(state.workers)
        if state.detector_waited is not None:
            self._waited.set(state.detector_waited)
        for counter, name in ((self._samples, "samples"), (self._bytes, "bytes"), (self._lost, "workers_lost")):
            if more := self._more(name, getattr(state, name)):
                counter.inc(more)
        for reason, count in state.failures.items():
            if more := self._more(f"failures {reason}", count):
                self._failures.inc(more, tags={"reason": reason})

    def _more(self, name: str, count: int) -> int:
        before, self._told[name] = self._told.get(name, 0), count
        return count - before
