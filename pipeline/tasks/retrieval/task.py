"""Caption-based retrieval of images and texts (Flickr30k, COCO): trained as a choice of four.

As published, the correct pair is presented with three wrong ones: the image with the caption of another image, another
image with the caption, and the image with a caption of a similar image (one of the 100 nearest by mean feature,
`hard_negatives.py`). In evaluations during training, the fourth pair is random. `vilbert evaluate retrieval` scores
every caption against every image (`evaluate/retrieval.py`). Source: `retreival_dataset.py` of vilbert_beta.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.tasks.captioned_images import CaptionedImage, read_captioned_images
from vilbert.pipeline.tasks.captioning.task import Caption
from vilbert.pipeline.tasks.choice import ChoiceTask
from vilbert.pipeline.tasks.registry import TaskFiles
from vilbert.pipeline.tasks.retrieval.hard_negatives import NEIGHBOURS, HardNegatives, hard_negatives
from vilbert.pipeline.tasks.task import Rows, Task, text_of
from vilbert.pipeline.train.examples.draws import Stream, below, bits

if TYPE_CHECKING:
    from vilbert.pipeline.tasks.batch import ItemSource
    from vilbert.pipeline.train.engine.distributed import Group

OPTIONS = 4
RIGHT = 0
DRAWS = 5


class RetrievalTask(ChoiceTask):
    """Captions of one split; the answer is the index of the best of four pairs, 0 being the correct one."""

    head = "vil_logit"
    options = choices = OPTIONS

    def __init__(self, name: str, captioned: Sequence[CaptionedImage]) -> None:
        """Create the task from images with captions; at least two images are needed."""
        self.name = name
        self.captioned = captioned
        self.items: Sequence[Caption] = [
            Caption(image.image_id, text) for image in captioned for text in image.captions
        ]
        self._place = {image.image_id: at for at, image in enumerate(captioned)}
        self._drawable = list(range(len(captioned)))
        self._nearest: NDArray[np.int32] | None = None

    def draw_from(self, image_ids: Container[str]) -> None:
        """Draw wrong images and captions only from these images, which have features."""
        self._drawable = [at for at, image in enumerate(self.captioned) if image.image_id in image_ids]

    def learn_from(self, hard: HardNegatives) -> None:
        """Draw wrong captions from hard negatives; images without them get random ones."""
        at = np.array([self._place.get(image_id, -1) for image_id in hard.image_ids], dtype=np.int32)
        nearest = np.full((len(self.captioned), hard.nearest.shape[1]), -1, dtype=np.int32)
        nearest[at[at >= 0]] = at[hard.nearest[at >= 0]]
        self._nearest = nearest

    def images(self, item: Caption) -> tuple[str, ...]:
        """Return the image of a caption."""
        return (item.image_id,)

    def rows(self, number: int, key: np.uint64) -> Rows:
        """Return the correct pair and three wrong ones."""
        item = self.items[number]
        own = self._place[item.image_id]
        words = bits(np.array([key]), Stream.PARTNER, DRAWS).T  # [DRAWS, 1]
        near = self._near(own, words[4])
        texts = (
            item.text,
            self._caption(self._other(own, words[0]), words[1]),
            item.text,
            self._caption(near, words[3]),
        )
        elsewhere = self.captioned[self._other(own, words[2])].image_id
        return Rows(tuple((text,) for text in texts), (item.image_id, item.image_id, elsewhere, item.image_id))

    def _other(self, own: int, word: NDArray[np.uint64]) -> int:
        """Return a random image other than `own`."""
        drawn = int(below(word, max(len(self._drawable) - 1, 1))[0])
        return self._drawable[(bisect_left(self._drawable, own) + 1 + drawn) % len(self._drawable)]

    def _near(self, own: int, word: NDArray[np.uint64]) -> int:
        """Return one of the nearest images, or a random one if they are unknown."""
        if self._nearest is None:
            return self._other(own, word)
        known = self._nearest[own][self._nearest[own] >= 0]
        return int(known[below(word, len(known))[0]]) if len(known) else self._other(own, word)

    def _caption(self, image: int, word: NDArray[np.uint64]) -> str:
        captions = self.captioned[image].captions
        return captions[int(below(word, len(captions))[0])]

    def label(self, number: int) -> int:
        """Return 0: the first pair is the correct one."""
        return RIGHT

    def results(self, answers: Mapping[int, Any]) -> bytes:
        """Return JSON: image_id, caption, and the index of the chosen pair."""
        return encode_json([{**self.items[number]._asdict(), "chosen": answers[number]} for number in sorted(answers)])

    def without_images(self, image_ids: Container[str]) -> RetrievalTask:
        """Return the task without these images, which could otherwise appear in items of other images."""
        return RetrievalTask(self.name, [one for one in self.captioned if one.image_id not in image_ids])

    def prepare_training(self, source: ItemSource, output: Path, group: Group) -> None:
        """Compute the hard negatives once per run; they are stored in its folder."""
        wanted = {image.image_id for image in self.captioned}
        others = len(wanted & source.images.number.keys()) - 1
        corpus, count = source.images.corpus, min(NEIGHBOURS, others)
        if group.first:
            hard_negatives(corpus, output, only=wanted, k=count)
        group.wait()
        self.learn_from(hard_negatives(corpus, output, only=wanted, k=count))

    def item_key(self, item: Caption) -> Hashable:
        """Return the image and the caption."""
        return item.image_id, item.text

    def read_row(self, row: Any) -> tuple[Hashable, list[str]]:
        """Return the key, and the ranked images, best first."""
        return (row["image_id"], row["caption"]), [text_of(image) for image in row["ranked"]]

    def score(self, number: int, answer: Any) -> float:
        """Return 1 if the caption's own image is ranked first, else 0."""
        return float(bool(answer) and answer[0] == self.items[number].image_id)


def open_task(name: str, files: TaskFiles, split: str, like: Task | None) -> RetrievalTask:
    """Read the captions of a split."""
    return RetrievalTask(name, read_captioned_images(files.folder, split))
