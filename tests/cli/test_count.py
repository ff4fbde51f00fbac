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
    assert out.split()[-5:] == ["2", "in", "all", str(sum(texts)), "$0.0000150"]
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


def test_a_file_with_three_names_is_counted_once(folder: Path, count: Count):
    """By the first of them, whether it's another path, a symbolic link or a hard one."""
    file = folder / "a.txt"
    (folder / "z-link.txt").symlink_to(file)
    (folder / "z-hard.txt").hardlink_to(file)
    _, out, err = count(folder / "sub" / ".." / "a.txt", file, folder, "--json")
    names = [item["path"] for item in json.loads(out)["files"]]
    assert names == [str(folder / "sub" / ".." / "a.txt"), str(folder / "sub" / "b.md")]
    assert err == ""


def test_links_that_lead_to_no_file_are_named(folder: Path, count: Count):
    """A link to nowhere, to itself or to a folder isn't left out in silence."""
    (folder / "nowhere").symlink_to(folder / "gone")
    (folder / "itself").symlink_to(folder / "itself")
    (folder / "folder").symlink_to(folder / "sub")
    code, out, err = count(folder, "--json")
    answer = json.loads(out)
    assert (code, len(answer["files"])) == (0, 2)
    names = ["folder", "itself", "nowhere"]
    assert [Path(item["path"]).name for item in answer["skipped"]] == names
    assert err.count("can't be read") == 3
    code, out, err = count(folder / "nowhere")
    assert (code, out) == (2, "")
    assert "nowhere is a link that leads nowhere" in err


TEXTS = {
    "words": "The tally stick, split in 2; it's 'notched'.  Twice\n\n",
    "code": "def f(x):\n    return {\n        x: 1,\n    }\n",
    "lines": "你好世界的人们\n今天天气很好。\n",
    "table": "a\tb\t\tc \r\n 1\t2\t3\r\n",
}


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4", "gpt2", "claude-2.1", "nobodys-model"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_in_pieces_has_the_tokens_of_the_whole(
    text: str, model: str, tmp_path: Path, count: Count
):
    """Texts longer than what is read at once are cut only where they are split anyway."""
    whole = TEXTS[text] * (600_000 // len(TEXTS[text]))
    (tmp_path / "long.txt").write_bytes(whole.encode())
    _, out, _ = count(tmp_path, "--json", model=model)
    assert json.loads(out)["tokens"] == count_tokens(whole, model=model)


def test_a_text_without_a_place_to_cut_is_counted(tmp_path: Path, count: Count):
    """It's cut somewhere in the end, so that it needs no more memory than another."""
    (tmp_path / "long.txt").write_bytes("好".encode() * 1_500_000)
    _, out, _ = count(tmp_path, "--json")
    expected = count_tokens("好" * 1_500_000, model="gpt-4o")
    assert json.loads(out)["tokens"] == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("end", [b"\xe4\xbd", b"\xff\xfe"])
def test_a_late_byte_that_is_no_text_is_named(end: bytes, tmp_path: Path, count: Count):
    """Its place is told as that in the whole file."""
    start = "好 ".encode() * 100_000
    (tmp_path / "late.txt").write_bytes(start + end)
    code, _, err = count(tmp_path)
    assert code == 2
    assert f"byte {len(start)} can't be decoded" in err


MORE_MEMORY = """
import resource, sys
from llama_token_tracker import cli

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

small, large = sys.argv[1:]
cli.main(["count", small, "--model", "gpt-4"])
before = peak()
cli.main(["count", large, "--model", "gpt-4"])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the unit is another")
def test_fifty_megabytes_take_little_memory(tmp_path: Path):
    """A long file is read piece by piece."""
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text("Hello, world!")
    with large.open("w") as file:
        for number in range(50):
            file.write(f"A line of text, {number} and more of it\n" * 32_000)
    assert large.stat().st_size > 50_000_000
    done = subprocess.run(
        [sys.executable, "-c", MORE_MEMORY, small, large],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    *_, more_mib = done.stdout.split()
    assert int(more_mib) < 100
    assert done.stdout.count("1 in all") == 2


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
