"""The softmax of short rows."""

from __future__ import annotations

import pytest
import torch

from vilbert.model.attention import VECTOR, softmax


@pytest.mark.parametrize("length", [1, 7, VECTOR - 1, VECTOR, VECTOR + 1])
def test_rows_of_any_length_sum_to_one_and_have_torchs_gradients(length: int) -> None:
    scores = torch.randn(3, 2, 5, length, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 2, 5, length, dtype=torch.float64)
    ours, theirs = softmax(scores), torch.softmax(scores, dim=-1)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(ours.sum(-1), torch.ones(3, 2, 5, dtype=torch.float64))
    gradients = [torch.autograd.grad(rows, scores, upstream)[0] for rows in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_a_row_that_is_masked_whole_falls_back_to_its_scores() -> None:
    scores = torch.randn(4, 9)
    torch.testing.assert_close(softmax(scores - 10000.0), torch.softmax(scores, dim=-1), atol=1e-3, rtol=0)
