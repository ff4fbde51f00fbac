"""Files, names, terminals and pipes of any kind: one line that says why, and nothing is obeyed."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

COMMAND = f"{sys.executable} -m llama_token_tracker"
COUNT = f"{COMMAND} count --model gpt-4o"
OBEYED = "\x1b]0;x\x07\x1b[2J\r\u202e\x85.txt"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="needs a shell, pipes and devices"),
]


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command of the shell, that may take neither long nor much memory."""
    return subprocess.run(
        f"ulimit -v 4000000; {command}",
        shell=True,
        executable="/bin/bash",
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=30,
        check=False,
    )


def lines(said: bytes) -> Sequence[str]:
    """What was said, without anything that a terminal would obey."""
    text = said.decode()
    assert not [sign for sign in text if sign != "\n" and not sign.isprintable()]
    assert "Traceback" not in text
    return text.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One of each: a text whose name is hostile, a pipe, a file of holes, and a binary one."""
    (tmp_path / OBEYED).write_text("Hello, world!", encoding="utf-8")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(10 * 1024**3)
    return tmp_path


REASONS = {
    "/dev/zero": "binary",
    "/proc/self/mem": "can't be read",
    "pipe": "an empty pipe",
    "holes": "binary",
    "binary": "no UTF-8 text",
}


@pytest.mark.parametrize(("stdin", "reason"), [("<&-", "closed"), ("< <(yes)", "than 256 MiB")])
def test_what_cannot_be_counted_is_skipped_in_one_line(stdin: str, reason: str, folder: Path):
    """It's read no further than needed, and where nothing is left the exit status is 2."""
    done = run(f"{COUNT} - {' '.join(REASONS)} {stdin}", folder)
    assert (done.returncode, done.stdout) == (2, b"")
    *skipped, error = lines(done.stderr)
    assert error.endswith("error: there was nothing to count")
    for line, why in zip(skipped, [reason, *REASONS.values()], strict=True):
        assert why in line


@pytest.mark.parametrize("given", ["x" * 5_000, "$'\\x1b[2J'"])
def test_a_path_that_leads_nowhere_is_one_line(given: str, folder: Path):
    """Even one that is too long for the operating system, or that a terminal would obey."""
    done = run(f"{COUNT} {given}", folder)
    assert (done.returncode, done.stdout) == (2, b"")
    assert len(lines(done.stderr)) == 1


def test_a_terminal_obeys_nothing(folder: Path):
    """Names of files and models are shown, their control characters as pictures."""
    done = run(f"{COUNT[:-6]} $'m\\x1b[2J' .", folder)
    assert done.returncode == 0
    assert "m\u241b[2J" in lines(done.stdout)[0]
    assert "\u241b]0;x" in done.stdout.decode()
    lines(done.stderr)


@pytest.mark.parametrize("command", [f"{COUNT} .", f"{COMMAND} demo"])
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii", "COLUMNS": "1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "1000000000"},
    ],
    ids=str,
)
def test_any_terminal_will_do(command: str, environment: dict[str, str], folder: Path):
    """One that knows ASCII alone, or is narrow, or absurdly wide."""
    done = run(command, folder, **environment)
    assert done.returncode == 0
    shown = lines(done.stdout)
    assert max(map(len, shown)) <= 1_000
    assert done.stdout.isascii()


@pytest.mark.parametrize("command", [f"{COUNT} .", f"{COUNT} . --json", f"{COMMAND} demo"])
def test_a_closed_pipe_ends_it_quietly(command: str, folder: Path):
    """As with `| head`: not a word of it, and exit status 1."""
    done = run(f"{command} | true; exit ${{PIPESTATUS[0]}}", folder)
    assert done.returncode == 1
    assert all("skipped" in line for line in lines(done.stderr))


def test_a_full_disk_is_one_line(folder: Path):
    """What can't be written is no success."""
    done = run(f"{COUNT} *.txt > /dev/full", folder)
    assert done.returncode == 2
    (said,) = lines(done.stderr)
    assert "No space left" in said


def test_a_pipe_with_a_writer_is_counted(folder: Path):
    """So a program's output may be named like a file."""
    done = run(f"{COUNT} --json <(echo Hello)", folder)
    assert done.returncode == 0
    assert b'"tokens": 2' in done.stdout
