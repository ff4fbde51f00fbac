"""`report` and `watch-ledger`: what they print of a ledger, and what they refuse."""

import csv
import io
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from rich.cells import cell_len

from llama_token_tracker import Ledger, Usage, cli, watch
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.sinks.ledger.filled import calls, event, fill

COMMAND = (sys.executable, "-m", "llama_token_tracker")
HOSTILE = "[bold]\x1b[31mred\x1b[0m\u202e|`<b>\r\n\x07"


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    """A ledger of a few hundred calls."""
    path = str(tmp_path / "usage.db")
    fill(path, calls(300))
    return path


@pytest.fixture
def printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run a command that must work, in so many columns, and give what it has printed."""

    def run(*arguments: str, columns: int | None = None) -> str:
        monkeypatch.delenv("COLUMNS", raising=False)
        if columns is not None:
            monkeypatch.setenv("COLUMNS", str(columns))
        capsys.readouterr()
        assert cli.main(arguments) == 0
        return capsys.readouterr().out

    return run


def test_a_report_of_what_an_sdk_has_called(tmp_path: Path, printed: Callable[..., str]) -> None:
    """The figures are those that the provider has reported, the cost is the tracker's."""
    usage = Usage(input_tokens=7_013, output_tokens=419, cache_read_tokens=3_001)
    path = tmp_path / "usage.db"
    with LoopbackProvider(Reply(usage=usage)) as provider, watch(ledger=path) as watched:
        with (
            watched.tracker.scope("request", user="ada"),
            OpenAI(**provider.arguments("openai")) as client,
        ):
            for _ in range(3):
                client.chat.completions.create(
                    model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}]
                )
        assert watched.tracker.flush(30)
        cost = watched.tracker.total_cost_usd
    answer = json.loads(printed("report", str(path), "--by", "user,model", "--json"))
    (row,) = answer["rows"]
    assert row["group"] == {"user": "ada", "model": "gpt-4o-mini"}
    assert (row["calls"], row["input_tokens"], row["cache_read_tokens"]) == (3, 21_039, 9_003)
    assert Decimal(row["cost_usd"]) == cost
    shown = printed("report", str(path), "--by", "user,model")
    assert "21,039" in shown


def test_all_shapes_say_the_same(ledger: str, printed: Callable[..., str]) -> None:
    """A table and Markdown end with a total; CSV has none, as that would be added up too."""
    command = ("report", ledger, "--by", "month,user", "--zone", "Europe/Berlin")
    answer = json.loads(printed(*command, "--json"))
    assert (answer["by"], answer["zone"]) == (["month", "user"], "Europe/Berlin")
    rows = list(csv.DictReader(io.StringIO(printed(*command, "--csv"))))
    assert sum(int(row["calls"]) for row in rows) == answer["total"]["calls"] == 300
    costs = [Decimal(row["cost_usd"]) for row in rows if row["cost_usd"]]
    assert sum(costs) == Decimal(answer["total"]["cost_usd"])
    assert [row["user"] for row in rows] == [row["group"]["user"] or "" for row in answer["rows"]]
    markdown = printed(*command, "--markdown").splitlines()
    assert len(markdown) == len(rows) + 3
    assert {line.count("|") for line in markdown} == {13}
    table = printed(*command)
    for text in (table, markdown[-1]):
        assert "300" in text
        assert f"{answer['total']['input_tokens']:,}" in text
    assert "clocks of Europe/Berlin" in table


def test_a_narrow_terminal_drops_columns_and_says_which(
    ledger: str, printed: Callable[..., str]
) -> None:
    """Nothing is cut, and input, output and cost stay."""
    whole = printed("report", ledger, "--by", "day,model")
    assert "no room" not in whole
    for columns in (60, 80, 120):
        shown = printed("report", ledger, "--by", "day,model", columns=columns)
        assert all(len(line) <= columns for line in shown.splitlines())
        assert "…" not in shown
        titles = next(line for line in shown.splitlines() if "Input" in line).split()
        assert {"Day", "Model", "Input", "Output", "Cost"} <= set(titles)
        assert ("no room for" in shown) == ("Reasoning" not in titles)


