"""Generate captions of images token by token with a model that attends to previous tokens only.

The model is fine-tuned on [CLS] w1 ... wn with a causal mask; the language modelling head predicts the next token at
each position: w1 ... wn [SEP]. Regions attend only to the part of the text that every token sees, [CLS], so no
information flows between tokens through the regions, and the regions' states do not depend on the tokens generated so
far.

Each step processes all tokens so far without a key-value cache, because captions are short. The image layers before the
co-attention are computed once, and the last layer of each stream only for the newest token.

Shapes: C images, R regions with the global one at 0, D features, N unfinished captions, L tokens so far, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from vilbert.model.encoder import Kept
from vilbert.model.meeting import image_alone, text_alone
from vilbert.model.packing import Packing
from vilbert.model.pairs import Streams
from vilbert.model.tasks import ViLBertForTasks
from vilbert.model.vilbert import ViLBertModel
from vilbert.pipeline.errors import NonFiniteError
from vilbert.pipeline.tasks.captioning.generation_settings import GenerationSettings

NEVER = float("-inf")


class Candidate(NamedTuple):
    """A caption."""

    ids: tuple[int, ...]
    """Token ids, without [CLS] and [SEP]."""
    log_prob: float
    """Log-probability of the tokens and the final [SEP], not renormalised for tokens that settings exclude."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Seen:
    """Encoded images and the special tokens of captions."""

    bert: ViLBertModel
    word_head: nn.Module
    regions: Tensor
    """[C, R, width], image states that do not depend on the text."""
    region_mask: Tensor
    """[C, R], 1 for regions, 0 for padding."""
    cls_id: int
    """Id of [CLS], which starts a caption."""
    sep_id: int
    """Id of [SEP], which ends a caption."""
    never: Tensor
    """int64, ids of tokens that are never generated."""
    task_token: int | None
    """Row of the task embedding, if the model has one."""


Choose = Callable[[Tensor, Sequence[int], int], Tensor]
"""Maps log-probabilities [N, V], the indices of their images and the current length to tokens, int64 [N]."""


def next_word_scores(seen: Seen, image_of: Tensor, words: Tensor) -> Tensor:
    """Return log-probabilities of the next token.

    Args:
        seen: Encoded images.
        image_of: int64 [N], index of each caption's image.
        words: int64 [N, L], tokens without [CLS]; L may be 0.

    Returns:
        float32 [N, V].

    Raises:
        NonFiniteError: The model's scores are not finite.
    """
    bert = seen.bert
    rows = len(words)
    ids = torch.cat([words.new_full((rows, 1), seen.cls_id), words], dim=1)
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.long, device=ids.device).tril().expand(rows, -1, -1)
    task = None if seen.task_token is None else ids.new_full((rows, 1), seen.task_token)
    text, mask = text_alone(bert, ids, attention_mask=causal, task_ids=task)
    streams = Streams(text=text, image=seen.regions[image_of], text_mask=mask, image_mask=seen.region_mask[image_of])
    newest = 0 if length == 1 else text.shape[1] - 1  # the task token follows [CLS], and nothing is predicted there
    kept = Kept(text=_one_position(text, newest), image=_one_position(streams.image, 0))
    last = bert.encoder.together(streams, eager=bert.config._attn_implementation == "eager", kept=kept)
    scores = torch.log_softmax(seen.word_head(last.text).float(), dim=-1)
    if not torch.isfinite(scores).all():
        raise NonFiniteError("the model's word scores are not finite; use an earlier checkpoint, or fp32")
    return scores


def _one_position(states: Tensor, position: int) -> Packing:
    rows, length = states.shape[:2]
    places = torch.arange(rows, device=states.device) * length + position
    return Packing(places=places, batch=rows, length=length)


def _allowed(seen: Seen, scores: Tensor, captions: Sequence[tuple[int, ...]], settings: GenerationSettings) -> Tensor:
    """Return the scores [N, V] with `NEVER` at tokens that are not allowed next."""
    if len(captions[0]) == settings.max_tokens:
        only_the_end = torch.full_like(scores, NEVER)
        only_the_end[:, seen.sep_id] = scores[:, seen.sep_id]
        return only_the_end
    scores = scores.index_fill(1, seen.never, NEVER)
    if settings.no_repeat:
        for row, words in enumerate(captions):
            repeated = would_repeat(words, settings.no_repeat)
            scores[row, torch.tensor(sorted(repeated), dtype=torch.long, device=scores.device)] = NEVER
    return scores


