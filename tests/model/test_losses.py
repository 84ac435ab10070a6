"""The pre-training losses: against torch's own, against the published means and numbers, and over shards of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vilbert.model.losses import (
    LossSum,
    alignment_loss,
    apply_objective,
    masked_region_kl,
    masked_region_nce,
    masked_region_regression,
    masked_word_loss,
    nce_negatives,
)

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
Loss = Callable[[Tensor, Tensor], LossSum]
REGION_LOSSES: tuple[Loss, Loss] = (masked_region_kl, masked_region_regression)
WORD_LOSSES: tuple[Loss, Loss] = (masked_word_loss, alignment_loss)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def labels(*shape: int, seed: int = 0, share: float = 0.4) -> Tensor:
    """Return region labels, 1 (masked) at about the share, else -1."""
    masked = torch.rand(shape, generator=generator(seed)) < share
    return torch.where(masked, 1, -1)


def assert_near(value: Tensor, expected: Tensor, relative: float = 1e-6) -> None:
    torch.testing.assert_close(value.detach(), expected.detach(), rtol=relative, atol=0)


@pytest.mark.parametrize("loss", WORD_LOSSES)
def test_cross_entropies_are_torchs_mean_over_what_is_labelled(loss: Loss) -> None:
    scores, wanted = draw(7, 2), torch.tensor([0, -1, 1, 1, -1, 0, 0])
    result = loss(scores, wanted)
    assert int(result.count) == 5  # two are label 0: a label, unlike -1
    assert_near(result.mean, torch.nn.CrossEntropyLoss(ignore_index=-1)(scores, wanted))
    labelled = loss(scores[wanted >= 0], wanted[wanted >= 0])
    assert_near(labelled.sum, result.sum)
    assert torch.equal(labelled.count, result.count)


def test_class_0_of_the_alignment_is_a_match() -> None:
    sure_of_a_match = torch.tensor([[9.0, -9.0]])
    assert alignment_loss(sure_of_a_match, torch.tensor([0])).sum < 1e-6
    wrong = alignment_loss(sure_of_a_match, torch.tensor([1]))
    assert wrong.sum > 10
    assert torch.equal(wrong.mean, wrong.sum)  # one label: its mean is its sum


@pytest.mark.parametrize("padded_target", [False, True])
def test_kl_is_the_published_mean(padded_target: bool) -> None:
    scores, targets, image_label = draw(3, 5, 6), draw(3, 5, 6, seed=1).softmax(-1), labels(3, 5)
    if padded_target:  # zeros, as of classes that the shards did not keep
        targets = torch.where(targets < 0.1, 0.0, targets)
    elementwise = torch.nn.KLDivLoss(reduction="none")(F.log_softmax(scores, dim=2), targets)
    published = (elementwise * (image_label == 1).unsqueeze(2).float()).sum() / max((image_label == 1).sum(), 0)
    result = masked_region_kl(scores[image_label == 1], targets[image_label == 1])
    assert_near(result.mean, published)
    assert int(result.count) == int((image_label == 1).sum())


def test_regression_is_the_published_mean() -> None:
    scores, targets, image_label = draw(3, 5, 6), draw(3, 5, 6, seed=1), labels(3, 5)
    masked = (image_label == 1).unsqueeze(2)
    elementwise = torch.nn.MSELoss(reduction="none")(scores, targets)
    published = (elementwise * masked.float()).sum() / max(masked.expand_as(elementwise).sum(), 1)
    assert_near(masked_region_regression(scores[image_label == 1], targets[image_label == 1]).mean, published)


def test_nce_is_the_published_mean() -> None:
    predicted, targets, image_label = draw(3, 5, 6), draw(3, 5, 6, seed=1), labels(3, 5)
    negatives = nce_negatives(image_label, 20, generator())
    negative_features = targets.view(15, 6)[negatives]
    candidates = torch.cat((targets[image_label == 1].unsqueeze(1), negative_features), dim=1)
    scores = torch.bmm(candidates, predicted[image_label == 1].unsqueeze(2)).squeeze(2)
    published = torch.nn.CrossEntropyLoss()(scores, torch.zeros(len(scores), dtype=torch.int64))
    result = masked_region_nce(predicted[image_label == 1], targets, image_label, negatives)
    assert_near(result.mean, published)
    assert int(result.count) == int((image_label == 1).sum()) > 1


def test_nce_falls_as_the_prediction_nears_its_own_region() -> None:
    targets, image_label = torch.eye(8).view(2, 4, 8), labels(2, 4)
    negatives = nce_negatives(image_label, 20, generator())
    right = targets[image_label == 1] * 30
    assert masked_region_nce(right, targets, image_label, negatives).mean < 1e-6
    assert masked_region_nce(right.roll(1, 0), targets, image_label, negatives).mean > 1


@pytest.mark.parametrize("flavour", ["beta", "multitask"])
def test_golden_losses(flavour: str) -> None:
    folder = GOLDEN / f"pretraining_{flavour}"
    if not folder.is_dir():
        pytest.skip(f"no golden numbers at shared/golden/{folder.name}")
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "outputs.npz") as outputs:
        given_ = {name: torch.from_numpy(inputs[name]) for name in inputs.files}
        wanted = {name: torch.from_numpy(outputs[name]) for name in outputs.files if "grad:" not in name}
    words, regions = given_["masked_lm_labels"], given_["image_label"] == 1
    word_loss = masked_word_loss(wanted["prediction_scores_t"][words >= 0], words[words >= 0])
    assert_near(word_loss.mean[None], wanted["masked_lm_loss"])
    region_scores = wanted["prediction_scores_v"][:, 1:]  # without the global region
    region_loss = masked_region_kl(region_scores[regions], given_["image_target"][regions])
    assert_near(region_loss.mean[None], wanted["masked_img_loss"])
    pair_loss = alignment_loss(wanted["seq_relationship_score"], given_["next_sentence_label"])
    assert_near(pair_loss.mean[None], wanted["next_sentence_loss"])


def nothing_labelled(loss: Callable[..., LossSum], scores: Tensor) -> LossSum:
    """Return the loss of one score row with an ignored label, or of no region."""
    if loss is masked_region_nce:
        image_label = torch.full((2, 3), -1)
        negatives = nce_negatives(image_label, 10, generator())
        assert negatives.shape == (0, 10)
        return loss(scores[:0], draw(2, 3, 2), image_label, negatives)
    return loss(scores, torch.tensor([-1])) if loss in WORD_LOSSES else loss(scores[:0], draw(0, 2))


@pytest.mark.parametrize("loss", [*WORD_LOSSES, *REGION_LOSSES, masked_region_nce])
def test_nothing_labelled_is_zero_and_trains(loss: Callable[..., LossSum]) -> None:
    weight = draw(2, 2).requires_grad_()
    result = nothing_labelled(loss, draw(1, 2) @ weight)
    assert (result.sum.item(), result.count.item(), result.mean.item()) == (0, 0, 0)
    torch.autograd.backward(result.mean)
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.zeros(2, 2))


@pytest.mark.parametrize("loss", WORD_LOSSES)
def test_no_row_at_all_is_zero(loss: Loss) -> None:
    scores = draw(0, 2).requires_grad_()
    result = loss(scores, torch.zeros(0, dtype=torch.int64))
    torch.autograd.backward(result.mean)
    assert (result.sum.item(), result.count.item()) == (0, 0)


def every_loss(dtype: torch.dtype) -> list[Callable[[Tensor], LossSum]]:
    """Return the losses as functions of scores [6, 4]; soft targets and features in the dtype."""
    words = torch.tensor([0, 3, -1, 2, 1, 1])
    image_label = torch.tensor([[1, 1, -1, 1], [-1, 1, 1, 1]])
    features = (draw(2, 4, 4, seed=3) * 4).to(dtype)
    negatives = nce_negatives(image_label, 40, generator())
    return [
        lambda scores: masked_word_loss(scores, words),
        lambda scores: alignment_loss(scores[:, :2], words.clamp(max=1)),
        lambda scores: masked_region_kl(scores, draw(6, 4, seed=1).softmax(-1).to(dtype)),
        lambda scores: masked_region_regression(scores, draw(6, 4, seed=2).to(dtype)),
        lambda scores: masked_region_nce(scores, features, image_label, negatives),
    ]


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype, which: int) -> None:
    scores = draw(6, 4, seed=9).mul(4).to(dtype).requires_grad_()
    exact = every_loss(dtype)[which](scores.double())
    assert exact.sum.dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        inside = every_loss(dtype)[which](scores)
    for result in (every_loss(dtype)[which](scores), inside):
        assert result.sum.dtype == result.mean.dtype == torch.float32
        assert_near(result.sum.double(), exact.sum, relative=1e-5)
        torch.autograd.backward(result.mean)
    assert scores.grad is not None
    assert scores.grad.dtype == dtype


@pytest.mark.parametrize("which", range(5))
def test_gradients_are_those_of_finite_differences(which: int) -> None:
    scores = draw(6, 4, seed=9).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda scores: every_loss(torch.float64)[which](scores).mean, scores)


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5), seed=st.integers(0, 2**16))
def test_shards_of_labelled_rows_add_up(sizes: list[int], seed: int) -> None:
    rows = sum(sizes)
    scores, targets = draw(rows, 6, seed=seed), draw(rows, 6, seed=seed + 1).softmax(-1)
    words = torch.randint(-1, 2, (rows,), generator=generator(seed))
    for loss, wanted in (
        (masked_word_loss, words),
        (alignment_loss, words),
        *((each, targets) for each in REGION_LOSSES),
    ):
        taken = scores[:, :2] if loss is alignment_loss else scores
        shards = [loss(*shard) for shard in zip(torch.split(taken, sizes), torch.split(wanted, sizes), strict=True)]
        assert_adds_up(shards, loss(taken, wanted))


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 2**16))
def test_shards_of_nce_add_up(sizes: list[int], seed: int) -> None:
    rows, regions = sum(sizes), 3
    image_label, targets = labels(rows, regions, seed=seed), draw(rows, regions, 4, seed=seed)
    predicted = draw(rows, regions, 4, seed=seed + 1)
    shards, negatives, first = [], [], 0
    for labels_, targets_, predicted_ in zip(
        *(torch.split(part, sizes) for part in (image_label, targets, predicted)), strict=True
    ):
        drawn = nce_negatives(labels_, 9, generator(seed))
        shards.append(masked_region_nce(predicted_[labels_ == 1], targets_, labels_, drawn))
        negatives.append(drawn + first * regions)
        first += len(labels_)
    assert_adds_up(shards, masked_region_nce(predicted[image_label == 1], targets, image_label, torch.cat(negatives)))


def assert_adds_up(shards: list[LossSum], whole: LossSum) -> None:
    torch.testing.assert_close(sum(shard.sum for shard in shards), whole.sum, rtol=1e-5, atol=1e-5)
    assert sum(int(shard.count) for shard in shards) == int(whole.count)


def published_chances(own: int, size: int) -> list[float]:
    """Return the chance of each row (or column) that the reference's draw and its remapping give to its own number."""
    reached = Counter(size - 1 if own < size - 1 and drawn == own else drawn for drawn in range(size - 1))
    return [reached[number] / (size - 1) for number in range(size)]


