"""Data sets behind a URL: the same samples as on disk, each file whole and checked, the cache within its bounds."""

from __future__ import annotations

import fcntl
import functools
import http.server
import multiprocessing
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from vilbert.pipeline.errors import CorruptShardError, RefusedError, ShardError
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.train.data import remote
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order, Places
from vilbert.pipeline.train.data.remote import RemoteError, is_remote, public_url
from vilbert.pipeline.train.data.shard_cache import CacheFullError, ShardCache

MakeDataset = Callable[..., Path]
LIMIT = 10_000_000


class Server:
    """A web server of a folder in a thread, with faults on request."""

    def __init__(self, folder: Path) -> None:
        self.requests: Counter[str] = Counter()
        self.faults: dict[str, list[int | str]] = {}
        """By the end of a path, what its next downloads get: a status, or `cut` for half of the file."""
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests[self.path] += 1
                fault = next(
                    (left.pop(0) for end, left in server.faults.items() if left and self.path.endswith(end)), 0
                )
                if fault == "cut":
                    content = (folder / self.path.lstrip("/")).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2])
                elif fault:
                    self.send_error(int(fault))
                else:
                    super().do_GET()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
        )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    server = Server(tmp_path / "served")
    yield server
    server.stop()


@pytest.fixture
def served(tmp_path: Path, server: Server, make_dataset: MakeDataset) -> Path:
    return make_dataset(tmp_path / "served/data", samples=12, shard_size=2)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRY_SECONDS", 0.01)


def listing(corpus: Corpus, *, batch: int = 5) -> list[tuple[str, bytes] | None]:
    order = Order(corpus.shard_sizes, seed=3, window=4)
    found = []
    for start in range(0, order.epoch_size, batch):
        found += corpus.read(order.at(np.arange(start, min(start + batch, order.epoch_size))))
    return [None if example is None else (example.image_id, example.features.tobytes()) for example in found]


def open_remote(url: str, cache: Path, limit: int = LIMIT, **options: Any) -> Corpus:
    return Corpus.open([url], split=None, cache_dir=cache, cache_bytes=limit, **options)


def cached_shards(cache: Path) -> list[Path]:
    return sorted(path for path in cache.glob("**/*") if path.suffix in (".tar", ".lmdb"))


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.name.startswith(".fetch")]


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_over_http_it_is_the_data_set_on_disk(
    tmp_path: Path, server: Server, make_dataset: MakeDataset, storage: str
) -> None:
    folder = make_dataset(tmp_path / "served/data", samples=9, shard_size=2, storage=storage)
    local = Corpus.open([str(folder)], split=None)
    corpus = open_remote(f"{server.url}/data/", tmp_path / "cache")
    assert listing(corpus) == listing(local)
    ours, theirs = corpus.fingerprints[0], local.fingerprints[0]
    assert {**ours, "path": ""} == {**theirs, "path": ""}
    assert ours["path"] == f"{server.url}/data/"
    for path in cached_shards(tmp_path / "cache"):
        assert path.read_bytes() == (folder / "shards" / path.name).read_bytes()
    assert leftovers(tmp_path / "cache") == []


def test_any_fsspec_file_system_will_do(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "data", samples=5, shard_size=2)
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/test-remote/data", recursive=True)
    try:
        corpus = open_remote("memory://test-remote/data", tmp_path / "cache")
        assert listing(corpus) == listing(Corpus.open([str(folder)], split=None))
    finally:
        memory.rm("/test-remote", recursive=True)


def test_each_file_is_fetched_once_and_only_when_needed(tmp_path: Path, server: Server, served: Path) -> None:
    corpus = open_remote(f"{server.url}/data", tmp_path / "cache")
    assert server.requests == Counter(["/data/dataset.json", *(f"/data/shards/{n:06}.json" for n in range(6))])
    for _ in range(2):
        listing(corpus)
    listing(open_remote(f"{server.url}/data", tmp_path / "cache"))
    tars = {path: count for path, count in server.requests.items() if path.endswith(".tar")}
    assert tars == {f"/data/shards/{n:06}.tar": 1 for n in range(6)}
    assert server.requests["/data/shards/000000.json"] == 1


