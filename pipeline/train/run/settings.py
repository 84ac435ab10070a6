"""Settings that all training runs share."""

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
    """Settings of every training run."""

    data: Positional[tuple[str, ...]]
    """Data sets: folders, or fsspec URLs of them (s3://..., https://...)."""
    output: Path
    """The run's folder: checkpoints, metrics.jsonl, report.html, and the model in final/."""
    resume: str = "auto"
    """auto: resume from the newest complete checkpoint of --output, if any. Or the path of a checkpoint with the same
    settings and data to start from; when restarted, the run resumes from its own newest checkpoint."""
    batch_size: PositiveInt = 512
    """Global batch size: samples per optimizer step, over all ranks and accumulation steps."""
    epochs: PositiveFloat = 10.0
    """Number of epochs."""
    max_steps: PositiveInt | None = None
    """Number of steps instead of --epochs; the schedule is scaled to it."""
    grad_accumulation: PositiveInt = 1
    """Gradient accumulation steps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: forward and backward under autocast; parameters, losses and the optimizer stay float32. fp32: on a GPU,
    matrix products in TF32. auto: that of the run that is resumed; else bf16 on a GPU that supports it, else fp32."""
    compile: bool = False
    """Run the model through torch.compile."""
    cuda_graphs: bool = True
    """On one GPU without --compile: record the passes of pre-training as CUDA graphs and replay them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if available."""
    num_workers: NonNegativeInt = 2
    """Data loading processes per rank; 0: load in the training process."""
    num_threads: PositiveInt | None = None
    """OpenMP threads per training process; default: PyTorch's choice. One is faster for a small model."""
    workers: NonNegativeInt = 0
    """Number of training processes to start with Ray; 0: this process, or those that torchrun started."""
    use_gpu: bool = False
    """With --workers: one GPU per process."""
    max_failures: NonNegativeInt = 3
    """With --workers: maximum number of restarts after a process is lost."""
    ray_address: str | None = None
    """With --workers: address of a running Ray cluster (`auto` or HOST:PORT); default: start Ray on this machine."""
    seed: Seed = 42
    """Random seed of the sample order, masking, dropout and initialisation."""
    window: PositiveInt = 8192
    """Minimum size of the shuffle window, in samples; it holds whole shards of a shuffled list."""
    on_corrupt: Literal["stop", "skip"] = "stop"
    """On an unreadable shard: stop the run, or skip its samples and count them."""
    verify_shards: bool = True
    """Verify the SHA-256 of each shard against its record once, before its first sample is used."""
    allow_mixed_features: bool = False
    """Accept data sets, or an --init-from, whose regions come from different detectors or settings."""
    features: tuple[str, ...] = ("base",)
    """Features of a region: base (those of the data set), or names of columns; several are concatenated. A column with
    boxes of its own is given alone; its boxes and soft labels are used, too."""
    selection: tuple[Path, ...] = ()
    """Files of `vilbert select`: use only these samples of their data sets, to train and to evaluate. A data set
    without a file is used whole."""
    non_finite: Literal["stop", "skip"] = "stop"
    """On a NaN or infinite loss or gradient: stop the run, or skip the step and count it."""
    log_every: PositiveInt = 10
    """Steps between lines of metrics.jsonl."""
    eval_every: PositiveInt = 1000
    """Steps between evaluations; the last step is always evaluated."""
    checkpoint_every: PositiveInt = 1000
    """Steps between checkpoints; the last step always has one."""
    async_checkpoint: bool = True
    """Write checkpoints in a thread during training, from a copy in memory of three times the size of the
    parameters."""
    peak_tflops: PositiveFloat | None = None
    """Peak TFLOPS of one device, for the MFU in metrics.jsonl; default: that of known GPUs."""
    profile: NonNegativeInt = 0
    """Number of steps to profile, after the first three: RUN/profile gets a trace and a table of the ten most expensive
    operations."""
    keep: PositiveInt = 3
    """Number of newest checkpoints to keep, beside the best evaluated one."""
    tracker: tuple[str, ...] = (AUTO,)
    """Experiment trackers beside metrics.jsonl: auto (tensorboard where it is installed), tensorboard
    (RUN/tensorboard), trackio, wandb, mlflow, one of an installed package, or `none`."""
    cache: Path | None = None
    """Cache folder for shards of remote data sets; default: RUN/cache."""
    cache_bytes: int = DEFAULT_CACHE_BYTES
    """Maximum size of the cache, in bytes."""
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
            raise ValueError("--use-gpu and --ray-address require --workers; otherwise use --device")

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
                f"--grad-accumulation {self.grad_accumulation}: more than the {smallest} samples of a batch that "
                f"a process has (--batch-size {self.batch_size}, {world} of them); give at most {smallest}"
            )

    def steps(self, epoch_size: int) -> int:
        """Return the steps of the run: enough that every one of `epoch_size` samples is seen `epochs` times."""
        return self.max_steps or max(1, -(-round(self.epochs * epoch_size) // self.batch_size))


# What may differ between a run and the one that resumes it: it does not change the results, up to rounding. The data
# sets are compared by their content.
RUNTIME = frozenset(
    {
        *(
            "data",
            "eval_data",
            "selection",
            "output",
            "resume",
            "grad_accumulation",
            "compile",
            "cuda_graphs",
            "device",
            "num_workers",
            "workers",
        ),
        *("use_gpu", "max_failures", "ray_address", "on_corrupt", "non_finite", "log_every", "eval_every"),
        *(
            "checkpoint_every",
            "async_checkpoint",
            "keep",
            "tracker",
            "peak_tflops",
            "profile",
            "cache",
            "cache_bytes",
            "verify_shards",
            "allow_mixed_features",
        ),
        *("hold_out", "hold_out_seed", "num_threads"),
        "class_targets",  # are compared by content, with the data sets
        "visual_target",  # is part of the model's config, which is compared
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
