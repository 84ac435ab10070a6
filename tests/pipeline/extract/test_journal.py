"""What a journal says after any death, and whom it leaves under suspicion; damage to it harms nobody."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.extract.journal import (
    Attempt,
    Journal,
    journal_folder,
    journal_path,
    journals,
    mark_stalled,
    parse_journal,
    read_journal,
)
from pipeline.extract.run import extract
from pipeline.extract.settings import ExtractSettings
from pipeline.extract.suspects import DEATHS, DEATHS_ALONE, MOST_BLAMED, judge, require_sound
from pipeline.extract.worker import Worker
from pipeline.shards.errors import ShardError

from .conftest import contents

ROWS = range(100, 200)


def attempts(path: Path) -> list[Attempt]:
    return parse_journal(read_journal(path), ROWS)


def test_rows_in_hand_when_an_attempt_dies(tmp_path: Path) -> None:
    path = journal_path(tmp_path, 7)
    journal = Journal(path)
    for row in (100, 101, 102, 103):
        journal.note("decode", [row])
    for row in (100, 101, 102):
        journal.note("decoded", [row])
    journal.note("detect", [100, 101])
    journal.note("detected", [100, 101])
    journal.note("detect", [102])
    (attempt,) = attempts(path)
    assert attempt == Attempt(decoding={103}, detecting={102}, came_through=True)
    assert journals(tmp_path) == {7: path}
    assert judge([attempt]).suspects == (102, 103)


def test_an_attempt_that_ends_in_order_blames_nobody_and_leaves_nothing(tmp_path: Path) -> None:
    path = journal_path(tmp_path, 7)
    with Journal(path) as journal:
        journal.note("decode", [100])
    assert not path.exists()
    Journal(path).note("decode", [100])
    with Journal(path, keep=True) as journal:
        journal.note("decode", [101])
    journal.note("decode", [102])  # by a thread that is still at it
    assert [attempt.ended for attempt in attempts(path)] == [False, True]
    assert judge(attempts(path)).suspects == (100,)


def test_a_journal_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with Journal(tmp_path / "file" / "000000.journal") as journal:
        journal.note("decode", [100])
    assert read_journal(tmp_path / "file" / "000000.journal") == b""


def test_a_torn_line_costs_that_line(tmp_path: Path) -> None:
    path = journal_path(tmp_path, 7)
    Journal(path).note("decode", [100])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        Journal(path).note("detect", [105])
        assert attempts(path)[-1] == Attempt(detecting={105})


@given(st.binary(max_size=400))
def test_no_bytes_make_a_journal_that_cannot_be_read(data: bytes) -> None:
    verdict = judge(parse_journal(data, ROWS))
    assert not verdict.quarantined


LINES = st.lists(
    st.tuples(
        st.sampled_from([b"00000000", b"11111111", b"--------"]),
        st.sampled_from([b"begin", b"decode", b"decoded", b"detect", b"detected", b"alone", b"passed", b"stalled"]),
        st.lists(st.integers(90, 210), max_size=3),
    ),
    max_size=40,
)


@given(LINES)
def test_whatever_lines_there_are_only_rows_of_the_shard_are_blamed(lines: list) -> None:
    data = b"\n".join(b" ".join([token, event, *(b"%d" % row for row in rows)]) for token, event, rows in lines)
    verdict = judge(parse_journal(data, ROWS))
    assert set(verdict.suspects) | set(verdict.quarantined) | verdict.singly <= set(ROWS)


def test_a_row_is_left_out_after_three_deaths_the_last_two_alone() -> None:
    company = Attempt(decoding={100, 101}, detecting={102})
    alone = Attempt(alone=101)
    assert judge([company]).suspects == (100, 101, 102)
    assert judge([company, alone]).suspects == (101, 100, 102)  # the most suspect first
    history = [company, *[alone] * DEATHS_ALONE]
    assert len(history) == DEATHS
    verdict = judge(history)
    assert verdict.quarantined == {101: "crash"}
    assert verdict.suspects == (100, 102)
    assert judge([company, alone, Attempt(alone=101, stalled=True)]).quarantined == {101: "hang"}


def test_where_every_row_ends_the_process_it_is_the_worker_that_is_broken(tmp_path: Path) -> None:
    company = Attempt(detecting=set(range(100, 110)))
    history = [company, *(Attempt(alone=row) for row in range(100, 100 + MOST_BLAMED) for _ in range(DEATHS_ALONE))]
    path = journal_path(tmp_path, 10)
    path.write_bytes(b"what it says")
    require_sound(judge(history[:-1]), path, shard=10)
    assert path.exists()
    with pytest.raises(ShardError, match=r"shard 10: each of 8 images ended the process .* the detector is broken"):
        require_sound(judge(history), path, shard=10)
    assert not path.exists()  # nobody is blamed
    for sound in (Attempt(passed={109}, came_through=True), Attempt(came_through=True, ended=True)):
        assert not judge([*history, sound]).broken


def test_what_came_out_of_the_detector_came_through() -> None:
    data = b"aaaaaaaa begin\naaaaaaaa detect 100 101\n"
    assert not parse_journal(data, ROWS)[0].came_through
    assert parse_journal(data + b"aaaaaaaa detected 100 101\n", ROWS)[0].came_through
    assert parse_journal(b"aaaaaaaa begin\naaaaaaaa alone 100\naaaaaaaa passed 100\n", ROWS)[0].came_through


def test_a_row_that_passes_is_free_of_suspicion() -> None:
    company = Attempt(decoding={100, 101})
    verdict = judge([company, Attempt(alone=101), Attempt(passed={101}, alone=100), Attempt(alone=101)])
    assert verdict.quarantined == {}
    assert set(verdict.suspects) == {100, 101}


def test_deaths_that_only_happen_in_company_are_met_by_going_slowly() -> None:
    company = Attempt(decoding={100}, detecting={102, 103})
    history = [company, Attempt(passed={100, 102, 103}, decoding={104}, detecting={102, 103})]
    assert judge(history).singly == {102, 103}
    assert not judge(history).slow
    history.append(Attempt(passed={104, 102, 103}, decoding={104, 105}))
    assert judge(history).slow
    history += [Attempt(decoding={104})] * DEATHS
    assert judge(history).quarantined == {104: "crash"}


def test_a_stall_is_of_the_last_attempt(tmp_path: Path) -> None:
    path = journal_path(tmp_path, 7)
    mark_stalled(path)
    assert not path.exists()
    Journal(path).note("decode", [100])
    Journal(path).note("decode", [100])
    mark_stalled(path)
    assert [attempt.stalled for attempt in attempts(path)] == [False, True]


def test_a_damaged_journal_changes_no_byte_of_a_shard(settings_for: Callable[..., ExtractSettings]) -> None:
    undisturbed, settings = settings_for("undisturbed"), settings_for("damaged")
    assert extract(undisturbed) == 0
    folder = journal_folder(settings.output, settings.manifest)
    assert extract(settings_for("damaged")) == 0
    folder.mkdir()
    for shard in range(3):
        (settings.output / f"shards/{shard:06d}.json").unlink()
    journal_path(folder, 0).write_bytes(b"\x00\xff garbage decode 3\n" * 50)
    journal_path(folder, 1).write_bytes(b"\n12345678 begin\n12345678 decode 6\n12345678 dec")
    journal_path(folder, 2).write_bytes(b"\n12345678 begin\n12345678 alone 12\n" * 9)  # one attempt, repeated
    assert extract(settings) == 0
    assert contents(settings.output) == contents(undisturbed.output)


def test_journals_of_another_data_set_blame_nobody_of_this_one(settings_for: Callable[..., ExtractSettings]) -> None:
    undisturbed, settings = settings_for("undisturbed"), settings_for("emptied")
    assert extract(undisturbed) == 0
    path = journal_path(journal_folder(settings.output, settings.manifest), 0)
    path.parent.mkdir(parents=True)  # all that `rm -r emptied/*` leaves
    path.write_bytes(b"".join(b"\n%08x begin\n%08x alone 1\n" % (number, number) for number in range(3)))
    assert extract(settings) == 0
    assert contents(settings.output) == contents(undisturbed.output)
    assert not path.parent.exists()


def test_two_data_sets_at_one_url_have_journals_of_their_own(tmp_path: Path) -> None:
    one, other = (journal_folder("s3://bucket/set", tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert one != other
    assert one == journal_folder("s3://bucket/set", tmp_path / "a.parquet")
    assert journal_folder("s3://bucket/other", tmp_path / "a.parquet") != one


def test_the_journal_that_the_driver_hands_over_takes_the_place_of_the_one_here(
    settings_for: Callable[..., ExtractSettings],
) -> None:
    """On another machine's disk there may be one of before a row was to be tried again."""
    settings = settings_for("features", limit=5)
    assert extract(settings) == 0
    path = journal_path(journal_folder(settings.output, settings.manifest), 0)
    path.parent.mkdir()
    lines = ["detect 1 2", "alone 1", "alone 1"]
    old = "".join(f"{number:08x} begin\n{number:08x} {line}\n" for number, line in enumerate(lines)).encode()
    worker = Worker(settings)
    worker.start()
    for history, failed in ((None, {"crash"}), (b"", set()), (old, {"crash"})):
        path.write_bytes(b"" if history else old)
        record, *_ = worker.extract_shard(0, (0, 5), history=history)
        assert set(record.failures) & {"crash"} == failed
    worker.stop()