def test_a_data_set_made_anew_does_not_meet_its_old_shards(
    tmp_path: Path, server: Server, served: Path, make_dataset: MakeDataset
) -> None:
    before = listing(open_remote(f"{server.url}/data", tmp_path / "cache"))
    shutil.rmtree(served)
    make_dataset(served, samples=12, shard_size=2, seed=1)
    after = listing(open_remote(f"{server.url}/data", tmp_path / "cache"))
    assert after == listing(Corpus.open([str(served)], split=None)) != before


@pytest.mark.parametrize("open_shards", [1, 2])
def test_the_cache_stays_within_its_bytes(tmp_path: Path, server: Server, served: Path, open_shards: int) -> None:
    size = (served / "shards/000000.tar").stat().st_size
    cache = tmp_path / "cache"
    corpus = open_remote(f"{server.url}/data", cache, limit=2 * size + 1, open_shards=open_shards)
    expected = listing(Corpus.open([str(served)], split=None))
    order = Order(corpus.shard_sizes, seed=3, window=4)
    for at in range(24):
        (example,) = corpus.read(order.at(np.array([at])))
        assert example is not None
        assert (example.image_id, example.features.tobytes()) == expected[at] if at < 12 else True
        assert sum(path.stat().st_size for path in cached_shards(cache)) <= 2 * size + 1
    assert len(cached_shards(cache)) == 2
    assert max(server.requests.values()) > 1  # some were fetched again


def test_the_shard_opened_longest_ago_goes_first_and_none_that_is_open(
    tmp_path: Path, server: Server, served: Path
) -> None:
    size = (served / "shards/000000.tar").stat().st_size
    corpus = open_remote(f"{server.url}/data", tmp_path / "cache", limit=3 * size)
    source = corpus.sources[0]
    cache = ShardCache(folder=tmp_path / "cache", limit=3 * size)

    def open_one(shard: int) -> Any:
        facts = source.shards[shard]
        path, opener = source.path(shard), functools.partial(open_shard, verify=False)
        return cache.open(f"{server.url}/data", path, size=facts.bytes, sha256=facts.sha256, opener=opener)

    def there() -> list[str]:
        return [path.stem for path in cached_shards(tmp_path / "cache")]

    first = open_one(0)
    for shard in (1, 2):
        cache.close(open_one(shard))
    for age, shard in enumerate((1, 2, 0)):  # 0 is the oldest by far, but it is open; 1 is newer than 2
        os.utime(source.path(shard), (1000 - 100 * age, 1000 - 100 * age))
    cache.close(open_one(3))
    assert there() == ["000000", "000001", "000003"]
    cache.close(open_one(1))  # opened again, so 3 is older
    os.utime(source.path(3), (1000, 1000))
    cache.close(open_one(4))
    assert there() == ["000000", "000001", "000004"]
    assert first[0].meta["image_id"] == "photo.0000"
    cache.close(first)
    os.utime(source.path(0), (1, 1))
    cache.close(open_one(5))
    assert there() == ["000001", "000004", "000005"]


def test_a_cache_too_small_for_one_shard_says_so(tmp_path: Path, server: Server, served: Path) -> None:
    corpus = open_remote(f"{server.url}/data", tmp_path / "cache", limit=1000)
    with pytest.raises(CacheFullError, match=r"does not fit into 1000 bytes .* raise --cache-bytes"):
        listing(corpus)


def test_open_shards_give_way_where_the_cache_is_smaller_than_they_are(
    tmp_path: Path, server: Server, served: Path
) -> None:
    size = (served / "shards/000000.tar").stat().st_size
    corpus = open_remote(f"{server.url}/data", tmp_path / "cache", limit=2 * size, open_shards=6)
    assert listing(corpus) == listing(Corpus.open([str(served)], split=None))
    assert len(cached_shards(tmp_path / "cache")) == 2


@pytest.mark.parametrize("fault", [500, 503, "cut"])
def test_a_passing_fault_is_tried_again(tmp_path: Path, server: Server, served: Path, fault: int | str) -> None:
    server.faults = {"000003.tar": [fault, fault], "000002.json": [fault]}
    corpus = open_remote(f"{server.url}/data", tmp_path / "cache")
    assert listing(corpus) == listing(Corpus.open([str(served)], split=None))
    assert server.requests["/data/shards/000003.tar"] == 3


