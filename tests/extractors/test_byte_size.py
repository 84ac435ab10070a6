import pytest

from vilbert.extractors.byte_size import parse_size
from vilbert.pipeline.cli import parse


@pytest.mark.parametrize(
    ("text", "size"),
    [("7", 7), ("7B", 7), ("512MB", 512_000_000), ("1GiB", 1 << 30), ("1.5 KiB", 1536), ("2tb", 2 * 10**12)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "1 mile", "1,5MB", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    settings = parse("extract", ["m.parquet", "--output", "out", "--max-bytes", "8MB"])
    assert settings.decoding.max_bytes == 8_000_000
    with pytest.raises(SystemExit) as leaving:
        parse("extract", ["m.parquet", "--output", "out", "--max-bytes", "8 miles"])
    assert leaving.value.code == 2
    assert "8 miles" in capsys.readouterr().err
