"""What a journal says after any death, and whom it leaves under suspicion; damage to it harms nobody."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import ShardError, StoppedError
from vilbert.pipeline.extract.run import extract
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.extract.worker import Worker
from vilbert.pipeline.jobs.journal import Attempt, Journal, parse_journal
from vilbert.pipeline.jobs.journals import Journals
from vilbert.pipeline.jobs.suspects import DEATHS, DEATHS_ALONE, MOST_BLAMED, Verdict, judge, require_sound
from vilbert.pipeline.shards.location.folder import LocalFolder, open_folder
from vilbert.pipeline.shards.location.remote_folder import RemoteFolder

from ..extract.conftest import contents

ROWS = range(100, 200)
SHARD = 7


@pytest.fixture
def journals(tmp_path: Path) -> Journals:
    """Those of a data set on a disk."""
    return Journals(LocalFolder(tmp_path))


@pytest.fixture
def remote() -> Iterator[Journals]:
    """Those of a data set behind a URL."""
    yield Journals(open_folder("memory://journals/set"))
    fsspec.filesystem("memory").store.clear()


def begin(journals: Journals, shard: int = SHARD) -> Journal:
    """Begin an attempt as a worker does."""
    history = journals.read(shard)
    died = history is None or not all(attempt.ended for attempt in parse_journal(history, ROWS))
    return Journal(journals.open(shard, careful=died), keep=died)


def attempts(journals: Journals) -> list[Attempt]:
    history = journals.read(SHARD)
    assert history is not None
    return parse_journal(history, ROWS)


def test_rows_in_hand_when_an_attempt_dies(journals: Journals) -> None:
    journal = begin(journals)
    for row in (100, 101, 102, 103):
        journal.note("decode", [row])
    for row in (100, 101, 102):
        journal.note("decoded", [row])
    journal.note("detect", [100, 101])
    journal.note("detected", [100, 101])
    journal.note("detect", [102])
    (attempt,) = attempts(journals)
    assert attempt == Attempt(decoding={103}, detecting={102}, came_through=True)
    assert journals.shards() == {SHARD}
    assert judge([attempt]).suspects == (102, 103)


@pytest.mark.parametrize("where", ["journals", "remote"])
def test_an_attempt_that_ends_in_order_blames_nobody_and_leaves_nothing(
    where: str, request: pytest.FixtureRequest
) -> None:
    journals: Journals = request.getfixturevalue(where)
    with begin(journals) as journal:
        journal.note("decode", [100])
        assert journals.shards() == {SHARD}
    assert journals.shards() == set()
    begin(journals).note("decode", [99])
    begin(journals).note("decode", [100])
    with begin(journals) as journal:
        journal.note("decode", [101])
    journal.note("decode", [102])  # by a thread that is still at it
    assert [attempt.ended for attempt in attempts(journals)] == [False, False, True]
    assert judge(attempts(journals)).suspects == (100,)
    journals.remove_all()
    assert journals.shards() == set()


def test_a_journal_that_cannot_be_written_costs_nothing(journals: Journals, tmp_path: Path) -> None:
    (tmp_path / ".journals").write_text("in the way")
    with begin(journals) as journal:
        journal.note("decode", [100])
    journals.mark_stalled(SHARD)
    journals.remove_all()
    assert not journals.read(SHARD)
    assert journals.shards() == set()


def test_a_torn_line_costs_that_line(journals: Journals, tmp_path: Path) -> None:
    begin(journals).note("decode", [100])
    path = tmp_path / ".journals" / "000007.journal"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        begin(journals).note("detect", [105])
        assert attempts(journals)[-1] == Attempt(detecting={105})


def test_behind_a_url_the_second_attempt_says_what_it_has_in_hand_before_it_touches_it(remote: Journals) -> None:
    first = begin(remote)
    first.note("decode", [100, 101])
    assert attempts(remote) == [Attempt()]  # what a line costs there is spent when there is reason to
    second = begin(remote)
    second.note("decode", [102])
    assert attempts(remote) == [Attempt(), Attempt(decoding={102})]
    second.note("decoded", [102])
    second.note("detect", [102, 103])
    assert attempts(remote)[1] == Attempt(detecting={102, 103})
    third = begin(remote)
    third.note("alone", [103])
    remote.mark_stalled(SHARD)
    assert attempts(remote)[1:] == [Attempt(detecting={102, 103}), Attempt(alone=103, stalled=True)]


def test_behind_a_url_nothing_is_in_hand_while_a_shard_is_uploaded(
    remote: Journals, settings_for: Callable[..., ExtractSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(settings_for("unused", output="memory://journals/set", limit=5))
    worker.start()
    for _ in range(2):
        begin(remote, 0).note("decode", [2])
    found: list[Verdict] = []
    publish = RemoteFolder.publish

    def look(folder: RemoteFolder, built: Path, names: Sequence[str]) -> None:
        found.append(judge(parse_journal(remote.read(0) or b"", range(5))))
        publish(folder, built, names)

    monkeypatch.setattr(RemoteFolder, "publish", look)
    worker.make_shard(0, (0, 5))
    worker.stop()
    (verdict,) = found
    assert verdict.suspects == ()
    assert not verdict.singly
    assert remote.shards() == set()


@pytest.mark.parametrize("where", ["journals", "remote"])
def test_where_a_journal_cannot_be_read_for_a_while_what_is_known_of_deaths_stays(
    where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    journals: Journals = request.getfixturevalue(where)
    begin(journals)
    begin(journals).note("alone", [100])
    with monkeypatch.context() as patch:
        for kind in (LocalFolder, RemoteFolder):
            patch.setattr(kind, "read", lambda *_: 1 / 0)
        assert journals.read(SHARD) is None
        begin(journals).end()
    for _ in range(2):
        begin(journals).note("alone", [100])
    assert judge(attempts(journals)).quarantined == {100: "crash"}


def test_behind_a_url_an_attempt_that_is_given_up_while_its_process_lives_tells_all_it_knows(remote: Journals) -> None:
    journal = begin(remote)
    journal.note("detect", [100, 101])
    journal.leave()
    assert attempts(remote) == [Attempt(detecting={100, 101})]
    assert judge(attempts(remote)).suspects == (100, 101)


def test_behind_a_url_threads_that_wait_share_an_upload(remote: Journals, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(remote)
    journal = begin(remote)
    write, uploads, may_end = RemoteFolder.write, [], threading.Event()

    def slowly(folder: RemoteFolder, name: str, data: bytes) -> None:
        uploads.append(data)
        assert may_end.wait(60)
        write(folder, name, data)

    monkeypatch.setattr(RemoteFolder, "write", slowly)
    begun = threading.Barrier(21)

    def note(row: int) -> bool:
        begun.wait(60)
        journal.note("decode", [row])
        return row in attempts(remote)[1].decoding

    with ThreadPoolExecutor(20) as threads:
        noted = [threads.submit(note, row) for row in range(100, 120)]
        begun.wait(60)
        time.sleep(0.2)  # those that come later make an upload more
        may_end.set()
        assert all(future.result(60) for future in noted)
    assert 0 < len(uploads) < 10


def test_behind_a_url_that_is_away_no_line_but_the_first_is_waited_for(
    remote: Journals, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(remote)
    journal = begin(remote)
    asked = []

    def away(folder: RemoteFolder, name: str, data: bytes) -> None:
        asked.append(name)
        time.sleep(0.2)
        raise ShardError("uploading failed 6 times")

    monkeypatch.setattr(RemoteFolder, "write", away)
    with ThreadPoolExecutor(10) as threads:
        list(threads.map(lambda row: journal.note("decode", [row]), range(100, 120)))
    assert len(asked) == 1
    journal.end()
    assert len(asked) == 2


@pytest.mark.parametrize("where", ["journals", "remote"])
def test_a_line_is_safe_before_the_rows_are_touched_once_an_attempt_died(
    where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    journals: Journals = request.getfixturevalue(where)
    safe: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: safe.append("on the disk"))
    monkeypatch.setattr(RemoteFolder, "write", noting(RemoteFolder.write, safe))
    for _ in range(2):
        safe.clear()
        journal = begin(journals)
        assert len(safe) == 1
        journal.note("decode", [100])
        journal.note("decoded", [100])
    assert len(safe) == 2
    journal.flush()
    assert len(safe) == 3


def noting(call: Callable[..., None], notes: list[str]) -> Callable[..., None]:
    def noted(*arguments: Any) -> None:
        notes.append("in the store")
        call(*arguments)

    return noted


@pytest.mark.parametrize("place", ["features", "memory://journals/set"])
def test_a_worker_that_is_told_to_stop_blames_nobody(
    place: str, settings_for: Callable[..., ExtractSettings], remote: Journals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an attempt before it died, so that its journal stays."""
    settings = settings_for("features") if place == "features" else settings_for("unused", output=place)
    journals = Journals(open_folder(settings.output))
    begin(journals, 0)
    worker = Worker(settings)
    worker.start()
    met, may_go_on = threading.Event(), threading.Event()

    def wait(*_: object, **__: object) -> None:
        met.set()
        may_go_on.wait(60)
        raise StoppedError

    monkeypatch.setattr("vilbert.pipeline.extract.worker.prepare", wait)
    with ThreadPoolExecutor(1) as threads:
        extracted = threads.submit(worker.make_shard, 0, (0, 5))
        assert met.wait(60)
        worker.stop()
        history = journals.read(0)
        may_go_on.set()
        assert isinstance(extracted.exception(60), StoppedError)
    assert history is not None
    died, stopped = parse_journal(history, range(5))
    assert (died.ended, stopped.ended, bool(stopped.decoding)) == (False, True, True)
    assert not judge([died, stopped]).suspects


