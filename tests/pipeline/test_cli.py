"""The command line itself: help, version, config files, mistakes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vilbert.pipeline import __version__
from vilbert.pipeline.cli import COMMANDS, call, main, parse
from vilbert.pipeline.config_file import read_config
from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.shards.checks.verify import VerifySettings
from vilbert.pipeline.signals import terminate_like_interrupt
from vilbert.pipeline.train.engine.interruption import interruption

HEAVY = ("torch", "torchvision", "ray", "pyarrow", "webdataset", "transformers", "detectron2")
PROBE = """
import sys
from vilbert.pipeline.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as leaving:
    status = leaving.code
print("STATUS", status or 0, *sorted({name.partition(".")[0] for name in sys.modules} & set(HEAVY)))
"""


PARSERS = ("pydantic", "tyro", "numpy")


def run_in_child(*arguments: str, watched: tuple[str, ...] = HEAVY) -> tuple[str, int, list[str]]:
    """Return the output, exit status and imported heavy packages of a command line in a Python of its own."""
    code = PROBE.replace("HEAVY", repr(watched))
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    text, _, last = done.stdout.rpartition("STATUS ")
    status, *heavy = last.split()
    return text + done.stderr, int(status), heavy


PROBE_HELP = """
import contextlib, io, json, sys
from vilbert.pipeline.cli import main
found = {}
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            status = main([*command.split(), "--help"])
        except SystemExit as leaving:
            status = leaving.code
    heavy = sorted({name.partition(".")[0] for name in sys.modules} & set(json.loads(sys.argv[2])))
    found[command] = text.getvalue(), status or 0, heavy
