"""`%%tokens` in a real kernel and a real terminal: what ran in a cell, and nothing else."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient ipykernel")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel", reason="needs ipykernel")

SETUP = """
import asyncio, contextvars, threading, time
from concurrent.futures import ThreadPoolExecutor
from llama_index.core.callbacks import CallbackManager
from llama_token_tracker import TokenCountingHandler
from tests.scripted import Scripted, reported
%load_ext llama_token_tracker
token_counter = TokenCountingHandler()
llm = Scripted(raw=reported(1201, 77), callback_manager=CallbackManager([token_counter]))
old_pool = ThreadPoolExecutor(1)
old_pool.submit(int).result();
"""

CELL = 1201 + 77
"""What every call is reported to have used."""


class Kernel:
    """A kernel in which cells run, one after another."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._cells = client.nb.cells

    def run(self, source: str) -> list[Any]:
        """Run a cell; its outputs."""
        cell = nbformat.v4.new_code_cell(source.strip("\n"))
        self._cells.append(cell)
        self._client.execute_cell(cell, len(self._cells) - 1, store_history=True)
        return cell.outputs

    def calls(self, source: str) -> int:
        """Run a cell; how many calls its card shows."""
        return calls_on(card_in(self.run(source)))


def card_in(outputs: list[Any]) -> dict[str, str]:
    """The one card among outputs, by type of content."""
    (found,) = [
        output.data
        for output in outputs
        if output.output_type == "display_data" and "ltt" in output.data.get("text/html", "")
    ]
    return found


def calls_on(card: dict[str, str]) -> int:
    """How many calls a card shows, the same in both forms."""
    found = re.search(r": (\d+) calls?, (\d[\d,]*) tokens", card["text/plain"])
    assert found, card["text/plain"]
    count = int(found[1])
    assert int(found[2].replace(",", "")) == count * CELL
    assert f">{count} call" in card["text/html"]
    return count


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """A kernel with a handler and a model that it hears."""
    client = nbclient.NotebookClient(
        nbformat.v4.new_notebook(),
        allow_errors=True,
        timeout=120,
        # A kernel may send what is printed in pieces.
        coalesce_streams=True,
        # From here the kernel imports `tests.scripted`.
        resources={"metadata": {"path": str(Path(__file__).parents[2])}},
    )
    with client.setup_kernel():
        kernel = Kernel(client)
        outputs = kernel.run(SETUP)
        assert not outputs, outputs
        yield kernel


