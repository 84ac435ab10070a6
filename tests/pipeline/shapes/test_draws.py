import numpy as np

from vilbert.pipeline.shapes.draws import Draws, Stream


def test_a_draw_depends_on_seed_index_and_stream_and_on_nothing_else() -> None:
    def first(seed: int, index: int, stream: Stream) -> list[int]:
        return [draws.below(1000) for draws in [Draws(seed, index, stream)] for _ in range(8)]

    again = first(3, 7, Stream.CAPTIONS)
    keys = [(3, 7, Stream.CAPTIONS), (4, 7, Stream.CAPTIONS), (3, 8, Stream.CAPTIONS), (3, 7, Stream.QUESTIONS)]
    drawn = [first(*key) for key in keys]
    assert drawn[0] == again
    assert len({tuple(values) for values in drawn}) == len(keys)


def test_draws_are_those_of_the_raw_generator() -> None:
    """The golden bytes rest on Philox's words, high halves first, a block of 128 taken from its end."""
    words = np.random.Philox(key=[5, 6], counter=[0, 0, 0, 0]).random_raw(128)
    expected = [(int(word) >> 32) * 10 >> 32 for word in words[::-1]]
    draws = Draws(5, 6, Stream.OBJECTS)
    assert [draws.below(10) for _ in range(128)] == expected


def test_whole_numbers_are_uniform_and_in_bounds() -> None:
    draws = Draws(0, 0, Stream.OBJECTS)
    drawn = np.array([draws.between(-2, 4) for _ in range(7000)])
    counts = np.bincount(drawn + 2, minlength=7)
    assert len(counts) == 7
    assert ((counts - 1000) ** 2 / 1000).sum() < 22.5  # chi squared, 6 degrees of freedom, p = 0.001


def test_samples_are_without_replacement_and_shuffles_are_permutations() -> None:
    draws = Draws(0, 1, Stream.OBJECTS)
    orders = {tuple(draws.shuffled("abc")) for _ in range(200)}
    assert len(orders) == 6
    assert all(len(set(draws.sample(range(10), 4))) == 4 for _ in range(50))


def test_octets_are_as_many_as_asked() -> None:
    octets = Draws(0, 2, Stream.BACKGROUND).octets(10_001)
    assert octets.dtype == np.uint8
    assert octets.shape == (10_001,)
    assert 120 < octets.mean() < 135
