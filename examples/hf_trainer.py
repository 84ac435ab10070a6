"""Fine-tune a pre-trained model with the Trainer of transformers, on the samples in the order of `vilbert pretrain`.

    python examples/hf_trainer.py features/ runs/small/final trainer --steps 8

The loader's state is saved in each checkpoint of the Trainer. The same command continues from the last checkpoint with
the batch that follows; without the state the Trainer would read all batches before it again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from own_loop import model_inputs
from torch.utils.data import IterableDataset
from transformers import AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

import vilbert
from vilbert.model.vilbert import ViLBertForPreTraining

STATE = "order.json"


class Batches(IterableDataset[Any]):
    """The batches of `vilbert.order` as arguments of the model."""

    def __init__(self, loader: Any, tokenizer: Any) -> None:
        self.loader, self.tokenizer = loader, tokenizer

    def __iter__(self) -> Any:
        return (model_inputs(batch, self.tokenizer) for batch in self.loader)


class OrderedTrainer(Trainer):
    """A Trainer whose batches are made already."""

    def get_train_dataloader(self) -> Any:
        """Return the batches themselves: they need no sampler, no collation and no sharding."""
        return self.train_dataset


class SaveOrder(TrainerCallback):
    """Saves the loader's state in each checkpoint."""

    def __init__(self, loader: Any, output: Path) -> None:
        self.loader, self.output = loader, output

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the state beside the checkpoint's other files."""
        folder = self.output / f"checkpoint-{state.global_step}"
        (folder / STATE).write_text(json.dumps(self.loader.state_dict()))


def main() -> int:
    """Train or resume, and print the loss of each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data set that `vilbert extract` wrote")
    parser.add_argument("model", help="a pre-trained model, RUN/final")
    parser.add_argument("output", type=Path, help="folder of the Trainer")
    parser.add_argument("--steps", type=int, default=8, help="number of optimizer steps in all")
    options = parser.parse_args()

    loader = vilbert.order(options.data, batch_size=4, seed=0)
    saved = sorted(options.output.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if saved:
        loader.load_state_dict(json.loads((saved[-1] / STATE).read_text()))
    trainer = OrderedTrainer(
        model=ViLBertForPreTraining.from_pretrained(options.model),
        args=TrainingArguments(
            output_dir=str(options.output),
            max_steps=options.steps,
            save_steps=4,
            logging_steps=1,
            ignore_data_skip=True,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=Batches(loader, AutoTokenizer.from_pretrained(options.model)),
        callbacks=[SaveOrder(loader, options.output)],
    )
    trainer.train(resume_from_checkpoint=str(saved[-1]) if saved else None)
    for entry in trainer.state.log_history:
        if "loss" in entry:
            print(f"step {entry['step']}: loss {float(entry['loss']):.3f}")
    print(f"position {loader.position}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