@pytest.mark.parametrize("on_corrupt", ["stop", "skip"])
def test_a_server_that_keeps_failing_stops_the_run_whatever_the_policy(
    tmp_path: Path, server: Server, served: Path, on_corrupt: str
) -> None:
    """It says nothing of the data: skipping would train on what happens to be reachable."""
    server.faults = {"000003.tar": [500] * 100}
    corpus = open_remote(f"{server.url}/data", tmp_path / "cache", on_corrupt=on_corrupt)
    with pytest.raises(RemoteError, match=r"/data/shards/000003\.tar: download failed 3 times: .*500"):
        listing(corpus)
    assert leftovers(tmp_path / "cache") == []
    server.faults = {}
    assert None not in listing(corpus)


@pytest.mark.parametrize("same_size", [True, False])
def test_a_damaged_file_on_the_server_is_told_by_name_and_never_cached(
    tmp_path: Path, server: Server, served: Path, same_size: bool
) -> None:
    content = (served / "shards/000003.tar").read_bytes()
    (served / "shards/000003.tar").write_bytes(content[:-1] + b"x" if same_size else content[:-512])
    corpus = open_remote(f"{server.url}/data", tmp_path / "cache")
    with pytest.raises(CorruptShardError, match=r"127\.0\.0\.1:\d+/data/shards/000003\.tar gave \d+ bytes of SHA-256"):
        listing(corpus)
    assert server.requests["/data/shards/000003.tar"] == 2  # once more, in case that the line was at fault
    assert "000003.tar" not in {path.name for path in cached_shards(tmp_path / "cache")}
    assert leftovers(tmp_path / "cache") == []


@pytest.mark.parametrize("damage", ["other bytes", "missing"])
def test_a_damaged_file_on_the_server_is_skipped_on_request(
    tmp_path: Path, server: Server, served: Path, damage: str
) -> None:
    if damage == "missing":
        (served / "shards/000003.tar").unlink()
    else:
        (served / "shards/000003.tar").write_bytes(b"")
    corpus = open_remote(f"{server.url}/data", tmp_path / "cache", on_corrupt="skip")
    assert listing(corpus).count(None) == 2
    (message,) = corpus.skipped_shards.values()
    assert f"{server.url}/data/shards/000003.tar" in message


def test_a_cached_file_that_was_cut_is_fetched_again(tmp_path: Path, server: Server, served: Path) -> None:
    listing(open_remote(f"{server.url}/data", tmp_path / "cache"))
    path = cached_shards(tmp_path / "cache")[2]
    path.write_bytes(path.read_bytes()[:-512])
    assert None not in listing(open_remote(f"{server.url}/data", tmp_path / "cache"))
    assert path.read_bytes() == (served / "shards" / path.name).read_bytes()


@pytest.mark.parametrize("name", ["dataset.json", "shards/000002.json"])
def test_a_data_set_that_is_not_whole_on_the_server_leaves_nothing(
    tmp_path: Path, server: Server, served: Path, name: str
) -> None:
    content = (served / name).read_bytes()
    (served / name).unlink()
    with pytest.raises(RemoteError, match=r"/data/.*\.json: not found"):
        open_remote(f"{server.url}/data", tmp_path / "cache")
    (served / name).write_bytes(content)
    assert None not in listing(open_remote(f"{server.url}/data", tmp_path / "cache"))


def test_an_incomplete_remote_data_set_is_refused(tmp_path: Path, server: Server, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path / "served/data", samples=4, shard_size=2, complete=False)
    with pytest.raises(RefusedError, match=r"/data: not complete"):
        open_remote(f"{server.url}/data", tmp_path / "cache")


def list_in_child(url: str, cache: Path, limit: int, queue: Any) -> None:
    corpus = open_remote(url, cache, limit=limit, open_shards=2)
    queue.put([listing(corpus) for _ in range(4)])


