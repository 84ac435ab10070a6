from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.extract.batches import group_by_shape

shapes = st.lists(st.integers(0, 5), max_size=80)


@given(shapes, st.integers(1, 7), st.integers(1, 20))
def test_every_item_is_in_one_batch_of_its_shape(shape_of_item: list[int], batch_size: int, max_lag: int) -> None:
    items = list(enumerate(shape_of_item))
    batches = list(group_by_shape(items, lambda item: item[1], batch_size, max_lag))
    assert sorted(item for batch in batches for item in batch) == items
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len({shape for _, shape in batch}) == 1
        assert batch == sorted(batch)


@given(shapes, st.integers(1, 7), st.integers(1, 20))
def test_no_item_waits_for_more_than_max_lag_others(shape_of_item: list[int], batch_size: int, max_lag: int) -> None:
    taken = 0

    def stream():
        nonlocal taken
        for item in enumerate(shape_of_item):
            taken += 1
            yield item

    for batch in group_by_shape(stream(), lambda item: item[1], batch_size, max_lag):
        # One group can be due at the very item that fills another, and then leaves one item later.
        assert taken < len(shape_of_item) + 1
        if taken < len(shape_of_item):
            assert taken - 1 - batch[0][0] <= max_lag + 1


def test_full_groups_leave_at_once() -> None:
    batches = group_by_shape("aabbab", lambda letter: letter, 2, 100)
    assert [("".join(batch)) for batch in batches] == ["aa", "bb", "ab"[:1], "b"]