def would_repeat(words: Sequence[int], size: int) -> set[int]:
    """Return the tokens that would complete an n-gram of `size` tokens that already occurs in `words`."""
    start = tuple(words[len(words) - size + 1 :])
    if len(start) < size - 1:
        return set()
    return {words[end] for end in range(size - 1, len(words)) if tuple(words[end - size + 1 : end]) == start}


def _scores(
    seen: Seen, images: Sequence[int], captions: Sequence[tuple[int, ...]], settings: GenerationSettings
) -> Tensor:
    """Return the log-probabilities [N, V] of allowed next tokens, for captions of equal length."""
    device = seen.regions.device
    words = torch.tensor(captions, dtype=torch.long, device=device).reshape(len(captions), -1)
    scores = next_word_scores(seen, torch.tensor(images, device=device), words)
    return _allowed(seen, scores, captions, settings)


def _one_word_at_a_time(seen: Seen, settings: GenerationSettings, choose: Choose) -> list[Candidate]:
    """Generate one caption per image with tokens selected by `choose`; finished captions are not processed further."""
    written = [Candidate((), 0.0)] * len(seen.regions)
    going = list(range(len(written)))
    for length in range(settings.max_tokens + 1):
        if not going:
            break
        scores = _scores(seen, going, [written[image].ids for image in going], settings)
        words = choose(scores, going, length)
        gains = scores.gather(1, words[:, None])[:, 0]
        still = []
        for image, word, gain in zip(going, words.tolist(), gains.tolist(), strict=True):
            ids, log_prob = written[image]
            ended = word == seen.sep_id
            written[image] = Candidate(ids if ended else (*ids, word), log_prob + gain)
            still += [] if ended else [image]
        going = still
    return written


def draw_from_nucleus(scores: Tensor, numbers: Tensor, *, top_p: float, temperature: float) -> Tensor:
    """Sample a token from the smallest set of most probable tokens with a total probability of at least `top_p`.

    Args:
        scores: Log-probabilities [N, V], -inf for excluded tokens.
        numbers: float64 [N] in [0, 1), the random numbers.
        top_p: Probability mass of the nucleus.
        temperature: Sampling temperature.

    Returns:
        Token ids, int64 [N]. Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
    """
    chances = torch.softmax(scores.double() / temperature, dim=-1)
    probabilities, words = torch.sort(chances, stable=True, dim=-1, descending=True)
    up_to = probabilities.cumsum(-1)
    inside = up_to - probabilities < top_p
    inside[:, 0] = True  # regardless of rounding
    mass = probabilities * inside
    ends = mass.cumsum(-1)
    place = torch.searchsorted(ends, (numbers * ends[:, -1])[:, None], right=True)
    last = inside.sum(-1, keepdim=True) - 1  # for a number just below 1 that is rounded up
    drawn: Tensor = words.gather(1, torch.minimum(place, last))[:, 0]
    return drawn


def _numbers(seed: int, key: str, count: int) -> Tensor:
    """Return random numbers of an image, float64 [count] in [0, 1), independent of other images."""
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _compared(log_prob: float, words: int, length_penalty: float) -> float:
    return log_prob / float((words + 1) ** length_penalty)


def _best_of_beam(finished: Sequence[Candidate], length_penalty: float) -> Candidate:
    return max(finished, key=lambda it: _compared(it.log_prob, len(it.ids), length_penalty))


def _is_decided(finished: Sequence[Candidate], live: Sequence[Candidate], settings: GenerationSettings) -> bool:
    """Return whether an image has enough finished captions, or no unfinished one can exceed the best."""
    if not live or len(finished) >= settings.beams:
        return True
    if not finished:
        return False
    best, penalty = _best_of_beam(finished, settings.length_penalty), settings.length_penalty
    most = _compared(live[0].log_prob, settings.max_tokens, penalty)  # log-probabilities only decrease
    return _compared(best.log_prob, len(best.ids), penalty) >= most


