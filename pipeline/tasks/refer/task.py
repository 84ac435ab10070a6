"""Referring expressions (RefCOCO, RefCOCO+, RefCOCOg): predict the region that a phrase refers to.

In training, regions at the annotated boxes are shown in addition to the detected ones, if their features are given; a
region's target is its IoU with the true box. In evaluation the candidates are the detected boxes, or, with given boxes,
only these, which measures the choice independently of the detector.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vilbert.model.outputs import ViLBertForTasksOutput
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.tasks.losses import region_loss
from vilbert.pipeline.tasks.refer.boxes import iou, soft_targets
from vilbert.pipeline.tasks.refer.files import Expression, read_refer
from vilbert.pipeline.tasks.registry import TaskFiles
from vilbert.pipeline.tasks.task import GivenBoxes, Rows, Shown, Task, TaskBase, numbers_of

RIGHT_ABOVE = 0.5
"""IoU above which a region is correct."""


class ReferTask(TaskBase):
    """Expressions of one split; the answer is a region."""

    head = "vision_logit"

    def __init__(self, name: str, items: Sequence[Expression], *, given_boxes: GivenBoxes) -> None:
        """Create the task from expressions."""
        self.name = name
        self.given_boxes = given_boxes
        self.items = items

    def rows(self, number: int, key: np.uint64) -> Rows:
        """Return the expression with its image."""
        item = self.items[number]
        return Rows(((item.text,),), (item.image_id,))

    def targets(self, numbers: Sequence[int], shown: Sequence[Shown | None]) -> dict[str, Tensor]:
        """Return the targets, with the whole image as first region.

        overlap float32 [I, R + 1] is the target, 0 below an IoU of 0.5; iou float32 [I, R + 1]; boxes float32 [I, R +
        1, 4]; counts int64 [I].
        """
        width = 1 + max((len(image.boxes) for image in shown if image), default=0)
        boxes = np.zeros((len(numbers), width, 4), dtype=np.float32)
        found = np.zeros((len(numbers), width), dtype=np.float32)
        targets = np.zeros((len(numbers), width), dtype=np.float32)
        counts = np.zeros(len(numbers), dtype=np.int64)
        for row, (number, image) in enumerate(zip(numbers, shown, strict=True)):
            if image is None or number < 0:
                continue
            there = np.concatenate([[[0, 0, image.width, image.height]], image.boxes]).astype(np.float32)
            true = self.items[number].box_xyxy
            counts[row] = len(there)
            boxes[row, : len(there)] = there
            found[row, : len(there)] = iou(there, true)
            targets[row, : len(there)] = soft_targets(there, true)
        arrays = {"overlap": targets, "iou": found, "boxes": boxes, "counts": counts}
        return {name: torch.from_numpy(value) for name, value in arrays.items()}

    def count(self, targets: Mapping[str, Tensor]) -> int:
        """Return the number of expressions whose image could be read."""
        return int((targets["counts"] > 0).sum())

    def loss(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> Tensor:
        """Return the binary cross-entropy over regions, summed over expressions."""
        return region_loss(_scores(output, targets), targets["overlap"], targets["counts"])

    def answers(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> list[Any]:
        """Return the best region of each expression: its index (0 is the whole image), box and IoU."""
        scores = _scores(output, targets)
        there = torch.arange(scores.shape[1], device=scores.device) < targets["counts"][:, None].clamp(min=1)
        best = scores.float().masked_fill(~there, -torch.inf).argmax(1)
        rows = torch.arange(len(best), device=best.device)
        found = zip(
            best.tolist(), targets["boxes"][rows, best].tolist(), targets["iou"][rows, best].tolist(), strict=True
        )
        return [{"target": region, "box": box, "iou": overlap} for region, box, overlap in found]

    def figures(self, answers: Mapping[int, Any]) -> dict[str, float]:
        """Return the fraction of expressions whose predicted region has an IoU above 0.5."""
        if not answers:
            return {}
        right = sum(answer["iou"] > RIGHT_ABOVE for answer in answers.values())
        return {"accuracy": right / len(answers)}

    def results(self, answers: Mapping[int, Any]) -> bytes:
        """Return JSON: sent_id, ref_id, image_id, region, box and IoU of each expression."""
        rows = [
            {
                "sent_id": self.items[number].sent_id,
                "ref_id": self.items[number].ref_id,
                "image_id": self.items[number].image_id,
                **answers[number],
            }
            for number in sorted(answers)
        ]
        return encode_json(rows)

    def item_key(self, item: Expression) -> Hashable:
        """Return the sentence's identifier."""
        return item.sent_id

    def read_row(self, row: Any) -> tuple[Hashable, dict[str, Any]]:
        """Return the sentence's identifier, and the region with its box and IoU."""
        x1, y1, x2, y2 = box = numbers_of(row["box"], 4)
        if not (x1 <= x2 and y1 <= y2):
            raise ValueError(f"{box} is not a box x1, y1, x2, y2")
        return row["sent_id"], {"target": int(row["target"]), "box": box, "iou": float(row["iou"])}

    def has_truth(self, number: int) -> bool:
        """Return True: every expression has a box."""
        return True

    def score(self, number: int, answer: Any) -> float:
        """Return 1 if the IoU is above 0.5, else 0."""
        return float(answer["iou"] > RIGHT_ABOVE)


def _scores(output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> Tensor:
    """Return the candidates' scores [I, R + 1], without the model's rows beyond the batch's largest region count."""
    assert output.vision_logit is not None
    scores = output.vision_logit[..., 0]
    return scores[:, : targets["overlap"].shape[1]]


def open_task(name: str, files: TaskFiles, split: str, like: Task | None) -> ReferTask:
    """Read the expressions of a split; given boxes are used in training, not in evaluations during training."""
    return ReferTask(name, read_refer(files.folder, split), given_boxes="unused" if like else "candidates")
