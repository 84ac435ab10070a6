"""Fine-tune a pre-trained model in a loop of your own, on the samples in the order of `vilbert pretrain`.

    python examples/own_loop.py features/ runs/small/final --steps 8 --state loop.json

Each step asks the model which of two captions belongs to an image. The state of the loader is one small JSON file: the
loop continues from it on any number of processes and loader workers. Under torchrun each process takes its part of each
batch; wrap the model in DistributedDataParallel there, so that gradients are averaged.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

import vilbert
from vilbert.model.vilbert import ViLBertForPreTraining


def model_inputs(batch: dict[str, Any], tokenizer: Any) -> dict[str, Tensor]:
    """Return the model's arguments: every second image gets the caption of its neighbour, labelled 1."""
    texts = [captions[0] for captions in batch["captions"]]
    swapped = [number % 2 for number in range(len(texts))]
    texts = [texts[number - 1] if swap else texts[number] for number, swap in enumerate(swapped)]
    words = tokenizer(texts, padding=True, truncation=True, max_length=36, return_tensors="pt")
    features, mask = batch["features"], batch["region_mask"]
    scale = batch["sizes"].repeat(1, 2)[:, None].float()
    boxes = batch["boxes"] / scale
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1, keepdim=True)
    whole_image = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]).expand(len(texts), 1, 5)
    mean = features.sum(dim=1, keepdim=True) / mask.sum(dim=1)[:, None, None]
    return {
        "input_ids": words["input_ids"],
        "attention_mask": words["attention_mask"],
        "image_feat": torch.cat([mean, features], dim=1),
        "image_loc": torch.cat([whole_image, torch.cat([boxes, area], dim=-1)], dim=1),
        "image_attention_mask": torch.cat([torch.ones(len(texts), 1), mask], dim=1).long(),
        "next_sentence_label": torch.tensor(swapped),
    }


def main() -> int:
    """Train for some steps, print the loss of each, and save where the loader stands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data set that `vilbert extract` wrote")
    parser.add_argument("model", help="a pre-trained model, RUN/final")
    parser.add_argument("--steps", type=int, default=8, help="number of optimizer steps")
    parser.add_argument("--state", type=Path, default=Path("loop.json"), help="where the loader's state is kept")
    options = parser.parse_args()

    model = ViLBertForPreTraining.from_pretrained(options.model)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    loader = vilbert.order(options.data, batch_size=4, seed=0, rank=rank, world_size=world_size)
    if options.state.exists():
        loader.load_state_dict(json.loads(options.state.read_text()))
    for batch in itertools.islice(loader, options.steps):
        output = model(**model_inputs(batch, tokenizer))
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"position {loader.position}: loss {output.loss.item():.3f}")
    if rank == 0:
        options.state.write_text(json.dumps(loader.state_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