@pytest.mark.parametrize(("images", "regions"), [(2, 2), (3, 5), (4, 3)])
def test_negatives_are_drawn_as_published(images: int, regions: int) -> None:
    image_label = torch.ones(images, regions, dtype=torch.int64)
    asked = 10_000
    negatives = nce_negatives(image_label, asked, generator(7))
    assert negatives.dtype == torch.int64
    assert negatives.shape == (images * regions, int(0.7 * asked) + int(0.3 * asked))
    for own, drawn in enumerate(negatives):
        across, within = drawn[: int(0.7 * asked)], drawn[int(0.7 * asked) :]
        image, region = divmod(own, regions)
        across_chances = [chance / regions for chance in published_chances(image, images) for _ in range(regions)]
        within_chances = [0.0] * (images * regions)
        within_chances[image * regions : (image + 1) * regions] = published_chances(region, regions)
        assert across_chances[own] == within_chances[own] == 0
        assert_drawn_with(across, across_chances)
        assert_drawn_with(within, within_chances)


def assert_drawn_with(drawn: Tensor, chances: list[float]) -> None:
    """Require that nothing impossible was drawn, and the rest within five standard deviations of chi-square."""
    tally, expected = drawn.bincount(minlength=len(chances)).double(), torch.tensor(chances).double() * len(drawn)
    possible = expected > 0
    assert tally[~possible].sum() == 0
    assert (tally[possible] > 0).all()
    freedom = int(possible.sum()) - 1
    chi_square = ((tally - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square <= freedom + 5 * (2 * freedom) ** 0.5


def test_negatives_come_in_the_order_of_the_masked_regions_and_independently() -> None:
    image_label = labels(4, 6)
    negatives = nce_negatives(image_label, 128, generator())
    own = (image_label.flatten() == 1).nonzero()
    assert negatives.shape == (len(own), 89 + 38)
    assert torch.equal((negatives // 6 == own // 6).sum(1), torch.full((len(own),), 38))
    assert len({tuple((row % 6).tolist()) for row in negatives}) == len(own)


def test_negatives_depend_on_their_generator_alone() -> None:
    image_label = labels(4, 6)
    first = nce_negatives(image_label, 128, generator(1))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(nce_negatives(image_label, 128, generator(1)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(nce_negatives(image_label, 128, generator(2)), first)


def test_a_lone_image_draws_all_negatives_within_itself() -> None:
    negatives = nce_negatives(torch.tensor([[1, -1, 1, -1]]), 4000, generator())
    assert negatives.shape == (2, 4000)
    assert_drawn_with(negatives[0], [0, 1 / 3, 1 / 3, 1 / 3])
    assert_drawn_with(negatives[1], [1 / 3, 1 / 3, 0, 1 / 3])


def test_images_of_one_region_draw_all_negatives_from_the_others() -> None:
    negatives = nce_negatives(torch.tensor([[1], [-1], [1]]), 4000, generator())
    assert negatives.shape == (2, 4000)
    assert_drawn_with(negatives[0], [0, 1 / 2, 1 / 2])
    assert_drawn_with(negatives[1], [1 / 2, 1 / 2, 0])


def test_a_lone_region_has_no_negative_and_teaches_nothing() -> None:
    weight, image_label = draw(3, 3).requires_grad_(), torch.tensor([[1]])
    negatives = nce_negatives(image_label, 128, generator())
    assert negatives.shape == (1, 0)
    found = masked_region_nce(draw(1, 3) @ weight, draw(1, 1, 3), image_label, negatives)
    assert (found.sum.item(), found.count.item()) == (0, 0)
    torch.autograd.backward(found.sum)
    assert torch.equal(weight.grad, torch.zeros(3, 3))  # type: ignore[arg-type]
    unmasked = nce_negatives(torch.tensor([[-1]]), 10, generator())
    assert masked_region_nce(draw(0, 3), draw(1, 1, 3), torch.tensor([[-1]]), unmasked).count == 0


def test_too_few_negatives_are_refused() -> None:
    with pytest.raises(ValueError, match="num_negative 1 "):
        nce_negatives(labels(2, 2, share=1), 1, generator())


def test_mismatched_shapes_are_refused_not_broadcast() -> None:
    for loss in REGION_LOSSES:
        with pytest.raises(ValueError, match=r"scores \[3, 4\] and targets \[1, 4\]"):
            loss(draw(3, 4), draw(1, 4))
    image_label = torch.tensor([[1, -1], [1, 1]])
    negatives = nce_negatives(image_label, 10, generator())
    for predicted, drawn in ((draw(4, 3), negatives), (draw(3, 3), negatives[:2])):
        with pytest.raises(ValueError, match="masks 3 regions"):
            masked_region_nce(predicted, draw(2, 2, 3), image_label, drawn)


WORDS = torch.tensor([[0, 7, -1], [0, 5, -1], [3, -1, 0]])
REGIONS = torch.tensor([[1, -1], [1, 1], [0, 1]])
PAIRS = torch.tensor([0, 1, 0])


def test_objective_0_keeps_every_label() -> None:
    for result, given_ in zip(apply_objective(0, WORDS, REGIONS, PAIRS), (WORDS, REGIONS, PAIRS), strict=True):
        assert torch.equal(result, given_)


def test_objective_1_drops_masked_labels_of_pairs_that_do_not_match() -> None:
    before = [each.clone() for each in (WORDS, REGIONS, PAIRS)]
    words, regions, pairs = apply_objective(1, WORDS, REGIONS, PAIRS)
    assert words.tolist() == [[0, 7, -1], [-1, -1, -1], [3, -1, 0]]
    assert regions.tolist() == [[1, -1], [-1, -1], [0, 1]]
    assert torch.equal(pairs, PAIRS)
    assert all(torch.equal(*both) for both in zip(before, (WORDS, REGIONS, PAIRS), strict=True))


@given(seed=st.integers(0, 2**16))
def test_objective_1_can_drop_label_zero_as_published(seed: int) -> None:
    words, regions = (torch.randint(-1, top, (4, 5), generator=generator(seed + top)) for top in (3, 2))
    pairs = torch.randint(0, 2, (4,), generator=generator(seed))
    published = [each * (pairs == 0).long().unsqueeze(1) for each in (words, regions)]
    for each in published:
        each[each == 0] = -1
    result = apply_objective(1, words, regions, pairs, drop_label_zero=True)
    assert all(torch.equal(*both) for both in zip(result, (*published, pairs), strict=True))


def test_objective_2_learns_no_alignment() -> None:
    words, regions, pairs = apply_objective(2, WORDS, REGIONS, PAIRS)
    assert torch.equal(words, WORDS)
    assert torch.equal(regions, REGIONS)
    scores = draw(3, 2).requires_grad_()
    loss = alignment_loss(scores, pairs).mean
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()


@pytest.mark.parametrize("objective", [3, -1])
def test_other_objectives_are_refused(objective: int) -> None:
    with pytest.raises(ValueError, match=f"objective {objective} is not one of 0"):
        apply_objective(objective, WORDS, REGIONS, PAIRS)
