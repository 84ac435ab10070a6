"""Train a small model on the emulated GPU with recorded passes and without, and print how much they differ.

A program, run by `test_step_graphs`: an emulated device has to be there when torch is loaded.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import emulate
import torch
from emulated_graphs import install_graphs
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1] / "examples"))
install_graphs(emulate)
emulate.install()

from batches import CLASSES, FEATURES, VOCABULARY, made_batch  # noqa: E402 (a GPU has to be there first)

from vilbert.model.config import ViLBertConfig  # noqa: E402
from vilbert.model.vilbert import ViLBertForPreTraining  # noqa: E402
from vilbert.pipeline.train.engine.distributed import Group  # noqa: E402
from vilbert.pipeline.train.engine.optimizer import build_optimizer, clip_gradients, set_step  # noqa: E402
from vilbert.pipeline.train.engine.optimizer_settings import OptimizerSettings  # noqa: E402
from vilbert.pipeline.train.engine.step import backward  # noqa: E402
from vilbert.pipeline.train.engine.step_graphs import StepGraphs  # noqa: E402
from vilbert.pipeline.train.engine.working_weights import working_weights  # noqa: E402
from vilbert.pipeline.train.examples.batch import Batch  # noqa: E402
from vilbert.pipeline.train.pretraining.objective import PretrainObjective  # noqa: E402

CONFIG = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32, "v_hidden_size": 32,
    "v_num_attention_heads": 2, "v_intermediate_size": 32, "bi_hidden_size": 32, "bi_num_attention_heads": 2,
    "num_hidden_layers": 1, "v_num_hidden_layers": 1, "v_biattention_id": [0], "t_biattention_id": [0],
    "v_feature_size": FEATURES, "v_target_size": CLASSES,
}  # fmt: skip
DEVICE = torch.device("cuda", 0)
ROWS = 12
SHAPES = ((8, 4), (16, 8))
"""Words and regions of the first parts, which take turns; second parts have the first shape."""


def batch_of(words: int, regions: int, seed: int) -> Batch:
    """Return a batch in page-locked memory."""
    return made_batch(rows=ROWS, words=words, regions=regions, seed=seed).pin_memory()


class WaitingObjective(PretrainObjective):
    """One that reads a loss in each pass, which a graph cannot hold."""

    def sums(self, model: nn.Module, part: Batch, device: torch.device, seed: int) -> Tensor:
        """Return the losses."""
        sums = super().sums(model, part, device, seed)
        assert float(sums.detach().sum()) >= 0
        return sums


def train(
    steps: int, *, recorded: bool, bfloat16: bool = False, waits: bool = False, with_coattention: bool = True
) -> tuple[Tensor, Tensor, int]:
    """Return the losses of all steps, the last parameters, and how many graphs were launched."""
    torch.manual_seed(0)
    config = ViLBertConfig(**CONFIG, with_coattention=with_coattention)
    config._attn_implementation = "sdpa"
    model: Any = ViLBertForPreTraining(config).to(DEVICE).train()
    optimizer_settings = OptimizerSettings(learning_rate=1e-3)
    optimizer = build_optimizer(model, optimizer_settings, from_bert=True)
    kind = WaitingObjective if waits else PretrainObjective
    objective = kind(
        num_classes=CLASSES, visual_target=0, feature_dim=FEATURES, bfloat16=bfloat16, seed=1, known_positions=True
    )
    working = working_weights(model, device=DEVICE, bfloat16=bfloat16, bare=True)
    graphs = StepGraphs(model, objective, DEVICE, working) if recorded else None
    group, losses = Group(rank=0, world=1, device=DEVICE), []
    before = LIBRARY.fakegraphs_launches()
    for step in range(steps):
        words, regions = SHAPES[step % 2]
        parts = [batch_of(words, regions, step % 2), batch_of(*SHAPES[0], 2)]
        set_step(optimizer, optimizer_settings, factor=1.0, step=step)
        losses.append(backward(model, parts, objective, group, step, working, graphs).means.cpu())
        norm = (
            clip_gradients(model.parameters(), optimizer_settings)
            if graphs is None
            else graphs.clip(optimizer_settings)
        )
        losses.append(norm.cpu()[None])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    values = torch.cat([parameter.detach().flatten().cpu() for parameter in model.parameters()])
    return torch.cat(losses), values, LIBRARY.fakegraphs_launches() - before


def main() -> None:
    """Compare, and print what was found as JSON."""
    found: dict[str, Any] = {}
    for name, steps, options in (
        ("bf16", 6, {"bfloat16": True}),
        ("unused parameters", 6, {"with_coattention": False}),
        ("waits", 2, {"waits": True}),
    ):
        losses, values, launched = train(steps, recorded=True, **options)
        expected, usual, _ = train(steps, recorded=False, **options)
        found[name] = {
            "losses": float(((losses - expected).abs() / expected.abs()).max()),
            "parameters": float((values - usual).abs().max()),
            "graphs": launched,
        }
    print(json.dumps(found))


LIBRARY = ctypes.CDLL(None)
if __name__ == "__main__":
    main()