@pytest.mark.parametrize("columns", [40, 80, 99, 100, 200])
def test_names_of_any_width_are_whole_and_figures_stand_below_each_other(
    columns: int, tmp_path: Path, printed: Callable[..., str]
) -> None:
    """Whether a row is a line, or a name goes on in the next one."""
    path = str(tmp_path / "usage.db")
    names = ["ada", "日本語のユーザー", "x" * 61, "e\u0301e\u0301", "[bold]b[/bold]"]
    fill(path, [event(tags={"user": name, "z" * 36: name}) for name in [*names, None]])
    for by in ("user", "z" * 36, f"user,{'z' * 36}"):
        shown = printed("report", path, "--by", by, columns=columns).splitlines()
        assert max(map(cell_len, shown)) <= columns
        rows = [line for line in shown if "$" in line]
        assert len(rows) == len(names) + 2
        assert len({cell_len(line.rstrip()) for line in rows}) == 1
        said = "".join("".join(shown).lower().split())
        assert said.count("x") == 61 * len(by.split(","))
        assert said.count("z") == by.count("z")
        assert columns < 200 or all(name.lower() in said for name in names)


def test_an_empty_ledger_and_an_empty_time_say_so(
    tmp_path: Path, ledger: str, printed: Callable[..., str]
) -> None:
    """And so do programs' shapes."""
    Ledger(tmp_path / "empty.db").close()
    assert "No calls." in printed("report", str(tmp_path / "empty.db"), "--by", "user")
    assert "No calls." in printed("report", ledger, "--until", "2020-01-01")
    answer = json.loads(printed("report", str(tmp_path / "empty.db"), "--json"))
    assert (answer["rows"], answer["total"]["calls"]) == ([], 0)


def test_hostile_labels_are_inert(tmp_path: Path, printed: Callable[..., str]) -> None:
    """Neither a terminal nor rich nor Markdown obeys a tag, a model or a scope."""
    path = str(tmp_path / "usage.db")
    fill(path, [event(model=HOSTILE, scope=HOSTILE, tags={HOSTILE: HOSTILE})])
    for shape in ((), ("--markdown",)):
        shown = printed("report", path, "--by", f"model,scope,{HOSTILE}", *shape)
        assert not [sign for sign in shown if sign != "\n" and not sign.isprintable()]
        assert "[bold]" in shown.replace("\\", "")
    markdown = printed("report", path, "--by", "model", "--markdown")
    assert re.search(r"(?<!\\)[`<]", markdown) is None
    answer = json.loads(printed("report", path, "--by", "model", "--json"))
    assert answer["rows"][0]["group"]["model"] == HOSTILE.replace("\x00", "")


