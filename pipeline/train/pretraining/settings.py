"""Settings of `vilbert pretrain`."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from vilbert.pipeline.train.examples.item_settings import ItemSettings
from vilbert.pipeline.train.run.init_from import resolve_init_from
from vilbert.pipeline.train.run.settings import RunSettings
from vilbert.settings import Fraction, PositiveFloat, validated


@validated
class PretrainSettings(RunSettings):
    """Pre-train ViLBERT on data sets that `vilbert extract` wrote: masked words, masked regions, alignment.

    Run the same command again after any interruption: it resumes from the newest complete checkpoint with identical
    results. Shipped settings: --config default, paper, vilbert_beta, vilbert_multi_task or shapes. Run it directly,
    with torchrun, or with --workers under Ray.
    """

    weights: tuple[PositiveFloat, ...] = ()
    """Passes over each data set per epoch, one number per data set: 2 is twice, 0.5 a different half each time.
    Default: 1."""
    split: str = "auto"
    """Samples to train on: a split of the manifest, or `all`. auto: `train`; for data sets without it, the samples
    without a split."""
    eval_split: str = "auto"
    """Samples to evaluate on: a split, `held-out` (some of the training samples, excluded from training), `all` or
    `none`. auto: `val` if the data have it, else `held-out`."""
    hold_out: Fraction = 0.01
    """Fraction of the training samples for --eval-split held-out; of fewer than 10,000 samples, 100 or a tenth.
    Selected by a hash of the image id."""
    hold_out_seed: int = 0
    """Seed of the selection for --eval-split held-out."""
    eval_data: tuple[str, ...] = ()
    """Data sets to evaluate on; default: the training data sets."""
    model: str = "bert_base_6layer_6conect"
    """Name of a published configuration, `shapes`, or a config.json. Sizes of features, classes and vocabulary are set
    from the data and the tokenizer."""
    tokenizer: str = "bert-base-uncased"
    """Tokenizer folder or hub name; `new`: whole words of the training captions; `shapes`: those of the shapes data set
    and its tasks."""
    init_from: str = "bert-base-uncased"
    """Initial parameters: a BERT or RoBERTa model (folder or hub name) for the text stream, a run of `vilbert
    pretrain`, a ViLBERT checkpoint of any known layout, or `none`."""
    visual_target: Literal["auto", "classes", "regression", "nce"] = "auto"
    """Prediction target of a masked region: classes (the detector's soft labels), regression (its feature, squared
    error) or nce (identify its feature among many). auto: that of --model; regression if the data have no soft
    labels."""
    class_targets: str = "base"
    """Class probabilities that masked regions predict: base (the soft labels of the detector whose boxes are used), or
    the name of a column: of `extract --add-to --labels`, or of those of all its classes, floats [N, C]."""
    whiten_features: bool = False
    """Initialise the region embedding so that it whitens the features (mean and covariance); for short runs."""
    items: ItemSettings = field(default_factory=ItemSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "init_from", resolve_init_from(self.init_from))
        if self.weights and len(self.weights) != len(self.data):
            raise ValueError(f"--weights {self.weights}: give one for each of the {len(self.data)} data sets")
        if self.class_targets != "base" and self.visual_target not in ("auto", "classes"):
            raise ValueError(
                f"--class-targets {self.class_targets}: --visual-target {self.visual_target} does not predict classes; "
                "leave one of them out"
            )
        if self.eval_split == "held-out" and self.eval_data:
            raise ValueError("--eval-split held-out evaluates on training samples: leave --eval-data out")
