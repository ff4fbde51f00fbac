"""`count`: what it reads, what it skips, and what it prints."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_token_tracker import cli, count_tokens
from llama_token_tracker._log_once import forget_notices

COMMAND = (sys.executable, "-m", "llama_token_tracker", "count")

Count = Callable[..., tuple[int, str, str]]


@pytest.fixture
def count(capsys: pytest.CaptureFixture[str]) -> Count:
    """Run the command: its exit code, stdout and stderr."""

    def run(*arguments: object, model: str = "gpt-4o") -> tuple[int, str, str]:
        code = cli.main(["count", *map(str, arguments), "--model", model])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two texts, one of them in a folder of its own, and a hidden one."""
    (tmp_path / "a.txt").write_text("Hello, world!", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.md").write_text("你好世界", encoding="utf-8")
    (tmp_path / ".hidden").write_text("not me", encoding="utf-8")
    return tmp_path


def test_a_folder_is_counted_file_by_file(folder: Path, count: Count):
    """Each file has a row, hidden ones are left out, and the last row adds up."""
    code, out, err = count(folder)
    assert (code, err) == (0, "")
    texts = [count_tokens(text, model="gpt-4o") for text in ("Hello, world!", "你好世界")]
    assert "o200k_base, its own" in out
    # gpt-4o, at $2.50 per million.
    assert out.split()[-5:] == ["2", "in", "all", str(sum(texts)), "<$0.0001"]
    assert ".hidden" not in out


def test_json_has_every_figure(folder: Path, count: Count):
    """`--json` prints one object, whose parts add up."""
    (folder / "photo.jpeg").write_bytes(b"\xff\xd8\xff")
    code, out, _ = count(folder, "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["tokens"] == sum(file["tokens"] for file in answer["files"])
    assert [Path(file["path"]).name for file in answer["files"]] == ["a.txt", "b.md"]
    assert [Path(file["path"]).name for file in answer["skipped"]] == ["photo.jpeg"]
    assert (answer["tokenizer"], answer["source"]) == ("o200k_base", "counted")


def test_what_it_costs_as_input_is_shown(tmp_path: Path, count: Count):
    """Each file and all of them, at the price of an uncached prompt."""
    for name in "ab":
        (tmp_path / name).write_text("a " * 8_000, encoding="utf-8")
    _, out, _ = count(tmp_path)
    tokens = 2 * count_tokens("a " * 8_000, model="gpt-4o")
    assert out.split()[-1] == f"${tokens * 2.5 / 1e6:.4f}"
    _, out, _ = count(tmp_path, "--json")
    answer = json.loads(out)
    assert float(answer["usd_as_input"]) == pytest.approx(tokens * 2.5 / 1e6)
    assert {float(file["usd_as_input"]) for file in answer["files"]} == {tokens * 1.25 / 1e6}


def test_an_unknown_price_is_not_zero(folder: Path, count: Count):
    """For a model without a price the table says so, and JSON has null."""
    assert count(folder, model="nobodys-model")[1].split()[-1] == "unknown"
    answer = json.loads(count(folder, "--json", model="nobodys-model")[1])
    assert answer["usd_as_input"] is None


@pytest.mark.parametrize("pattern", ["*.txt", "**/*.txt", "[a]*"])
def test_a_glob_is_expanded_here(folder: Path, pattern: str, count: Count):
    """A quoted glob works where no shell expands it."""
    code, out, _ = count(folder / pattern, "--json")
    assert code == 0
    assert [Path(file["path"]).name for file in json.loads(out)["files"]] == ["a.txt"]


def test_a_file_named_twice_is_counted_once(folder: Path, count: Count):
    """Two paths to one file are one row."""
    _, out, _ = count(folder / "a.txt", folder / "*.txt", folder / "a.txt", "--json")
    assert len(json.loads(out)["files"]) == 1


def test_stdin_is_counted(count: Count, monkeypatch: pytest.MonkeyPatch):
    """`-` reads standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hello, world!")))
    code, out, _ = count("-", "--json")
    assert code == 0
    assert json.loads(out)["files"] == [{"path": "-", "tokens": 4, "usd_as_input": "0.00001"}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"\x89PNG\r\n", "byte 0"), (b"caf\xe9 au lait", "byte 3"), (b"nul\0byte", "NUL")],
)
def test_what_is_not_text_is_skipped_and_named(
    content: bytes, reason: str, folder: Path, count: Count
):
    """The others are counted; the one skipped gets a line on stderr that says why."""
    (folder / "binary.bin").write_bytes(content)
    code, out, err = count(folder)
    assert code == 0
    assert "2 in all" in out
    assert err.startswith(f"llama-token-tracker: skipped: {folder / 'binary.bin'}: ")
    assert reason in err
    assert err.count("\n") == 1


def test_nothing_but_binary_files_is_nothing_counted(tmp_path: Path, count: Count):
    """Where all was skipped, the exit code says so."""
    (tmp_path / "binary.bin").write_bytes(b"\xff\xfe")
    code, out, err = count(tmp_path)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("there was nothing to count")


@pytest.mark.parametrize(
    ("name", "said"), [("missing.txt", "does not exist"), ("*.rst", "no file"), (".", "no file")]
)
def test_a_path_that_leads_nowhere_is_refused(name: str, said: str, tmp_path: Path, count: Count):
    """Nothing is counted then, and one line names the path."""
    code, out, err = count(tmp_path / name)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_an_empty_file_has_no_tokens(tmp_path: Path, count: Count):
    """An empty file is text too; a byte order mark is not."""
    (tmp_path / "empty.txt").write_bytes(b"\xef\xbb\xbf")
    _, out, _ = count(tmp_path, "--json")
    assert json.loads(out)["tokens"] == 0


def test_a_stand_in_is_named(folder: Path, count: Count):
    """For a model without a known tokenizer the table says that its figures are estimates."""
    forget_notices()
    _, out, _ = count(folder, model="nobodys-model")
    assert "a stand-in" in out


def test_counting_loads_no_llama_index_and_shows_no_bar(folder: Path):
    """The real command: quick, and silent on a stderr that is no terminal."""
    script = (
        "import sys; from llama_token_tracker import cli; code = cli.main(sys.argv[1:]); "
        "sys.exit(code or any(name.startswith('llama_index') for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "count", str(folder), "--model", "gpt-4"],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_model_must_be_named():
    """Without `--model` there is one line, and nothing is counted."""
    done = subprocess.run([*COMMAND, "-"], capture_output=True, text=True, check=False, input="x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--model" in done.stderr