def test_the_ledger_is_the_environments_or_the_folders(
    ledger: str, printed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In that order, if none is named."""
    monkeypatch.chdir(Path(ledger).parent)
    assert "300" in printed("report")
    monkeypatch.chdir("/")
    monkeypatch.setenv("LLAMA_TOKEN_TRACKER_LEDGER", ledger)
    assert "300" in printed("report")


def test_reading_makes_and_changes_nothing(
    tmp_path: Path, ledger: str, capsys: pytest.CaptureFixture[str], printed: Callable[..., str]
) -> None:
    """A file that isn't there isn't made, another program's isn't touched, nor a ledger."""
    with closing(sqlite3.connect(tmp_path / "foreign.db")) as connection:
        connection.execute("CREATE TABLE t (x)")
    (tmp_path / "text.db").write_text("no database " * 99)
    (tmp_path / "none").touch()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, said in (
        ("nowhere.db", "there is no such file"),
        ("foreign.db", "is no ledger"),
        ("text.db", "not a database"),
        ("none", "is no ledger"),
        (".", "is a folder"),
        ("sqlite:///:memory:", "memory"),
        ("mysql://x/y", "can't be kept in"),
        ("postgresql://nobody@127.0.0.1:9/none", "can't be read"),
    ):
        target = name if ":" in name else str(tmp_path / name)
        assert cli.main(["report", target]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    printed("report", ledger)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "usr"], "no call has a tag 'usr'"),
        (["--by", "day,,model"], "empty name"),
        (["--since", "tomorow"], "is no time"),
        (["--since", "2026-03-29", "--until", "2026-03-29"], "no later than"),
        (["--zone", "Europe/Atlantis"], "no time zone"),
        (["--zone", "../../etc/passwd"], "no time zone"),
        (["--where", "user"], "no NAME=VALUE"),
        (["--where", "week=1"], "--since"),
        (["--every", "nan", "--live"], "number of seconds"),
        (["--json", "--csv"], "not allowed with"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    arguments: list[str], said: str, ledger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, nothing on stdout."""
    try:
        code: Any = cli.main(["report", ledger, *arguments])
    except SystemExit as ended:
        code = ended.code
    output = capsys.readouterr()
    assert (code, output.out, output.err.count("\n")) == (2, "", 1)
    assert said in output.err


def test_a_ledger_of_another_schema_is_refused(
    ledger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what helps."""
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("UPDATE ledger_meta SET value = '99'")
        connection.commit()
    assert cli.main(["report", ledger]) == 2
    assert "has schema 99" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_watching_prints_a_line_an_interval_until_it_is_interrupted(tmp_path: Path) -> None:
    """Where there's no terminal; what is written meanwhile is in the next line."""
    path = str(tmp_path / "usage.db")
    fill(path, [event()])
    command = [*COMMAND, "watch-ledger", path, "--every", "0.2", "--since", "2020-01-01"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        first = watching.stdout.readline().decode()
        with Ledger(path) as ledger:
            ledger(event(started_s=time.time()))
        lines = iter(watching.stdout.readline, b"")
        second = next(line.decode() for line in lines if b"2 calls" in line)
        watching.send_signal(signal.SIGINT)
        _, error = watching.communicate(timeout=20)
    assert (watching.returncode, error) == (0, b"")
    assert "last minute: 0 tokens, $0, 0 calls; in all 1 call, 1,224 tokens" in first
    assert "last minute: 1,224 tokens, $0.004" in second


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a terminal of its own")
def test_watching_redraws_a_terminal(ledger: str) -> None:
    """`report --live` does the same; Ctrl-C ends it, with the cursor shown again."""
    main, end = pty.openpty()
    command = [*COMMAND, "report", ledger, "--live", "--every", "0.2", "--by", "model"]
    with subprocess.Popen(
        command, stdin=end, stdout=end, stderr=end, env={**os.environ, "TERM": "xterm"}
    ) as watching:
        os.close(end)
        shown = ""
        while shown.count("last minute:") < 2:
            shown += os.read(main, 65_536).decode(errors="replace")
        watching.send_signal(signal.SIGINT)
        while True:
            try:
                more = os.read(main, 65_536)
            except OSError:  # Linux says so of a terminal that is closed
                break
            if not more:
                break
            shown += more.decode(errors="replace")
        assert watching.wait(20) == 0
    os.close(main)
    assert "Traceback" not in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_repricing_shows_first_and_writes_if_told(
    ledger: str, printed: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A table by model; nothing changes if the list says what it said."""
    shown = printed("reprice", ledger)
    assert "gpt-4o-mini" in shown
    printed("report", ledger)
    assert cli.main(["reprice", ledger, "--write"]) == 0
    assert "0 calls were written" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["reprice", ledger, "--as-of", "yesterday"])
    assert ended.value.code == 2