pytestmark = [
    pytest.mark.notebook,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def test_a_cell_shows_its_own_calls(kernel: Kernel):
    """Neither what ran before nor what runs after."""
    kernel.run("llm.complete('before')")
    assert kernel.calls("%%tokens\nllm.complete('a')\nllm.complete('b');") == 2
    assert kernel.calls("%%tokens\nllm.complete('c');") == 1


def test_a_cell_without_calls_says_so(kernel: Kernel):
    """A card of zero calls, and of no cost, under the cell's number."""
    value, card = kernel.run("%%tokens\n1 + 1")
    assert calls_on(card.data) == 0
    heading = f"In [{value.execution_count}]: 0 calls, 0 tokens, no cost\n"
    assert card.data["text/plain"].startswith(heading)


def test_its_last_value_still_shows(kernel: Kernel):
    """Before the card, as the cell's own output."""
    outputs = kernel.run("%%tokens\nllm.complete('x').text")
    assert [output.output_type for output in outputs] == ["execute_result", "display_data"]
    assert outputs[0].data["text/plain"] == "'hi'"


def test_a_cell_may_await(kernel: Kernel):
    """Top-level await works, and tasks count too."""
    source = "%%tokens\nawait llm.acomplete('a')\nawait asyncio.gather(*[llm.acomplete('b')] * 1)"
    assert kernel.calls(source) == 2
    assert kernel.calls("%%tokens\nasync def f():\n    await llm.acomplete('c')\nawait f()") == 1


def test_an_error_shows_and_so_does_what_was_used(kernel: Kernel):
    """The error as usual, with the cell's own line number; then the card."""
    outputs = kernel.run("%%tokens\nllm.complete('x')\n1 / 0")
    assert [output.output_type for output in outputs] == ["error", "display_data"]
    assert outputs[0].ename == "ZeroDivisionError"
    assert "3 1 / 0" in re.sub(r"\x1b\[[\d;]*m", "", "\n".join(outputs[0].traceback))
    assert calls_on(card_in(outputs)) == 1
    assert kernel.calls("%%tokens\nllm.complete('after');") == 1


def test_an_error_after_an_await_shows_too(kernel: Kernel):
    """The same in a cell that runs as a task."""
    outputs = kernel.run("%%tokens\nawait llm.acomplete('x')\nawait llm.acomplete()")
    assert [output.output_type for output in outputs] == ["error", "display_data"]
    assert calls_on(card_in(outputs)) == 1


def test_threads_of_the_cell_count(kernel: Kernel):
    """Also without its context, and those that they start; so does work for older executors."""
    source = """
%%tokens
def deeper():
    llm.complete('b')
    inner = threading.Thread(target=llm.complete, args=('c',))
    inner.start(); inner.join()
threads = [threading.Thread(target=llm.complete, args=('a',)), threading.Thread(target=deeper)]
for thread in threads: thread.start()
for thread in threads: thread.join()
with ThreadPoolExecutor(2) as pool:
    list(pool.map(llm.complete, 'de'))
old_pool.submit(llm.complete, 'f').result()
await asyncio.to_thread(llm.complete, 'g')
"""
    assert kernel.calls(source) == 7


def test_what_an_earlier_cell_left_running_is_not_counted(kernel: Kernel):
    """Neither its tasks nor its threads, nor the work it gave to an executor."""
    kernel.run("""
async def until(event):
    while not event.is_set():
        await asyncio.sleep(0.01)
    await llm.acomplete('task')
go = threading.Event()
before = token_counter.total_llm_token_count
async def start():
    global task
    task = asyncio.create_task(until(go))
await start()
thread = threading.Thread(target=lambda: (go.wait(), llm.complete('thread')))
thread.start()
work = old_pool.submit(lambda: (go.wait(), llm.complete('pool')))
""")
    source = "%%tokens\nllm.complete('mine')\ngo.set(); thread.join(); work.result(); await task;"
    assert kernel.calls(source) == 1
    (output,) = kernel.run(f"(token_counter.total_llm_token_count - before) // {CELL}")
    assert output.data["text/plain"] == "4"


def test_what_a_measured_cell_left_running_is_not_counted_either(kernel: Kernel):
    """It goes on to be that cell's; its executor's threads work for whoever gives them work."""
    kernel.run("""
%%tokens
go, pool = threading.Event(), ThreadPoolExecutor(1)
thread = threading.Thread(target=lambda: (go.wait(), llm.complete('thread')))
thread.start()
pool.submit(llm.complete, 'pool').result()
""")
    source = "%%tokens\npool.submit(llm.complete, 'x').result()\ngo.set(); thread.join()"
    assert kernel.calls(source) == 1
    before = kernel.run("print(token_counter.by('scope')[None].calls)")[0].text
    kernel.run("pool.submit(llm.complete, 'unmeasured').result()")
    after = kernel.run("print(token_counter.by('scope')[None].calls)")[0].text
    assert int(after) == int(before) + 1


def test_handlers_made_in_the_cell_are_heard(kernel: Kernel):
    """The cell that sets everything up may be measured, too."""
    source = """
%%tokens
other = TokenCountingHandler()
Scripted(raw=reported(1201, 77), callback_manager=CallbackManager([other])).complete('x');
"""
    assert kernel.calls(source) == 1


def test_each_handler_that_heard_calls_has_a_card(kernel: Kernel):
    """And it's said that a call may be on several."""
    outputs = kernel.run("""
%%tokens
both = CallbackManager([token_counter, TokenCountingHandler()])
Scripted(raw=reported(1201, 77), callback_manager=both).complete('x');
""")
    assert outputs[0].text.startswith("2 handlers heard calls")
    assert [calls_on(output.data) for output in outputs[1:]] == [1, 1]


def test_cells_may_be_nested(kernel: Kernel):
    """A cell that runs another shows its own card and the other's."""
    outputs = kernel.run("""
%%tokens outer
llm.complete('a')
get_ipython().run_cell("%%tokens inner\\nllm.complete('b');")
get_ipython().run_cell_magic("tokens", "magic", "llm.complete('c');")
None
""")
    cards = [output.data for output in outputs if output.output_type == "display_data"]
    titles = [card["text/plain"].split(":")[0] for card in cards]
    assert titles == ["outer/inner", "outer/magic", "outer"]
    assert [calls_on(card) for card in cards] == [1, 1, 3]


def test_scopes_and_other_magics_work_within(kernel: Kernel):
    """Scopes of one's own lie in the cell's; `%%time` below or above it changes nothing."""
    outputs = kernel.run("""
%%tokens work
with token_counter.scope('request') as scope:
    llm.complete('x')
print(scope.path)
""")
    assert outputs[0].text == "work/request\n"
    assert calls_on(card_in(outputs)) == 1
    assert kernel.calls("%%tokens\n%%time\nllm.complete('x');") == 1
    assert kernel.calls("%%time\n%%tokens\nllm.complete('x');") == 1


def test_the_card_of_a_handler_is_a_value(kernel: Kernel):
    """A handler, a scope and an event as a cell's last line show HTML, and text elsewhere."""
    for thing in ("token_counter", "token_counter.llm_token_counts[-1]", "scope"):
        (output,) = kernel.run(thing)
        assert output.data["text/html"].startswith('<div class="ltt">'), thing
        assert output.data["text/plain"]


def test_a_terminal_shows_the_table():
    """In IPython without a notebook, where each cell that awaits has a loop run for it."""
    cells = [
        "llm.complete('before');",
        "%%tokens alone\nllm.complete('a')\nawait llm.acomplete('b');",
        "llm.complete('after');",
        "%%tokens sync\nllm.complete('c');",
    ]
    done = subprocess.run(
        [sys.executable, "-c", TERMINAL, json.dumps([SETUP, *cells])],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=Path(__file__).parents[2],
        check=True,
        timeout=120,
    )
    assert re.findall(r"^(\w+): (\d+) calls?,", done.stdout, re.MULTILINE) == [
        ("alone", "2"),
        ("sync", "1"),
    ]
    assert "<div" not in done.stdout


TERMINAL = """
import json, sys
from IPython.terminal.interactiveshell import TerminalInteractiveShell
shell = TerminalInteractiveShell.instance(simple_prompt=True)
shell.history_manager.enabled = False
for cell in json.loads(sys.argv[1]):
    shell.run_cell(cell.strip(), store_history=True)
"""


def test_it_can_be_unloaded(kernel: Kernel):
    """Then threads are as they were, and the magic is unknown; it can be loaded again."""
    (output,) = kernel.run("""
%unload_ext llama_token_tracker
print(threading.Thread.start.__module__, ThreadPoolExecutor.submit.__module__)
""")
    assert output.text == "threading concurrent.futures.thread\n"
    assert kernel.run("%%tokens\n1")[-1].output_type in {"error", "stream"}
    kernel.run("%load_ext llama_token_tracker")
    assert kernel.calls("%%tokens\nllm.complete('x');") == 1