print(json.dumps(found))
"""
VALIDATED = "finetune multitask"
"""The command with a recipe, whose values are validated by pydantic; comes last, so that what others import is seen."""


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[str, int, list[str]]]:
    """Return the help of each command, its exit status, and the heavy packages that were imported until then."""
    commands = ["", *sorted(COMMANDS, key=lambda command: command == VALIDATED)]
    watched = json.dumps([*HEAVY, "pydantic"])
    command = [sys.executable, "-c", PROBE_HELP, json.dumps(commands), watched]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[str, int, list[str]]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_explains_and_imports_nothing_heavy(command: str, helps: dict[str, tuple[str, int, list[str]]]) -> None:
    text, status, heavy = helps[command]
    assert status == 0
    assert heavy == (["pydantic"] if command == VALIDATED else [])
    if command:
        assert f"vilbert {command}" in text
    else:
        assert all(name in text and row.summary in text for name, row in COMMANDS.items())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["finetune", "--help"]])
def test_the_commands_are_listed_before_settings_are_imported(arguments: list[str]) -> None:
    assert run_in_child(*arguments, watched=PARSERS)[1:] == (0, [])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vilbert {__version__}\n"


def test_no_command_prints_the_help_as_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: vilbert COMMAND" in capsys.readouterr().out


def test_an_unknown_command_is_named_beside_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extrakt"]) == 2
    message = capsys.readouterr().err
    assert "extrakt" in message
    assert "extract" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["extrat"], "did you mean extract?"),
        (["predict", "vqaa"], "did you mean vqa?"),
        (["finetune", "multi-task"], "did you mean multitask?"),
        (["evaluate", "--checkpoint", "runs/vqa"], "the task comes first"),
        (["finetune"], "snli-ve, multitask."),
        (["pretrain", "x", "--output", "y", "--config", "papper"], "did you mean paper?"),
        (["pretrain", "x", "--output", "y", "--config", "nonsense"], "default, paper, shapes, vilbert_beta"),
        (["verify", "x", "--config", "nonsense"], "--config nonsense: no such file"),
    ],
)
def test_a_mistyped_name_is_answered_with_those_there_are(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_folder_with_the_name_of_shipped_settings_is_not_taken_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("shapes", "default"):
        (tmp_path / name).mkdir()
    assert parse("pretrain", ["d", "--output", "o", "--config", "shapes"]).optimizer
    finetune = ["vqa", "d", "--annotations", "a", "--init-from", "none", "--model", "m", "--tokenizer", "t"]
    assert parse("finetune", [*finetune, "--output", "o"]).batch_size == 256


@pytest.mark.parametrize("disguise", [RefusedError, ShardError, RuntimeError])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_a_library_replaced_by_its_own_error_is_an_interruption(
    number: signal.Signals,
    disguise: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def read(settings: VerifySettings) -> int:
        with terminate_like_interrupt():
            try:
                signal.raise_signal(number)
                time.sleep(10)
            except KeyboardInterrupt:
                raise disguise("weights.safetensors: is damaged") from None
        return 0

    monkeypatch.setattr("vilbert.pipeline.shards.checks.verify.verify", read)
    assert call("verify", parse("verify", [str(tmp_path)])) == 130
    assert capsys.readouterr().err == "vilbert verify: interrupted\n"


def test_a_second_ctrl_c_in_training_that_a_library_replaced_by_its_own_error_is_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(settings: VerifySettings) -> int:
        with interruption() as interrupted:
            signal.raise_signal(signal.SIGINT)
            assert interrupted.is_set()
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise RuntimeError("of native code") from None
        return 0

    monkeypatch.setattr("vilbert.pipeline.shards.checks.verify.verify", train)
    assert call("verify", parse("verify", [str(tmp_path)])) == 130
    assert capsys.readouterr().err == "vilbert verify: interrupted\n"


def test_ctrl_c_while_modules_are_imported_is_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    settings = VerifySettings(directory=tmp_path)
    monkeypatch.setattr("vilbert.pipeline.cli.importlib.import_module", interrupt)
    assert call("verify", settings) == 130
    assert "vilbert verify: interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["verify", "stats", "inspect", "status"])
def test_a_file_in_the_place_of_a_data_set_is_told_from_its_data_set(
    command: str, tmp_path: Path, golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong, said in ((golden / "tar" / "shards" / "000000.tar", "is a file"), (tmp_path / "no", "no such folder")):
        assert main([command, str(wrong)]) in (1, 2)
        shown = "".join(capsys.readouterr())
        assert said in shown
        assert "expected a data set" in shown
        assert ("tar is one" in shown) == (said == "is a file")


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify"],
        ["verify", "somewhere", "--no-such-option"],
        ["verify", "somewhere", "--num-workers", "many"],
        ["verify", "somewhere", "--num-workers", "-1"],
        ["verify", "somewhere", "--config"],
        ["verify", "--config", "no/such/file.yaml"],
    ],
)
def test_wrong_options_leave_with_status_2_and_no_traceback(arguments: list[str]) -> None:
    text, status, _ = run_in_child(*arguments)
    assert status == 2
    assert text.strip()
    assert "Traceback" not in text


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_config_file_means_the_same_as_flags(suffix: str, tmp_path: Path) -> None:
    config = tmp_path / f"verify.{suffix}"
    settings = {"deep": True, "num_workers": 3, "json": False}
    config.write_text(json.dumps(settings) if suffix == "json" else "deep: true\nnum_workers: 3\njson: false\n")
    by_file = parse("verify", ["data", "--config", str(config)])
    assert by_file == parse("verify", ["data", "--deep", "--num-workers", "3"])
    assert by_file != parse("verify", ["data"])


def test_flags_go_over_the_config_file(tmp_path: Path) -> None:
    config = tmp_path / "verify.yaml"
    config.write_text("deep: true\nnum-workers: 3\n")
    settings = parse("verify", ["--config", str(config), "data", "--num-workers", "5", "--no-deep"])
    assert (settings.num_workers, settings.deep) == (5, False)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("limit: 5", 5),
        ("limit: null", None),
        ("opts: [A, 1]", ("A", "1")),
        ("opts: A", ("A",)),
        ("boxes: 36", "36"),
        ("boxes: 10-100", "10-100"),
        ("dry_run: true", True),
        ("dry-run: no", False),
        ("confidence: 1", 1.0),
        ("confidence: 2e-1", 0.2),
        ("max_bytes: 2MiB", 2 * 2**20),
        ("max_bytes: 2000", 2000),
        ("workers: auto", "auto"),
        ("workers: 3", 3),
        ("output: out", Path("out")),
        ("output: s3://bucket/out", "s3://bucket/out"),
    ],
)
def test_config_values_of_every_kind(line: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(line)
    found = read_config(str(tmp_path / "one.yaml"), ExtractSettings)
    assert found == {line.partition(":")[0].replace("-", "_"): value}
    assert type(next(iter(found.values()))) is type(value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("num_workers: many", 'num_workers: must be a whole number, is "many"'),
        ("num_workers: '3'", 'num_workers: must be a whole number, is "3"'),
        ("num_workers: 3.5", "num_workers: must be a whole number, is 3.5"),
        ("num_workers: true", "num_workers: must be a whole number, is true"),
        ("num_workers: [1, 2]", "num_workers: must be a whole number, is [1, 2]"),
        ("num_workers: 2015-01-01", "num_workers: must be a whole number, is"),
        ("deep: 1", "deep: must be true or false, is 1"),
        ("deep: 'yes'", 'deep: must be true or false, is "yes"'),
        ("manifest: true", "manifest: must be a text, is true"),
        ("deap: true", "no option deap; did you mean deep?"),
        ("num-workers: 1\nnum_workers: 2", "appears twice"),
    ],
)
def test_a_wrong_value_in_a_config_file_is_refused_by_file_key_and_reason(
    line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text(line)
    assert main(["verify", "data", "--config", str(config)]) == 2
    shown = capsys.readouterr().err
    assert f"--config {config}: " in shown
    assert said in shown


@pytest.mark.parametrize("text", ["- a\n- list\n", "just text", "deep: {name: x}\n", "deep: [[x]]\n"])
def test_a_config_file_of_another_shape_is_refused(text: str, tmp_path: Path) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text(text)
    with pytest.raises(ValueError, match=r"expected a mapping|options are flat"):
        read_config(str(config), VerifySettings)
    assert main(["verify", "data", "--config", str(config)]) == 2


def test_yaml_that_does_not_parse_is_a_usage_error(tmp_path: Path) -> None:
    config = tmp_path / "torn.yaml"
    config.write_text("deep: [true\n")
    text, status, _ = run_in_child("verify", "data", "--config", str(config))
    assert status == 2
    assert "torn.yaml" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "text", ['{"a":' * 100_000 + "1" + "}" * 100_000, "[" * 100_000, "a: &a [*a]", "!!python/object:os.x"]
)
def test_a_config_file_nested_or_of_odd_tags_is_a_usage_error(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.json").write_text(text)
    assert main(["verify", "x", "--config", str(tmp_path / "c.json")]) == 2
    assert "is neither YAML nor JSON" in capsys.readouterr().err


def test_a_config_file_with_a_list_beside_positionals(tmp_path: Path) -> None:
    config = tmp_path / "lists.yaml"
    config.write_text("detector: detectron2\nconfig_file: c.yaml\nopts: [A, B]\noutput: out\n")
    settings = parse("extract", ["m.parquet", f"--config={config}"])
    assert (settings.manifest, settings.detector.opts, settings.output) == (Path("m.parquet"), ("A", "B"), Path("out"))


@pytest.mark.parametrize("name", ["nope", "manifest"])
def test_a_name_that_is_no_option_is_named_with_its_file(name: str, tmp_path: Path) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text(f"{name}: 3\n")
    with pytest.raises(ValueError, match=rf"wrong\.yaml: no option {name}"):
        parse("extract", ["m.parquet", "--output", "out", "--config", str(config)])


@pytest.mark.slow
def test_output_cut_off_by_its_reader_is_no_error(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m vilbert.pipeline.cli doctor | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
