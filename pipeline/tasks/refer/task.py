"""Referring expressions (RefCOCO, RefCOCO+, RefCOCOg): which region does a phrase mean?

In training the boxes of the annotations are shown beside the detector's, where their features are given; a region's
target is its overlap with the true box. In evaluation the detector's boxes alone are candidates, or, with given boxes,
these alone, which asks for the choice and not for the detector.
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
"""The overlap above which a region is the right one."""


class ReferTask(TaskBase):
    """Expressions of one split; the answer is a region."""

    head = "vision_logit"

    def __init__(self, name: str, items: Sequence[Expression], *, given_boxes: GivenBoxes) -> None:
        """Take expressions."""
        self.name = name
        self.given_boxes = given_boxes
        self.items = items

    def rows(self, number: int, key: np.uint64) -> Rows:
        """Return the expression before its image."""
        item = self.items[number]
        return Rows(((item.text,),), (item.image_id,))

    def targets(self, numbers: Sequence[int], shown: Sequence[Shown | None]) -> dict[str, Tensor]:
        """Return overlap and boxes: float32 [I, R + 1] and [I, R + 1, 4], the whole image first; counts int64 [I].

        overlap is the target, 0 below one half; iou, float32 [I, R + 1], what it was made of.
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
        """Return the expressions whose image could be read."""
        return int((targets["counts"] > 0).sum())

    def loss(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> Tensor:
        """Return binary cross-entropy over regions, summed over expressions."""
        return region_loss(_scores(output, targets), targets["overlap"], targets["counts"])

    def answers(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> list[Any]:
        """Return the best region of each expression: its number, 0 being the whole image, its box and its overlap."""
        scores = _scores(output, targets)
        there = torch.arange(scores.shape[1], device=scores.device) < targets["counts"][:, None].clamp(min=1)
        best = scores.float().masked_fill(~there, -torch.inf).argmax(1)
        rows = torch.arange(len(best), device=best.device)
        found = zip(
            best.tolist(), targets["boxes"][rows, best].tolist(), targets["iou"][rows, best].tolist(), strict=True
        )
        return [{"target": region, "box": box, "iou": overlap} for region, box, overlap in found]

    def figures(self, answers: Mapping[int, Any]) -> dict[str, float]:
        """Return the share of expressions whose region overlaps the true box by more than one half."""
        if not answers:
            return {}
        right = sum(answer["iou"] > RIGHT_ABOVE for answer in answers.values())
        return {"accuracy": right / len(answers)}

    def results(self, answers: Mapping[int, Any]) -> bytes:
        """Return JSON: sent_id, ref_id, image_id, region, box and overlap of each expression."""
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
        """Return the sentence's identifier, and the region, its box and its overlap."""
        x1, y1, x2, y2 = box = numbers_of(row["box"], 4)
        if not (x1 <= x2 and y1 <= y2):
            raise ValueError(f"{box} is not a box x1, y1, x2, y2")
        return row["sent_id"], {"target": int(row["target"]), "box": box, "iou": float(row["iou"])}

    def has_truth(self, number: int) -> bool:
        """Return True: every expression has a box."""
        return True

    def score(self, number: int, answer: Any) -> float:
        """Return 1 where the overlap is above one half."""
        return float(answer["iou"] > RIGHT_ABOVE)


def _scores(output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> Tensor:
    """Return the score of each candidate, [I, R + 1]; a batch of narrower images may have fewer regions than rows."""
    assert output.vision_logit is not None
    scores = output.vision_logit[..., 0]
    return scores[:, : targets["overlap"].shape[1]]


def open_task(name: str, files: TaskFiles, split: str, like: Task | None) -> ReferTask:
    """Read the expressions of a split; given boxes are shown in training, not in the evaluations between."""
    return ReferTask(name, read_refer(files.folder, split), given_boxes="unused" if like else "candidates")
