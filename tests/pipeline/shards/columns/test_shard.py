"""Shards of columns: equal values are read together, and damage is reported for the sample that has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.columns.info import Member
from vilbert.pipeline.shards.columns.shard import ColumnShard, ColumnWriter, encode_value


def write(path: Path, contents: Sequence[bytes], member: Member) -> ColumnShard:
    """Write a shard with a member of each content and open it."""
    writer = ColumnWriter(path, name="it", member=member)
    for number, content in enumerate(contents):
        writer.add(f"k{number}", content)
    writer.finish()
    return ColumnShard(path, name="it", member=member)


def arrays(shapes: Sequence[tuple[int, ...]], dtype: str = "float16") -> list[np.ndarray[Any, Any]]:
    draw = np.random.default_rng(0)
    return [draw.random(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("shapes", [[(3, 2)] * 4, [(3, 2)], [(7,)] * 2, [(3, 2), (4, 2)], [(0, 2)] * 2, [(2,), (1, 2)]])
def test_arrays_are_those_that_were_written(tmp_path: Path, shapes: list[tuple[int, ...]]) -> None:
    written = arrays(shapes)
    with write(tmp_path / "000000.tar", [encode_value(array, "npy") for array in written], "npy") as shard:
        for number, array in enumerate(written):
            found = shard[f"k{number}"]
            np.testing.assert_array_equal(found, array, strict=True)
            assert not found.flags.writeable
        assert (shard.arrays is not None) == (len(set(shapes)) == 1)
        if shard.arrays is not None:
            np.testing.assert_array_equal(shard.arrays, np.stack(written), strict=True)


@pytest.mark.parametrize(("old", "new"), [(b"'<f2'", b"'<u2'"), (b"(3, 2)", b"(2, 3)")])
def test_a_header_that_differs_from_the_others_counts(tmp_path: Path, old: bytes, new: bytes) -> None:
    contents = [encode_value(array, "npy") for array in arrays([(3, 2)] * 3)]
    contents[2] = contents[2].replace(old, new)
    with write(tmp_path / "000000.tar", contents, "npy") as shard:
        assert shard.arrays is None
        assert (shard["k2"].dtype, shard["k2"].shape) != (shard["k1"].dtype, shard["k1"].shape)
        assert shard["k2"].tobytes() == contents[2][128:]


@pytest.mark.parametrize(("old", "new"), [(b"'<f2'", b"'|O8'"), (b"(3, 2)", b"(3, 3)"), (b"NUMPY", b"numpy")])
@pytest.mark.parametrize("damaged", [[2], [0, 1, 2]])
def test_damage_is_that_of_its_sample(tmp_path: Path, old: bytes, new: bytes, damaged: list[int]) -> None:
    contents = [encode_value(array, "npy") for array in arrays([(3, 2)] * 3)]
    for number in damaged:
        contents[number] = contents[number].replace(old, new)
    with write(tmp_path / "000000.tar", contents, "npy") as shard:
        for number in range(3):
            if number in damaged:
                with pytest.raises(CorruptShardError, match=f"key 'k{number}': its value"):
                    shard[f"k{number}"]
            else:
                assert shard[f"k{number}"].shape == (3, 2)


@pytest.mark.parametrize("values", [[1, 2.5, -3, 0.125, 10**17], [1, "a,b", [2, 3], {"c": None}, True], [0.1], [7, 8]])
def test_json_values_are_those_that_were_written(tmp_path: Path, values: list[Any]) -> None:
    with write(tmp_path / "000000.tar", [encode_value(value, "json") for value in values], "json") as shard:
        found = [shard[f"k{number}"] for number in range(len(values))]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@pytest.mark.parametrize("content", [b"1,2", b"", b"01", b"1.", b"NaN", b"1 2", b"3],[4"])
@pytest.mark.parametrize("beside", [[b"5", b"6"], [b""]])
def test_what_is_no_number_does_not_become_one(tmp_path: Path, content: bytes, beside: list[bytes]) -> None:
    with write(tmp_path / "000000.tar", [*beside, content], "json") as shard:
        for number, text in enumerate(beside):
            if text:
                assert shard[f"k{number}"] == int(text)
        with pytest.raises(CorruptShardError, match=f"key 'k{len(beside)}': its value"):
            shard[f"k{len(beside)}"]
