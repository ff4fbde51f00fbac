"""Our handler in the place of LlamaIndex's: whoever imports or derives from it there gets ours.

`llama_index.core.callbacks.token_counting.TokenCountingHandler` is replaced by our class, in new
interpreters where the order of imports matters. Then it has to do what LlamaIndex's own tests
ask of theirs, and what subclasses in public code rely on.
"""

import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, token_counting
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import CompletionResponse, MockLLM

import llama_token_tracker
from tests.scripted import EMBEDDING, HELLO, LLM, Scripted, answer, by_hand, reported, words

# --- in new interpreters --------------------------------------------------------------------

USE = """
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import MockLLM

def used(kind, *args):
    handler = kind(str.split, *args)
    MockLLM(callback_manager=CallbackManager([handler])).complete("one two three")
    assert len(handler.llm_token_counts) == 1, handler.llm_token_counts
    assert handler.total_llm_token_count == 6, handler.total_llm_token_count
    return handler
"""
THEIRS = """
from llama_index.core import callbacks
from llama_index.core.callbacks import token_counting
Theirs, TheirEvent = token_counting.TokenCountingHandler, token_counting.TokenCountingEvent
"""
OURS = """
import llama_token_tracker
from llama_token_tracker import TokenCountingHandler as Ours
"""
REPLACE = """
token_counting.TokenCountingHandler = callbacks.TokenCountingHandler = Ours
"""