@given(st.binary(max_size=400))
def test_no_bytes_make_a_journal_that_cannot_be_read(data: bytes) -> None:
    verdict = judge(parse_journal(data, ROWS))
    assert not verdict.quarantined


LINES = st.lists(
    st.tuples(
        st.sampled_from([b"00000000", b"11111111", b"--------"]),
        st.sampled_from(
            [b"begin", b"decode", b"decoded", b"detect", b"detected", b"alone", b"passed", b"stalled", b"ended"]
        ),
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


def test_where_every_row_ends_the_process_it_is_the_worker_that_is_broken(journals: Journals) -> None:
    company = Attempt(detecting=set(range(100, 110)))
    history = [company, *(Attempt(alone=row) for row in range(100, 100 + MOST_BLAMED) for _ in range(DEATHS_ALONE))]
    begin(journals)
    require_sound(judge(history[:-1]), journals, shard=SHARD)
    assert journals.shards() == {SHARD}
    with pytest.raises(ShardError, match=r"shard 7: each of 8 images ended the process .* the detector is broken"):
        require_sound(judge(history), journals, shard=SHARD)
    assert journals.shards() == set()  # nobody is blamed
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


def test_a_stall_is_of_the_last_attempt(journals: Journals) -> None:
    journals.mark_stalled(SHARD)
    assert journals.shards() == set()
    begin(journals).note("decode", [100])
    begin(journals).note("decode", [100])
    journals.mark_stalled(SHARD)
    assert [attempt.stalled for attempt in attempts(journals)] == [False, True]


def write_journal(settings: ExtractSettings, shard: int, data: bytes) -> Path:
    """Put a journal into the data set's folder; return that of its journals."""
    folder = settings.output / ".journals"
    folder.mkdir(exist_ok=True)
    (folder / f"{shard:06d}.journal").write_bytes(data)
    return folder


def test_a_damaged_journal_changes_no_byte_of_a_shard(settings_for: Callable[..., ExtractSettings]) -> None:
    undisturbed, settings = settings_for("undisturbed"), settings_for("damaged")
    assert extract(undisturbed) == 0
    assert extract(settings_for("damaged")) == 0
    for shard in range(3):
        (settings.output / f"shards/{shard:06d}.json").unlink()
    write_journal(settings, 0, b"\x00\xff garbage decode 3\n" * 50)
    write_journal(settings, 1, b"\n12345678 begin\n12345678 decode 6\n12345678 dec")
    write_journal(settings, 2, b"\n12345678 begin\n12345678 alone 12\n" * 9)  # one attempt, repeated
    assert extract(settings) == 0
    assert contents(settings.output) == contents(undisturbed.output)


def test_journals_of_another_data_set_blame_nobody_of_this_one(settings_for: Callable[..., ExtractSettings]) -> None:
    undisturbed, settings = settings_for("undisturbed"), settings_for("emptied")
    assert extract(undisturbed) == 0
    settings.output.mkdir()  # and its journals are all that `rm -r emptied/*` leaves
    deaths = b"".join(b"\n%08x begin\n%08x alone 1\n" % (number, number) for number in range(3))
    folder = write_journal(settings, 0, deaths)
    assert extract(settings) == 0
    assert contents(settings.output) == contents(undisturbed.output)
    assert not folder.exists()


def test_what_a_journal_says_is_from_before_a_retry(settings_for: Callable[..., ExtractSettings]) -> None:
    settings = settings_for("features", limit=5)
    assert extract(settings) == 0
    deaths = b"".join(b"\n%08x begin\n%08x alone 1\n" % (number, number) for number in range(3))
    write_journal(settings, 0, deaths)
    (settings.output / "shards/000000.json").unlink()
    assert extract(settings) == 0
    assert b'"crash"' in (settings.output / "failures/000000.jsonl").read_bytes()
    write_journal(settings, 0, deaths)
    assert extract(settings_for("features", limit=5, retry_failed=())) == 0
    assert b'"crash"' not in (settings.output / "failures/000000.jsonl").read_bytes()