def _beam(seen: Seen, settings: GenerationSettings) -> list[Candidate]:
    """Beam search: keep the `beams` most probable unfinished captions per image, and finished ones of equal rank."""
    live = [[Candidate((), 0.0)] for _ in seen.regions]
    finished: list[list[Candidate]] = [[] for _ in live]
    beams = settings.beams
    while rows := [(image, it) for image, kept in enumerate(live) for it in kept]:
        scores = _scores(seen, [image for image, _ in rows], [it.ids for _, it in rows], settings)
        # One ending and `beams` continuations suffice: no more continuations of one caption can be kept.
        gains, words = scores.topk(min(beams + 1, scores.shape[1]), dim=1)
        longer: list[list[tuple[float, int, tuple[int, ...]]]] = [[] for _ in live]
        for (image, it), row_gains, row_words in zip(rows, gains.tolist(), words.tolist(), strict=True):
            longer[image] += [
                (it.log_prob + gain, word, it.ids)
                for gain, word in zip(row_gains, row_words, strict=True)
                if gain != NEVER
            ]
        for image, found in enumerate(longer):
            found.sort(key=lambda it: -it[0])
            ends = [Candidate(ids, total) for total, word, ids in found[:beams] if word == seen.sep_id]
            finished[image] += ends
            live[image] = [Candidate((*ids, word), total) for total, word, ids in found if word != seen.sep_id][:beams]
            if _is_decided(finished[image], live[image], settings):
                live[image] = []
    return [_best_of_beam(of_image, settings.length_penalty) for of_image in finished]


@torch.no_grad()
def generate(
    model: ViLBertForTasks,
    images: Mapping[str, Tensor],
    *,
    cls_id: int,
    sep_id: int,
    pad_id: int,
    settings: GenerationSettings,
    never: Collection[int] = (),
    keys: Sequence[str] = (),
    task_token: int | None = None,
) -> list[Candidate]:
    """Generate a caption for each image in evaluation mode.

    Every caption ends with [SEP], which is forced after `max_tokens`.

    Args:
        model: The fine-tuned model.
        images: image_feat float32 [C, R, D] with the global region first, image_loc [C, R, 5] and image_attention_mask
            [C, R], on the model's device.
        cls_id: Id of [CLS].
        sep_id: Id of [SEP].
        pad_id: Id of the padding token.
        settings: Decoding method and its parameters.
        never: Ids of tokens that are never generated besides [CLS] and padding, such as [MASK]; [SEP] still ends a
            caption.
        keys: Names of the images. Nucleus sampling derives its random numbers from them, so the caption of an image
            does not depend on its batch, up to rounding.
        task_token: Row of the task embedding, if the model has task tokens.

    Returns:
        One caption per image.

    Raises:
        ValueError: Captions may be longer than the model's texts, or keys are missing.
        NonFiniteError: The model's scores are not finite.
    """
    bert, features = cast(ViLBertModel, model.bert), images["image_feat"]
    if settings.max_tokens + 1 > bert.longest_text:
        raise ValueError(f"--max-tokens {settings.max_tokens}: the maximum for this model is {bert.longest_text - 1}")
    if settings.method == "nucleus" and len(keys) != len(features):
        raise ValueError(f"{len(keys)} keys for {len(features)} images: nucleus sampling needs one key per image")
    was_training = model.training
    model.train(False)
    try:
        seen = Seen(
            bert=bert,
            word_head=model.cls.predictions,
            regions=image_alone(bert, features, images["image_loc"], images["image_attention_mask"]),
            region_mask=images["image_attention_mask"],
            cls_id=cls_id,
            sep_id=sep_id,
            never=torch.tensor(sorted({cls_id, pad_id, *never} - {sep_id}), device=features.device),
            task_token=task_token,
        )
        if settings.method == "beam":
            return _beam(seen, settings)
        if settings.method == "greedy":
            return _one_word_at_a_time(seen, settings, lambda scores, _images, _length: scores.argmax(-1))
        numbers = [_numbers(settings.seed, key, settings.max_tokens + 1) for key in keys]

        def drawn(scores: Tensor, going: Sequence[int], length: int) -> Tensor:
            decides = torch.stack([numbers[image][length] for image in going]).to(scores.device)
            return draw_from_nucleus(scores, decides, top_p=settings.top_p, temperature=settings.temperature)

        return _one_word_at_a_time(seen, settings, drawn)
    finally:
        model.train(was_training)
