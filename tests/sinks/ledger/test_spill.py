"""Files of calls that wait for their database: whose they are, and what may be in them."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llama_token_tracker import Ledger, TokenCountingEvent
from llama_token_tracker._log_once import forget_notices
from llama_token_tracker.sinks.ledger.engine import url_of
from llama_token_tracker.sinks.ledger.records import Record, id_of, identified, record_of, to_json
from llama_token_tracker.sinks.ledger.spill import SpillFile, leftovers, places_of, write_back
from tests.needs import left_out_if
from tests.sinks.ledger.faults import rows, wrong_sums

WAIT_S = 20.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a ledger is; temporary files are beside it."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def _records(number: int, **fields: Any) -> list[Record]:
    process = identified("run", "host", 1, 0, "main")
    events = [TokenCountingEvent("", "", 5, 7, **fields) for _ in range(number)]
    return [record_of(event, process, 0, texts=False) for event in events]


def _left(folder: Path, records: Sequence[Record], ending: bytes = b"") -> Path:
    """A file that a process has left that is no more."""
    folders, stem = places_of(url_of(str(folder / "usage.db")))
    spill = SpillFile(folders, stem)
    assert spill.add(records, is_durable=True)
    spill.close()
    assert spill.path is not None
    with spill.path.open("ab") as file:
        file.write(ending)
    return spill.path


def _written(folder: Path) -> set[str]:
    found = rows(str(folder / "usage.db"))
    assert wrong_sums(str(folder / "usage.db")) is None
    return found


def _ids(records: Sequence[Record]) -> set[str]:
    return set(map(id_of, records))


def test_what_others_left_is_written_and_their_file_removed(folder: Path) -> None:
    """Whatever its process was, on this host or on another one with the same folder."""
    records = _records(7_500)
    path = _left(folder, records)
    assert _written(folder) == _ids(records)
    assert not path.exists()


def test_what_was_written_already_is_not_written_again(folder: Path) -> None:
    """As by a process that was killed before it had removed its file."""
    records = _records(30)
    copy = _left(folder, records).read_bytes()
    assert _written(folder) == _ids(records)
    again = _left(folder, [], copy)
    assert _written(folder) == _ids(records)
    assert not again.exists()


HOSTILE = {
    "cut": lambda line: line[: len(line) // 2],
    "no JSON": lambda _: b"\x00\xff\xfe junk",
    "not UTF-8": lambda line: line.replace(b'"', b'"\xff', 1),
    "an object": lambda _: b'{"id": "1"}',
    "deep": lambda _: b"[" * 100_000,
    "short": lambda line: json.dumps(json.loads(line)[:-1]).encode(),
    "a huge number": lambda line: line.replace(b"5,", b"9" * 30 + b",", 1),
    "digits": lambda _: b"[" + b"9" * 10_000 + b"]",
    "no id": lambda line: json.dumps(
        [["not hex", *json.loads(line)[0][1:]], *json.loads(line)[1:]]
    ).encode(),
    "text for a number": lambda line: json.dumps(
        [[json.loads(line)[0][0], "then", *json.loads(line)[0][2:]], *json.loads(line)[1:]]
    ).encode(),
    "NaN": lambda line: line.replace(b"null", b"NaN", 1),
    "a surrogate": lambda line: line.replace(b"host", b"\\ud800", 1),
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_line_that_is_none_costs_no_other(
    folder: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It's left out, and said; those before and after it are written."""
    before, odd, after = _records(3), _records(1), _records(3)
    line = HOSTILE[kind](to_json(odd[0]).encode())
    lines = [line, *(to_json(one).encode() for one in after)]
    path = _left(folder, before, b"\n".join(lines) + b"\n")
    assert _written(folder) - _ids(odd) == _ids(before) | _ids(after)
    assert "can't be read" in caplog.text
    assert not path.exists()


def test_a_file_whose_process_lives_is_left_to_it(folder: Path) -> None:
    """And it may go on adding to it."""
    folders, stem = places_of(url_of(str(folder / "usage.db")))
    spill = SpillFile(folders, stem)
    records = _records(4)
    assert spill.add(records[:2], is_durable=False)
    assert spill.path is not None
    assert _written(folder) == set()
    assert spill.path.exists()
    assert spill.add(records[2:], is_durable=False)
    spill.close()
    assert _written(folder) == _ids(records)