def run(*parts: str) -> None:
    """Run a program in a new interpreter; it must end well, and print nothing."""
    program = "\n".join((*parts, ""))
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("imports", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours", "theirs"])
@pytest.mark.parametrize("module", ["token_counting", "callbacks"])
def test_one_module_may_be_replaced(imports: tuple[str, str], module: str) -> None:
    """Either module's name may lead to ours, whichever package was imported first."""
    run(
        *imports,
        f"{module}.TokenCountingHandler = llama_token_tracker.TokenCountingHandler",
        USE,
        f"from llama_index.core.callbacks{'.token_counting' if module != 'callbacks' else ''} "
        "import TokenCountingHandler",
        "handler = used(TokenCountingHandler)",
        "assert type(handler) is Ours",
    )


@pytest.mark.slow
@pytest.mark.parametrize("imports", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours", "theirs"])
def test_both_modules_may_be_replaced_twice(imports: tuple[str, str]) -> None:
    """A handler is an instance of the new name's class and of the old one."""
    run(
        *imports,
        REPLACE,
        REPLACE,
        USE,
        "handler = used(callbacks.TokenCountingHandler)",
        "assert isinstance(handler, callbacks.TokenCountingHandler)",
        "assert isinstance(handler, token_counting.TokenCountingHandler)",
        "assert isinstance(handler, Theirs) and Theirs is not Ours",
        "assert not isinstance(used(Theirs), token_counting.TokenCountingHandler)",
    )


@pytest.mark.slow
def test_the_class_may_be_replaced_before_our_module_is_loaded() -> None:
    """`import llama_token_tracker` loads no handler; naming it in the assignment does."""
    run(
        "import llama_token_tracker, llama_index.core.callbacks.token_counting",
        "llama_index.core.callbacks.token_counting.TokenCountingHandler = "
        "llama_token_tracker.TokenCountingHandler",
        USE,
        "used(llama_index.core.callbacks.token_counting.TokenCountingHandler)",
    )


@pytest.mark.slow
def test_a_replaced_class_may_be_derived_from() -> None:
    """A subclass of what LlamaIndex's module offers is one of ours, and of LlamaIndex's."""
    run(
        THEIRS,
        OURS,
        REPLACE,
        USE,
        "from llama_index.core.callbacks.token_counting import TokenCountingHandler as Base",
        "class Mine(Base):",
        "    def __init__(self, *args):",
        "        super().__init__(*args)",
        "    def on_event_end(self, *args, **kwargs):",
        "        super().on_event_end(*args, **kwargs)",
        "handler = used(Mine, [], [], False, None, 1_000)",
        "assert isinstance(handler, Theirs) and isinstance(handler, Ours)",
        "assert handler.token_budget == 1_000",
        # What had derived from LlamaIndex's class before stays what it was.
        "class Before(Theirs): pass",
        "assert not isinstance(used(Before), Ours)",
    )


@pytest.mark.slow
def test_an_alias_kept_before_stays_theirs() -> None:
    """`_TokenCountingHandler`, by which people get back to LlamaIndex's class, leads to it."""
    run(
        THEIRS,
        "token_counting._TokenCountingHandler = token_counting.TokenCountingHandler",
        OURS,
        REPLACE,
        USE,
        "assert isinstance(used(Ours), token_counting._TokenCountingHandler)",
        "assert type(used(token_counting._TokenCountingHandler)) is Theirs",
        "token_counting.TokenCountingHandler = token_counting._TokenCountingHandler",
        "assert type(used(token_counting.TokenCountingHandler)) is Theirs",
        "used(Ours)",
    )


@pytest.mark.slow
def test_an_alias_may_be_replaced_too() -> None:
    """So may a name under which somebody else has imported LlamaIndex's class."""
    run(
        THEIRS,
        "from llama_index.core.playground import base as elsewhere",
        OURS,
        "elsewhere.TokenCountingHandler = Ours",
        "callbacks._TokenCountingHandler = Ours",
        USE,
        "assert isinstance(used(elsewhere.TokenCountingHandler), Theirs)",
        "assert isinstance(used(callbacks._TokenCountingHandler), Theirs)",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "again",
    [
        "importlib.reload(llama_token_tracker.llama_index.handler)",
        "importlib.reload(llama_token_tracker)",
        # As notebooks do that want a newer version.
        "for name in [name for name in sys.modules if name.startswith('llama_token_tracker')]:\n"
        "    del sys.modules[name]",
    ],
    ids=["handler", "package", "everything"],
)
def test_our_modules_may_be_loaded_again(again: str) -> None:
    """A class that is loaded again derives from LlamaIndex's, not from ours in its place."""
    run(
        "import importlib, sys",
        THEIRS,
        OURS,
        REPLACE,
        USE,
        "before = used(Ours)",
        again,
        OURS,
        "assert isinstance(used(Ours), Theirs)",
        REPLACE,
        "handler = used(token_counting.TokenCountingHandler)",
        "assert isinstance(handler, Theirs) and type(handler) is Ours",
        "assert isinstance(handler.llm_token_counts[0], TheirEvent)",
        "before.reset_counts()",
        "assert before.total_llm_token_count == 0",
    )


@pytest.mark.slow
@pytest.mark.parametrize("first", ["event", "handler"])
def test_the_event_class_may_be_replaced_too(first: str) -> None:
    """LlamaIndex's event gives way to ours, before or after its handler does."""
    event = (
        "import llama_token_tracker",
        "token_counting.TokenCountingEvent = llama_token_tracker.TokenCountingEvent",
    )
    handler = (OURS, REPLACE)
    run(
        THEIRS,
        *((*event, *handler) if first == "event" else (*handler, *event)),
        USE,
        "(event,) = used(token_counting.TokenCountingHandler).llm_token_counts",
        "assert isinstance(event, token_counting.TokenCountingEvent)",
        "assert isinstance(event, llama_token_tracker.TokenCountingEvent)",
        # Whoever has replaced it before our handler was loaded has left us no way to it.
        f"assert isinstance(event, TheirEvent) is {first == 'handler'}",
    )


@pytest.mark.slow
def test_somebody_elses_class_may_stand_there_first() -> None:
    """Ours derives from LlamaIndex's even if a subclass of that has been put in its place."""
    run(
        THEIRS,
        "class Foreign(Theirs):",
        "    def __init__(self, needed): raise AssertionError",
        "token_counting.TokenCountingHandler = callbacks.TokenCountingHandler = Foreign",
        OURS,
        USE,
        "assert isinstance(used(Ours), Theirs) and not issubclass(Ours, Foreign)",
        REPLACE,
        "used(callbacks.TokenCountingHandler)",
    )


@pytest.mark.slow
def test_a_copy_of_their_class_may_stand_there_first() -> None:
    """A class that doesn't derive from LlamaIndex's is taken for it."""
    run(
        THEIRS,
        "class Copied(callbacks.PythonicallyPrintingBaseHandler):",
        "    def start_trace(self, trace_id=None): pass",
        "    def end_trace(self, trace_id=None, trace_map=None): pass",
        "token_counting.TokenCountingHandler = callbacks.TokenCountingHandler = Copied",
        OURS,
        USE,
        "assert isinstance(used(Ours), Copied)",
    )


# --- what LlamaIndex's tests claim of its handler -------------------------------------------


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class that LlamaIndex's module offers: ours."""
    for module in ("token_counting.", ""):
        name = f"llama_index.core.callbacks.{module}TokenCountingHandler"
        monkeypatch.setattr(name, llama_token_tracker.TokenCountingHandler)
    return token_counting.TokenCountingHandler


@pytest.mark.parametrize("event_type", [LLM, EMBEDDING])
def test_a_start_gives_its_id_back_and_counts_nothing(
    replaced: Any, event_type: CBEventType
) -> None:
    """Whatever a start's payload holds, only ends are counted."""
    handler = replaced()
    payload = {"chunks": ["a"], "formatted_prompt": "b", "response": "c"}
    assert handler.on_event_start(event_type, payload=payload, event_id="some id") == "some id"
    assert handler.llm_token_counts == handler.embedding_token_counts == []


def test_an_end_counts_what_its_type_says(replaced: Any) -> None:
    """A payload of plain strings under plain keys is a prompt and an answer, or a chunk."""
    handler = replaced()
    payload = {"chunks": ["one"], "formatted_prompt": "two", "response": "three"}
    handler.on_event_end(LLM, payload=payload, event_id="some id")
    assert [event.total_token_count for event in handler.llm_token_counts] == [2]
    assert handler.embedding_token_counts == []
    handler.on_event_end(EMBEDDING, payload=payload, event_id="some id")
    assert len(handler.llm_token_counts) == 1
    assert [event.total_token_count for event in handler.embedding_token_counts] == [1]
    assert (handler.total_llm_token_count, handler.total_embedding_token_count) == (2, 1)


@pytest.mark.parametrize("through_manager", [False, True])
@pytest.mark.parametrize(
    "completion",
    [CompletionResponse(text="some text"), SimpleNamespace(raw=None, additional_kwargs={})],
    ids=["response", "stub"],
)
@pytest.mark.parametrize("mock", [Mock, lambda **kwargs: lambda _: kwargs["return_value"]])
def test_a_token_budget_is_exceeded_by_the_second_call(
    replaced: Any, mock: Any, completion: object, through_manager: bool
) -> None:
    """A mocked tokenizer of five tokens a text: the first call takes ten of fifteen."""
    handler = replaced(tokenizer=mock(return_value=[0] * 5), token_budget=15)
    ends = CallbackManager([handler]) if through_manager else handler
    payload = {EventPayload.PROMPT: "a prompt", EventPayload.COMPLETION: completion}
    ends.on_event_end(LLM, payload=payload)
    assert handler.total_llm_token_count == 10
    with pytest.raises(ValueError, match=r"Token budget exceeded.*Limit: 15"):
        ends.on_event_end(LLM, payload=payload)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": 3, "output_tokens": 9, "cache_read_input_tokens": 400}, (403, 9)),
        ({"input_tokens": 3, "output_tokens": 9, "cache_creation_input_tokens": 50}, (53, 9)),
        (
            {
                "input_tokens": 3,
                "output_tokens": 9,
                "cache_read_input_tokens": 400,
                "cache_creation_input_tokens": 50,
            },
            (453, 9),
        ),
        (
            {
                "input_tokens": 3,
                "output_tokens": 9,
                "cache_read_input_tokens": None,
                "cache_creation_input_tokens": None,
            },
            (3, 9),
        ),
        ({"input_tokens": 30, "output_tokens": 9}, (30, 9)),
        (
            {
                "prompt_tokens": 500,
                "completion_tokens": 20,
                "prompt_tokens_details": {"cached_tokens": 480},
            },
            (500, 20),
        ),
        (
            {
                "prompt_token_count": 800,
                "candidates_token_count": 30,
                "cached_content_token_count": 750,
            },
            (800, 30),
        ),
    ],
)
def test_cached_tokens_are_counted_once(
    replaced: Any, usage: dict[str, Any], expected: tuple[int, int]
) -> None:
    """Anthropic reports them beside its input; OpenAI and Gemini report them within it."""
    handler = replaced()
    by_hand(handler, SimpleNamespace(raw={"usage": usage}, additional_kwargs={}), HELLO)
    (event,) = handler.llm_token_counts
    assert (event.prompt_token_count, event.completion_token_count) == expected


