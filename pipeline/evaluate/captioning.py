"""`vilbert evaluate captioning`: generate a caption for each image and compare it with the reference captions."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import cast

from transformers import PreTrainedTokenizerBase

from vilbert.pipeline.evaluate.evaluation import Answered, Trained, item_batches
from vilbert.pipeline.evaluate.settings import DescribeEvaluateSettings
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.tasks.captioned_images import CaptionedImage
from vilbert.pipeline.tasks.captioning.generation import generate
from vilbert.pipeline.tasks.captioning.metrics import caption_scores, coco_results, require_pycocoevalcap
from vilbert.pipeline.tasks.captioning.task import CaptioningTask
from vilbert.pipeline.tasks.objective import to_inputs
from vilbert.pipeline.tasks.task import Task

IMAGE_INPUTS = ("image_feat", "image_loc", "image_attention_mask")


def answer(settings: DescribeEvaluateSettings, trained: Trained, task: Task) -> Answered:
    """Generate a caption for each image with features; return BLEU, ROUGE-L, CIDEr and the COCO results file."""
    require_pycocoevalcap()  # before captions are generated, which can take hours
    captioned = cast(CaptioningTask, task).captioned[: settings.images]
    # One item per image: its caption is not used, because only the regions are read.
    once = CaptioningTask(
        task.name, [CaptionedImage(image_id=it.image_id, captions=it.captions[:1]) for it in captioned]
    )
    tokenizer = trained.tokenizer
    words = min(settings.generation.max_tokens, trained.card.max_words - 2)
    written: dict[str, str] = {}
    with closing(item_batches(settings, trained, once)) as made:
        for part in (part for parts in made for part in parts):
            keys = [once.items[number].image_id if number >= 0 else "" for number in part.numbers]
            inputs = to_inputs(part, trained.device, causal=True)
            found = generate(
                trained.model,
                {name: inputs[name] for name in IMAGE_INPUTS},
                cls_id=tokenizer.cls_token_id,
                sep_id=tokenizer.sep_token_id,
                pad_id=tokenizer.pad_token_id,
                never=tokenizer.all_special_ids,
                settings=replace(settings.generation, max_tokens=words),
                keys=keys,
                task_token=trained.task_token,
            )
            for key, candidate in zip(keys, found, strict=True):
                if key:
                    written[key] = spell(tokenizer, candidate.ids)
    truths = {image.image_id: image.captions for image in captioned if image.image_id in written}
    left_out = len(captioned) - len(written)
    return Answered(caption_scores(truths, written), encode_json(coco_results(written)), left_out)


def spell(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    """Decode token ids to a sentence."""
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=True))