@pytest.mark.slow
def test_processes_share_a_cache_too_small_for_them(tmp_path: Path, server: Server, served: Path) -> None:
    """Each deletes what the others have open, and they fetch the same shards at the same time."""
    size = (served / "shards/000000.tar").stat().st_size
    context: Any = multiprocessing.get_context("spawn")
    queue = context.Queue()
    arguments = (f"{server.url}/data", tmp_path / "cache", 3 * size, queue)
    children = [context.Process(target=list_in_child, args=arguments) for _ in range(3)]
    for child in children:
        child.start()
    expected = listing(Corpus.open([str(served)], split=None))
    for _ in children:
        assert queue.get(timeout=150) == [expected] * 4  # starting them takes 30 s of a busy machine
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert 0 < sum(path.stat().st_size for path in cached_shards(tmp_path / "cache")) <= 3 * size
    assert leftovers(tmp_path / "cache") == []


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_fetches_for_itself(
    tmp_path: Path, server: Server, make_dataset: MakeDataset, storage: str
) -> None:
    """fsspec's thread does not live on in the child, and what was open may be deleted before the child looks."""
    served = make_dataset(tmp_path / "served/data", samples=12, shard_size=2, storage=storage)
    corpus = open_remote(f"{server.url}/data", tmp_path / "cache")
    order = Order(corpus.shard_sizes, seed=3, window=4)
    corpus.read(order.at(np.arange(2)))
    for path in cached_shards(tmp_path / "cache"):
        path.unlink()
    context: Any = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(listing(corpus)))
    child.start()
    assert queue.get(timeout=30) == listing(Corpus.open([str(served)], split=None))
    child.join(60)
    assert child.exitcode == 0


def test_a_download_whose_process_was_killed_claims_no_room(tmp_path: Path, server: Server, served: Path) -> None:
    size = (served / "shards/000000.tar").stat().st_size
    corpus = open_remote(f"{server.url}/data", tmp_path / "cache", limit=size)
    stale = tmp_path / f"cache/.fetch-{size}-0123456789abcdef"
    stale.mkdir()
    (stale / "000000.tar").write_bytes(b"half")
    assert None not in listing(corpus)
    assert not stale.exists()


def test_a_download_waits_for_room_that_others_are_filling(tmp_path: Path, server: Server, served: Path) -> None:
    size = (served / "shards/000000.tar").stat().st_size
    corpus = open_remote(f"{server.url}/data", tmp_path / "cache", limit=size)
    result: list[Any] = []
    claim = tmp_path / f"cache/.fetch-{size}-0123456789abcdef"  # as another process claims room: a locked folder
    claim.mkdir()
    descriptor = os.open(claim, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        reading = threading.Thread(target=lambda: result.append(listing(corpus)))
        reading.start()
        reading.join(0.3)
        assert reading.is_alive()
        assert not cached_shards(tmp_path / "cache")
    finally:
        os.close(descriptor)
    reading.join(30)
    assert None not in result[0]


def test_closing_frees_the_files_for_deletion(tmp_path: Path, server: Server, served: Path) -> None:
    size = (served / "shards/000000.tar").stat().st_size
    corpus = open_remote(f"{server.url}/data", tmp_path / "cache", limit=3 * size, open_shards=3)
    listing(corpus)
    cached = {path.stem for path in cached_shards(tmp_path / "cache")}
    absent = next(shard for shard in range(6) if f"{shard:06}" not in cached)
    other = open_remote(f"{server.url}/data", tmp_path / "cache", limit=3 * size)
    at = np.array([0])
    places = Places(at, at + absent, at, at, at, at, at)
    with pytest.raises(CacheFullError, match="besides the shards in use"):
        other.read(places)
    corpus.close()
    assert None not in other.read(places)


def test_remote_data_wants_a_cache(server: Server, served: Path) -> None:
    with pytest.raises(RefusedError, match="give --cache"):
        Corpus.open([f"{server.url}/data"], split=None)


def test_a_full_disk_is_told(tmp_path: Path, server: Server, served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = open_remote(f"{server.url}/data", tmp_path / "cache")

    def refuse(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ShardError, match=r"cannot be written .No space left on device"):
        listing(corpus)
    assert leftovers(tmp_path / "cache") == []


def test_commands_are_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(RefusedError, match="commands are not run"):
        Corpus.open([f"pipe:touch {mark}"], split=None, cache_dir=tmp_path / "cache")
    assert not mark.exists()


def test_an_unknown_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="fsspec cannot open it: Protocol not known"):
        open_remote("nosuch://place/data", tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("data/train", False), ("/data", False), ("file:///data", False), ("s3://b/k", True), ("HTTPS://h/d", True)],
)
def test_what_counts_as_remote(name: str, expected: bool) -> None:
    assert is_remote(name) is expected


def test_passwords_and_signatures_are_not_shown() -> None:
    assert public_url("https://me:secret@host:8/data?sig=secret#x") == "https://host:8/data"