# --- subclasses as they stand in public code ------------------------------------------------


def test_a_subclass_that_passes_figures_on(replaced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that replaces LlamaIndex's counting, reads the last event after each end, and resets.

    AWS's sample for observing Bedrock models has a handler of this form.
    """
    told: list[dict[str, int]] = []

    class Telling(replaced):  # type: ignore[misc]
        def __init__(
            self,
            tokenizer: Any = None,
            event_starts_to_ignore: Any = None,
            event_ends_to_ignore: Any = None,
            verbose: bool = False,
            logger: logging.Logger | None = None,
        ) -> None:
            monkeypatch.setattr(token_counting, "get_llm_token_counts", None)
            super().__init__(
                tokenizer=tokenizer,
                event_starts_to_ignore=event_starts_to_ignore,
                event_ends_to_ignore=event_ends_to_ignore,
                verbose=verbose,
                logger=logger,
            )

        def on_event_end(
            self,
            event_type: CBEventType,
            payload: dict[str, Any] | None = None,
            event_id: str = "",
            **kwargs: Any,
        ) -> None:
            super().on_event_end(event_type, payload, event_id, **kwargs)
            if event_type in self.event_ends_to_ignore or payload is None:
                return
            if event_type == LLM:
                last = self.llm_token_counts[-1]
                told.append({"in": last.prompt_token_count, "out": last.completion_token_count})
            elif event_type == EMBEDDING:
                told.append({"embedded": self.embedding_token_counts[-1].total_token_count})
            if len(self.llm_token_counts) > 2 or len(self.embedding_token_counts) > 2:
                self.reset_counts()

    handler = Telling(words)
    manager = CallbackManager([handler])
    for tokens in (5, 7):
        Scripted(callback_manager=manager, raw=reported(tokens, 2)).complete("hello")
    MockEmbedding(embed_dim=2, callback_manager=manager).get_text_embedding("a b c")
    assert told == [{"in": 5, "out": 2}, {"in": 7, "out": 2}, {"embedded": 3}]
    assert handler.total_llm_token_count == 16
    Scripted(callback_manager=manager, raw=reported(1, 1)).complete("hello")
    assert told[-1] == {"in": 1, "out": 1}
    assert (handler.llm_token_counts, handler.total_llm_token_count) == ([], 0)
    assert handler.embedding_token_counts == []


def test_a_subclass_that_counts_by_itself(
    replaced: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that never calls `super().on_event_end`, but fills the lists with LlamaIndex's events."""

    class Costing(replaced):  # type: ignore[misc]
        def __init__(self, price: int = 2, **kwargs: Any) -> None:
            self.costs: list[int] = []
            self.price = price
            super().__init__(**kwargs)

        def on_event_end(
            self,
            event_type: CBEventType,
            payload: dict[str, Any] | None = None,
            event_id: str = "",
            **kwargs: Any,
        ) -> None:
            if event_type == LLM and event_type not in self.event_ends_to_ignore and payload:
                event = token_counting.get_llm_token_counts(self._token_counter, payload, event_id)
                self.llm_token_counts.append(event)
                self.costs.append(self.price * self.llm_token_counts[-1].total_token_count)
                if self._verbose:
                    self._print(f"Cost: {self.costs[-1]}")
            elif event_type == EMBEDDING and payload:
                for chunk in payload.get(EventPayload.CHUNKS, []):
                    self.embedding_token_counts.append(
                        token_counting.TokenCountingEvent(
                            event_id=event_id,
                            prompt=chunk,
                            prompt_token_count=len(self.tokenizer(chunk)),
                            completion="",
                            completion_token_count=0,
                        )
                    )

        @property
        def total_cost(self) -> int:
            return sum(self.costs)

    handler = Costing(tokenizer=words, verbose=True)
    manager = CallbackManager([handler])
    model = MockLLM(callback_manager=manager)
    model.complete("one two three")
    assert handler.total_llm_token_count == 6
    Scripted(callback_manager=manager, raw=reported(5, 2)).complete("hello")
    assert len(handler.llm_token_counts) == 2
    assert handler.total_cost == 2 * handler.total_llm_token_count == 2 * (6 + 5 + 2)
    MockEmbedding(embed_dim=2, callback_manager=manager).get_text_embedding_batch(["a b", "c"])
    assert handler.total_embedding_token_count == 3
    assert capsys.readouterr().out == "Cost: 12\nCost: 14\n"
    handler.reset_counts()
    assert (handler.total_llm_token_count, handler.total_embedding_token_count) == (0, 0)


def test_a_subclass_that_shows_steps(replaced: Any) -> None:
    """One that overrides both ends and the traces, and only reads the total; as in Chainlit."""

    class Steps(replaced):  # type: ignore[misc]
        def __init__(
            self, event_starts_to_ignore: Any = (), event_ends_to_ignore: Any = ()
        ) -> None:
            super().__init__(
                event_starts_to_ignore=event_starts_to_ignore,
                event_ends_to_ignore=event_ends_to_ignore,
            )
            self.steps: dict[str, Any] = {}

        def on_event_start(
            self,
            event_type: CBEventType,
            payload: dict[str, Any] | None = None,
            event_id: str = "",
            parent_id: str = "",
            **kwargs: Any,
        ) -> str:
            self.steps[event_id] = None
            return event_id

        def on_event_end(
            self,
            event_type: CBEventType,
            payload: dict[str, Any] | None = None,
            event_id: str = "",
            **kwargs: Any,
        ) -> None:
            if payload is not None and event_id in self.steps:
                self.steps[event_id] = self.total_llm_token_count or None

        def _noop(self, *args: Any, **kwargs: Any) -> None:
            pass

        start_trace = _noop
        end_trace = _noop

    handler = Steps([EMBEDDING], [EMBEDDING])
    manager = CallbackManager([handler])
    MockLLM(callback_manager=manager).complete("hello")
    MockEmbedding(embed_dim=2, callback_manager=manager).get_text_embedding("a")
    assert list(handler.steps.values()) == [None]
    assert handler.total_llm_token_count == 0


def test_a_subclass_that_logs(replaced: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One that passes all six arguments by position, and prints through `_print` and `logger`."""
    logger = logging.getLogger("replaced.in.place")
    caplog.set_level(logging.DEBUG, logger=logger.name)

    class Logging(replaced):  # type: ignore[misc]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)

        def on_event_end(self, event_type: CBEventType, *args: Any, **kwargs: Any) -> None:
            super().on_event_end(event_type, *args, **kwargs)
            self._print(f"{event_type.value}: {self.total_llm_token_count}")
            self.logger.info(self._token_counter.get_string_tokens("a b c"))

    handler = Logging(words, [], [EMBEDDING], True, logger, 100)
    by_hand(handler, answer(raw=reported(40, 2)), HELLO)
    assert caplog.messages == [
        "LLM Prompt Token Usage: 40\nLLM Completion Token Usage: 2",
        "llm: 42",
        "3",
    ]
    with pytest.raises(ValueError, match="Token budget exceeded"):
        by_hand(handler, answer(raw=reported(90, 2)), HELLO, event_id="2")
    handler.reset_counts()
    assert handler.total_llm_token_count == 0
