"""The settings that every training run has, whatever it learns."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from vilbert.pipeline.train.engine.optimizer_settings import OptimizerSettings
from vilbert.pipeline.train.engine.schedule import ScheduleSettings
from vilbert.pipeline.train.run.trackers import AUTO, require_tracker
from vilbert.settings import NonNegativeInt, PositiveFloat, PositiveInt, Seed, validated

DEFAULT_CACHE_BYTES = 50_000_000_000


@validated
class RunSettings:
    """What pre-training and fine-tuning share."""

    data: Positional[tuple[str, ...]]
    """Data sets: folders, or fsspec URLs of them (s3://..., https://...)."""
    output: Path
    """The run's folder: checkpoints, metrics.jsonl, report.html, and the model in final/."""
    resume: str = "auto"
    """auto: go on from the newest whole checkpoint of --output, if there is one. Or the path of a checkpoint to begin
    from, of the same settings and data; started again, the run goes on from its own newest."""
    batch_size: PositiveInt = 512
    """Samples in an optimizer's step, over all ranks and accumulated parts."""
    epochs: PositiveFloat = 10.0
    """How often every sample is seen."""
    max_steps: PositiveInt | None = None
    """Stop after so many steps instead, with the schedule fitted to them."""
    grad_accumulation: PositiveInt = 1
    """Parts that a rank's share of a batch is computed in, one after another; as even as they come."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: forward and backward under autocast; parameters, losses and the optimizer stay float32."""
    compile: bool = False
    """Run the model through torch.compile."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one."""
    num_workers: NonNegativeInt = 2
    """Processes of each rank that read shards and make batches; 0 does it between steps."""
    num_threads: PositiveInt | None = None
    """OpenMP threads of each training process; by default PyTorch's own choice. One is faster for a small model."""
    workers: NonNegativeInt = 0
    """Start so many training processes with Ray; 0: this process, or those that torchrun started."""
    use_gpu: bool = False
    """With --workers: a GPU for each."""
    max_failures: NonNegativeInt = 3
    """With --workers: how often a group that lost a process is started again."""
    ray_address: str | None = None
    """With --workers: a running cluster to join (`auto`, or HOST:PORT); by default Ray starts on this machine alone."""
    seed: Seed = 42
    """Decides the order, all that is drawn for a sample, dropout, and where parameters begin."""
    window: PositiveInt = 8192
    """Samples, at least, that are shuffled together: those of consecutive shards of a shuffled list."""
    on_corrupt: Literal["stop", "skip"] = "stop"
    """What a shard that cannot be read does: stop the run, or leave its samples out and count them."""
    verify_shards: bool = True
    """Compare the SHA-256 of each shard with its record, once, before its first sample is used."""
    allow_mixed_features: bool = False
    """Take data sets, or an --init-from, whose regions come from different detectors or settings."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is no number does: stop the run, or leave the step out and count it."""
    log_every: PositiveInt = 10
    """Steps between lines of metrics.jsonl."""
    eval_every: PositiveInt = 1000
    """Steps between evaluations; the last step is always evaluated."""
    checkpoint_every: PositiveInt = 1000
    """Steps between checkpoints; the last step always has one."""
    keep: PositiveInt = 3
    """Newest checkpoints kept, beside the best of those whose step was evaluated."""
    tracker: tuple[str, ...] = (AUTO,)
    """Experiment trackers beside metrics.jsonl: auto (tensorboard where it is installed), tensorboard
    (RUN/tensorboard), trackio, wandb, mlflow, one of an installed package, or `none`."""
    cache: Path | None = None
    """Where shards of remote data sets are kept; by default RUN/cache."""
    cache_bytes: int = DEFAULT_CACHE_BYTES
    """Bytes of remote shards kept on this machine."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tracker", tuple(dict.fromkeys(name for name in self.tracker if name != "none")))
        for name in self.tracker:
            require_tracker(name)
        if not self.data:
            raise ValueError("no data set: give one or more folders that `vilbert extract` wrote")
        self.require_share(max(self.workers, 1))
        if not self.workers and (self.use_gpu or self.ray_address):
            raise ValueError("--use-gpu and --ray-address belong to --workers; without it use --device")

    def require_share(self, world: int) -> None:
        """Raise ValueError where a rank of so many would have no sample of a batch, or fewer than it has parts."""
        smallest = self.batch_size // world
        if smallest == 0:
            raise ValueError(
                f"--batch-size {self.batch_size} for {world} processes: each needs a sample; start fewer, or give "
                f"--batch-size {world} or more"
            )
        if smallest < self.grad_accumulation:
            raise ValueError(
                f"--grad-accumulation {self.grad_accumulation}: more parts than the {smallest} samples of a batch that "
                f"a process has (--batch-size {self.batch_size}, {world} of them); give at most {smallest}"
            )

    def steps(self, epoch_size: int) -> int:
        """Return the steps of the run: enough that every one of `epoch_size` samples is seen `epochs` times."""
        return self.max_steps or max(1, -(-round(self.epochs * epoch_size) // self.batch_size))


# What may differ between a run and the one that goes on from its checkpoints: none of it changes what is learnt, up to
# rounding. The data sets are compared by their content.
RUNTIME = frozenset(
    {
        *("data", "eval_data", "output", "resume", "grad_accumulation", "compile", "device", "num_workers", "workers"),
        *("use_gpu", "max_failures", "ray_address", "on_corrupt", "non_finite", "log_every", "eval_every"),
        *("checkpoint_every", "keep", "tracker", "cache", "cache_bytes", "verify_shards", "allow_mixed_features"),
        *("hold_out", "hold_out_seed", "num_threads"),
    }
)


def identity(settings: RunSettings) -> dict[str, Any]:
    """Return the settings that a resumed run must share, as JSON values by option name."""
    values = {key: value for key, value in dataclasses.asdict(settings).items() if key not in RUNTIME}
    for name in [name for name, value in values.items() if isinstance(value, dict)]:
        values |= values.pop(name)
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
