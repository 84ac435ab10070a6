"""Conceptual Captions TSV: the four variants in the wild, the labelled one, their dirt, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.manifests.readers.conceptual_captions import Layout, detect_layout, read_conceptual_captions
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report

ROWS = [
    ('a "dog" on <PERSON> \'s lawn', "http://example.com/1.jpg"),
    ("no-break\u00a0space and\rcarriage return", "https://example.com/2.jpg?a=1&b=2"),
    ("5\u2019 10\u201d tall \u00e2\u20ac\u2122 mojibake", "HTTPS://example.com/3.JPG"),
]
VARIANTS = {
    "cc3m": (None, (0, 1)),
    "cc12m": (None, (1, 0)),
    "cc3m with header": ("caption\turl", (0, 1)),
    "cc12m with header": ("url\tcaption", (1, 0)),
    "img2dataset's own names": ("Image_URL\tCaption", (1, 0)),
}


def text_of(header: str | None, order: tuple[int, int], rows: list[tuple[str, str]]) -> str:
    lines = ([] if header is None else [header]) + ["\t".join(row[i] for i in order) for row in rows]
    return "".join(f"{line}\n" for line in lines)


def read(path: Path, **options: str) -> tuple[list[ImageRecord], Report]:
    report = Report()
    return list(read_conceptual_captions(path, report, **options)), report


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_give_the_same_records(tmp_path: Path, variant: str) -> None:
    path = tmp_path / "cc.tsv"
    path.write_bytes(text_of(*VARIANTS[variant], ROWS).encode())
    records, report = read(path)
    assert [(record.captions, record.uri) for record in records] == [((caption,), url) for caption, url in ROWS]
    # printf %s http://example.com/1.jpg | sha1sum
    assert [record.image_id for record in records] == ["000000000-683d60f8", "000000001-eb17fe3a", "000000002-8a5c9b11"]
    assert not report.counts


def test_labelled_variant_takes_the_first_columns(tmp_path: Path) -> None:
    path = tmp_path / "Train_GCC_Labels_training.tsv"
    path.write_text("".join(f"{caption}\t{url}\tdog,lawn\t/m/0bt9lr,/m/04rp\t0.9,0.8\n" for caption, url in ROWS))
    records, report = read(path)
    assert (records[0].captions[0], records[0].uri) == ROWS[0]
    assert {record.split for record in records} == {"train"}
    assert not report.counts


@pytest.mark.parametrize(("order", "line"), [((0, 1), "a\tb\thttp://x/9.jpg"), ((1, 0), "http://x/9.jpg\ta\tb")])
def test_a_tab_in_a_caption_stays(tmp_path: Path, order: tuple[int, int], line: str) -> None:
    path = tmp_path / "cc.tsv"
    path.write_text(line + "\n" + text_of(None, order, ROWS * 10))
    records, report = read(path)
    assert records[0].captions == ("a\tb",)
    assert len(records) == 31
    assert not report.counts


def test_dirt_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "cc.tsv"
    good = "".join(f"http://x/{i}.jpg\tcaption {i}\n" for i in range(100)).encode()
    dirt = b"http://x/a.jpg\t \xc2\xa0\nno url\thttp\n\nhttp://x/b.jpg\tcaf\xe9\n"
    dirt += b"http://x/a.jpg\tagain\r\nhttp://x/last\tno line end"
    path.write_bytes(good + dirt)
    records, report = read(path)
    assert [(record.uri, record.captions) for record in records[100:]] == [
        ("http://x/a.jpg", ()),
        ("http://x/b.jpg", ("caf\ufffd",)),
        ("http://x/a.jpg", ("again",)),
        ("http://x/last", ("no line end",)),
    ]
    assert report.counts == {"empty-caption": 1, "malformed-row": 2, "replaced-characters": 1}
    assert f"{path}:102" in report.examples["malformed-row"][0]
    assert len({record.image_id for record in records}) == len(records), "unique though a URL is there twice"


def test_ids_are_stable_when_rows_follow(tmp_path: Path) -> None:
    short, long = tmp_path / "a.tsv", tmp_path / "b.tsv"
    short.write_text(text_of("caption\turl", (0, 1), ROWS[:2]))
    long.write_text(text_of(None, (1, 0), ROWS))
    assert [record.image_id for record in read(short)[0]] == [record.image_id for record in read(long)[0]][:2]


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "cc.tsv"
    path.write_bytes(b"\xef\xbb\xbfurl\tcaption\r\nhttp://x/1.jpg\tone\r\n")
    records, _ = read(path)
    assert [(record.uri, record.captions) for record in records] == [("http://x/1.jpg", ("one",))]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Train_GCC-training.tsv", "train"),
        ("Validation_GCC-1.1.0-Validation.tsv", "val"),
        ("cc12m.tsv", "train"),
        ("x", ""),
    ],
)
def test_published_names_say_the_split(tmp_path: Path, name: str, split: str) -> None:
    path = tmp_path / name
    path.write_text(text_of(None, (0, 1), ROWS))
    assert {record.split for record in read(path)[0]} == {split}
    assert {record.split for record in read(path, split="mine")[0]} == {"mine"}


@pytest.mark.parametrize(
    "lines",
    [
        ["http://x/1\thttp://x/2\n"] * 3,  # both columns are URLs
        ["a dog\ta cat\n"] * 3,  # none is
        ["a dog\thttp://x\n"] * 94 + ["a dog\tnone\n"] * 6,  # 94 %
        ["caption\turl\timage_url\n", "a\thttp://x\thttp://y\n"],
        ["caption\ttext\n", "a dog\tb\n"],
        ["no tab\n"],
        [],
    ],
)
def test_ambiguous_files_are_refused(lines: list[str]) -> None:
    with pytest.raises(ManifestError, match=r"f\.tsv"):
        detect_layout(lines, "f.tsv")


def test_95_percent_suffice() -> None:
    lines = ["a dog\thttp://x\n"] * 95 + ["a dog\tnone\n"] * 5
    assert detect_layout(lines, "f") == Layout(header=False, url=1, caption=0, columns=2)


def test_a_caption_that_is_the_word_url_is_no_header() -> None:
    assert not detect_layout(["url\thttp://x/1.jpg\n"], "f").header


captions = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=30).filter(
    lambda text: "http" not in text.lower()
)
urls = st.from_regex(r"https?://[a-z]{1,8}\.com/[a-z0-9]{0,9}", fullmatch=True)


@given(st.lists(st.tuples(captions, urls), min_size=1, max_size=20), st.sampled_from(sorted(VARIANTS)))
def test_detection_finds_any_variant(rows: list[tuple[str, str]], variant: str) -> None:
    header, order = VARIANTS[variant]
    if "\t" in "".join(caption for caption, _ in rows):
        rows = [(caption.replace("\t", " "), url) for caption, url in rows]
    lines = text_of(header, order, rows).split("\n")[:-1]
    layout = detect_layout([line + "\n" for line in lines], "f")
    assert (layout.header, layout.url, layout.caption) == (header is not None, order.index(1), order.index(0))