def test_a_file_whose_process_was_killed_is_taken_over(folder: Path) -> None:
    """With the half of a line at its end left out."""
    program = (
        "import sys, time\n"
        "from tests.sinks.ledger.test_spill import _records\n"
        "from llama_token_tracker.sinks.ledger.engine import url_of\n"
        "from llama_token_tracker.sinks.ledger.records import id_of, to_json\n"
        "from llama_token_tracker.sinks.ledger.spill import SpillFile, places_of\n"
        "import os\n"
        "folders, stem = places_of(url_of(sys.argv[1]))\n"
        "spill, records = SpillFile(folders, stem), _records(3)\n"
        "assert spill.add(records, is_durable=False)\n"
        "os.write(spill._file, to_json(records[0]).encode()[:40])\n"
        "print(*map(id_of, records), flush=True)\n"
        "time.sleep(60)\n"
    )
    place = str(folder / "usage.db")
    with subprocess.Popen(
        [sys.executable, "-c", program, place], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        said = set(process.stdout.readline().decode().split())
        assert len(said) == 3
        assert _written(folder) == set()
        process.send_signal(signal.SIGKILL)
    assert _written(folder) == said


def test_only_ones_own_files_are_read_and_removed(folder: Path, tmp_path: Path) -> None:
    """Among temporary ones anybody may make a file or a link of such a name."""
    records = _records(1)
    path = _left(folder, records)
    elsewhere = path.rename(tmp_path / "elsewhere.jsonl")
    path.symlink_to(elsewhere)
    pipe = path.with_name(path.name.replace(".spill", "-pipe.spill"))
    os.mkfifo(pipe)
    assert _written(folder) == set()
    assert elsewhere.stat().st_size
    assert path.is_symlink()
    assert pipe.exists()


@left_out_if(os.getuid() != 0, "only root can give a file away")
def test_a_file_of_another_user_is_left_alone(folder: Path) -> None:
    """It may say what it wants."""
    path = _left(folder, _records(1))
    os.chown(path, 1, 1)
    assert _written(folder) == set()
    assert path.stat().st_size


def test_nobody_else_may_read_what_is_aside(folder: Path, tmp_path: Path) -> None:
    """Texts may be in it."""
    path = _left(folder, _records(1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    folders, stem = places_of(url_of("postgresql+psycopg://ada:secret@nowhere/usage"))
    spill = SpillFile(folders, stem)
    assert spill.add(_records(1), is_durable=False)
    spill.close()
    assert spill.path is not None
    assert spill.path.is_relative_to(tmp_path / "temporary")
    assert stat.S_IMODE(spill.path.parent.stat().st_mode) == 0o700
    assert "secret" not in str(spill.path)


def test_a_link_in_place_of_ones_own_temporary_folder_is_not_followed(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has made it would read along."""
    folders, stem = places_of(url_of("postgresql+psycopg://nowhere/usage"))
    trap = tmp_path / "trap"
    trap.mkdir()
    folders[0].symlink_to(trap)
    assert not SpillFile(folders, stem).add(_records(1), is_durable=False)
    assert leftovers(folders, stem) == []
    assert list(trap.iterdir()) == []
    assert "can't be put aside" in caplog.text


def test_a_database_that_goes_in_the_midst_has_all_of_a_file_later(folder: Path) -> None:
    """The file stays as it is; what had been written isn't written again."""
    records = _records(7_500)
    path = _left(folder, records)
    taken: list[Record] = []

    def write(batch: Sequence[Record]) -> None:
        if taken:
            raise ConnectionError
        taken.extend(batch)

    with pytest.raises(ConnectionError):
        write_back(path, write)
    assert 0 < len(taken) < len(records)
    assert _written(folder) == _ids(records)
    assert not path.exists()


def test_a_ledger_that_is_open_takes_over_what_others_leave(folder: Path) -> None:
    """Without a call of its own it does when it's opened; with calls, now and then."""
    forget_notices()
    with Ledger(folder / "usage.db", flush_every_s=0.05) as ledger:
        records = _records(3)
        path = _left(folder, records)
        until = time.monotonic() + WAIT_S
        while path.exists():
            assert time.monotonic() < until
            ledger(TokenCountingEvent("", "", 5, 7))
            time.sleep(0.1)
    assert _ids(records) <= _written(folder)
