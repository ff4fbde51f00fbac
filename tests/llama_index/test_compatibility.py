"""LlamaIndex's own handler beside this one: what people rely on is the same.

Each test feeds both handlers the same and compares what they say.
"""

import inspect
import logging
import pickle
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, CompletionResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks import TokenCountingHandler as Theirs
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.callbacks.token_counting import TokenCountingEvent
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import MockLLM

from llama_token_tracker import TokenCountingHandler as Ours
from tests.features import needs_their_budget
from tests.scripted import EMBEDDING, HELLO, LLM, Scripted, answer, by_hand, reported, words

BOTH = pytest.mark.parametrize("kind", [Ours, Theirs], ids=["ours", "theirs"])
BOTH_WITH_BUDGET = pytest.mark.parametrize(
    "kind", [Ours, pytest.param(Theirs, marks=needs_their_budget)], ids=["ours", "theirs"]
)

RESPONSE = answer("hi", reported(100, 20))
COMPLETION = CompletionResponse(text="hi", raw=reported(30, 4))


def six(event: TokenCountingEvent) -> dict[str, Any]:
    """The fields that both have."""
    return {name: value for name, value in asdict(event).items() if name in SIX}


SIX = tuple(inspect.signature(TokenCountingEvent).parameters)


def totals(handler: Theirs) -> tuple[int, ...]:
    """The four totals."""
    return (
        handler.total_llm_token_count,
        handler.prompt_llm_token_count,
        handler.completion_llm_token_count,
        handler.total_embedding_token_count,
    )


def said(handler: Theirs) -> list[Any]:
    """Everything that both tell."""
    return [
        [six(event) for event in handler.llm_token_counts],
        [six(event) for event in handler.embedding_token_counts],
        totals(handler),
    ]


def both(feed: Callable[[Any], object], *args: Any, **kwargs: Any) -> tuple[Ours, Theirs]:
    """Feed the same to one of each, which must then say the same."""
    ours, theirs = Ours(*args, **kwargs), Theirs(*args, **kwargs)
    feed(ours)
    feed(theirs)
    assert said(ours) == said(theirs)
    return ours, theirs


def embed(handler: Any, *texts: str, event_id: str = "e") -> None:
    """Feed embedded texts."""
    handler.on_event_end(EMBEDDING, {EventPayload.CHUNKS: list(texts)}, event_id=event_id)


# --- the constructor ------------------------------------------------------------------------


@needs_their_budget
def test_the_constructor_takes_the_same_arguments():
    """Their arguments come first, in their order, with their defaults; ours are keywords."""
    theirs = inspect.signature(Theirs.__init__).parameters
    ours = inspect.signature(Ours.__init__).parameters
    shared = list(ours)[: len(theirs)]
    assert shared == list(theirs)
    assert [ours[name].default for name in shared] == [theirs[name].default for name in shared]
    extra = [ours[name].kind for name in list(ours)[len(theirs) :]]
    assert set(extra) == {inspect.Parameter.KEYWORD_ONLY}


@BOTH_WITH_BUDGET
def test_the_constructor_takes_them_positionally(kind: type[Theirs]):
    """Six positional arguments arrive where they belong."""
    logger = logging.getLogger("positional")
    handler = kind(words, [EMBEDDING], [LLM], True, logger, 5)
    assert handler.tokenizer is words
    assert handler.event_starts_to_ignore == (EMBEDDING,) or handler.event_starts_to_ignore == [
        EMBEDDING
    ]
    assert list(handler.event_ends_to_ignore) == [LLM]
    assert handler.logger is logger
    assert handler.token_budget == 5


def test_a_new_handler_is_empty():
    """Nothing is counted yet, and lists are there."""
    ours, _ = both(lambda handler: None)
    assert ours.llm_token_counts == ours.embedding_token_counts == []
    assert isinstance(ours.llm_token_counts, list)


def test_the_default_tokenizer_is_llamaindexs():
    """`handler.tokenizer` is the global tokenizer unless one is given."""
    assert Ours().tokenizer("a b c") == Theirs().tokenizer("a b c")


def test_a_handler_is_one_of_theirs():
    """`isinstance` finds LlamaIndex's handler and base class, and LlamaIndex's event."""
    ours = Ours()
    assert isinstance(ours, Theirs)
    assert isinstance(ours, BaseCallbackHandler)
    by_hand(ours, COMPLETION)
    assert isinstance(ours.llm_token_counts[0], TokenCountingEvent)


# --- counting -------------------------------------------------------------------------------


def test_reported_figures_are_the_same():
    """Chats and completions with plain usage give the same events and totals."""

    def feed(handler: Any) -> None:
        by_hand(handler, RESPONSE, HELLO, event_id="1")
        by_hand(handler, COMPLETION, "hello", event_id="2")
        embed(handler, "one two", "three")

    ours, _ = both(feed, tokenizer=words)
    assert totals(ours) == (154, 130, 24, 3)


def test_counted_completions_are_the_same():
    """Where no usage is reported, a prompt of plain text counts the same."""
    both(lambda handler: by_hand(handler, CompletionResponse(text="so it is"), "how is it"))
    both(
        lambda handler: by_hand(handler, CompletionResponse(text="so it is"), "how is it"),
        tokenizer=words,
    )


def test_counted_messages_are_the_same():
    """Messages of plain text count the same: role, text and three tokens each."""
    ours, theirs = Ours(), Theirs()
    for handler in (ours, theirs):
        by_hand(handler, answer("so it is"), [ChatMessage("how is it"), ChatMessage("well?")])
    assert ours.prompt_llm_token_count == theirs.prompt_llm_token_count
    # Theirs counts the printed "assistant: " as a part of the answer; nobody bills that.
    printed = len(theirs.tokenizer("assistant: so it is"))
    assert theirs.completion_llm_token_count == printed
    assert ours.completion_llm_token_count == len(theirs.tokenizer("so it is"))


def test_texts_are_the_same():
    """Events hold the prompt and the completion as LlamaIndex prints them."""
    messages = [ChatMessage("be kind", role="system"), ChatMessage("hello")]
    ours, _ = both(lambda handler: by_hand(handler, RESPONSE, messages))
    assert ours.llm_token_counts[0].prompt == "system: be kind\nuser: hello"
    assert ours.llm_token_counts[0].completion == "assistant: hi"


def test_payloads_fed_by_hand_need_no_start():
    """An end alone is a call."""
    ours, _ = both(lambda handler: by_hand(handler, RESPONSE, HELLO, start=False))
    assert ours.total_llm_token_count == 120


@pytest.mark.parametrize("start", [True, False])
def test_payloads_fed_by_hand_need_no_id(start: bool):
    """The default id, several times, is several calls."""

    def feed(handler: Any) -> None:
        for _ in range(3):
            by_hand(handler, RESPONSE, HELLO, event_id="", start=start)

    ours, _ = both(feed)
    assert len(ours.llm_token_counts) == 3


def test_calls_without_an_id_may_overlap():
    """Two starts and then two ends with the default id are two calls."""

    def feed(handler: Any) -> None:
        for _ in range(2):
            handler.on_event_start(LLM, {EventPayload.PROMPT: "hello"})
        for _ in range(2):
            by_hand(handler, COMPLETION, event_id="", start=False)

    both(feed)


def test_an_id_may_be_used_again():
    """A call that never ended doesn't swallow those that use its id after it."""
    ours = Ours()
    ours.on_event_start(LLM, {EventPayload.PROMPT: "never ends"}, event_id="1")
    for _ in range(3):
        by_hand(ours, COMPLETION)
    assert ours.total_llm_token_count == 3 * 34


def test_events_of_other_types_are_not_counted():
    """Only language models and embeddings cost tokens."""

    def feed(handler: Any) -> None:
        for event_type in CBEventType:
            if event_type not in (LLM, EMBEDDING):
                payload = {EventPayload.CHUNKS: ["a"], EventPayload.RESPONSE: RESPONSE}
                handler.on_event_start(event_type, payload, event_id="1")
                handler.on_event_end(event_type, payload, event_id="1")

    both(feed)


def test_an_end_without_payload_is_not_counted():
    """An end that says nothing costs nothing, and leaves nothing open."""

    def feed(handler: Any) -> None:
        for event_type in (LLM, EMBEDDING):
            handler.on_event_start(event_type, {EventPayload.PROMPT: "a"}, event_id="1")
            handler.on_event_end(event_type, None, event_id="1")

    ours, _ = both(feed)
    assert ours.open_calls == 0


def test_a_start_returns_its_id():
    """`on_event_start` gives the id back."""
    for handler in (Ours(), Theirs()):
        assert handler.on_event_start(LLM, {}, event_id="x") == "x"


@BOTH
def test_models_are_counted_through_a_manager(kind: type[Theirs]):
    """A mocked model and a mocked embedding are counted, one event each."""
    handler = kind(tokenizer=words)
    manager = CallbackManager([handler])
    MockLLM(callback_manager=manager).complete("one two three")
    MockEmbedding(embed_dim=2, callback_manager=manager).get_text_embedding_batch(["a b", "c"])
    assert totals(handler) == (6, 3, 3, 3)


@BOTH
def test_ignored_ends_are_not_counted(kind: type[Theirs]):
    """`event_ends_to_ignore` holds for managers and by hand."""
    handler = kind(event_ends_to_ignore=[LLM])
    manager = CallbackManager([handler])
    MockLLM(callback_manager=manager).complete("hello")
    by_hand(handler, COMPLETION)
    MockEmbedding(embed_dim=2, callback_manager=manager).get_text_embedding("a")
    assert (handler.total_llm_token_count, len(handler.embedding_token_counts)) == (0, 1)


def test_ignored_ends_leave_nothing_open():
    """A call whose end will never be heard isn't waited for."""
    ours = Ours(event_ends_to_ignore=[LLM])
    MockLLM(callback_manager=CallbackManager([ours])).complete("hello")
    assert ours.open_calls == 0


@BOTH
def test_ignored_starts_are_counted_at_their_end(kind: type[Theirs]):
    """Without its start a call is counted all the same."""
    handler = kind(tokenizer=words, event_starts_to_ignore=[LLM, EMBEDDING])
    manager = CallbackManager([handler])
    MockLLM(callback_manager=manager).complete("one two")
    MockEmbedding(embed_dim=2, callback_manager=manager).get_text_embedding("a b c")
    assert totals(handler) == (4, 2, 2, 3)


def test_one_handler_in_several_managers():
    """A handler counts for all managers that hold it."""

    def feed(handler: Any) -> None:
        for _ in range(2):
            MockLLM(callback_manager=CallbackManager([handler])).complete("one two")

    ours = Ours(tokenizer=words)
    feed(ours)
    assert totals(ours) == (8, 4, 4, 0)


def test_one_handler_twice_in_a_manager():
    """LlamaIndex's counts such a call twice; it was billed once."""
    ours = Ours(tokenizer=words)
    manager = CallbackManager([ours, ours])
    Scripted(callback_manager=manager, raw=reported(5, 2)).complete("hello")
    list(Scripted(callback_manager=manager, raws=[reported(5, 2)]).stream_complete("hello"))
    MockEmbedding(embed_dim=2, callback_manager=manager).get_text_embedding("a b")
    assert totals(ours) == (14, 10, 4, 2)
    assert ours.open_calls == 0


# --- lists and totals -----------------------------------------------------------------------


def test_a_reset_starts_from_zero():
    """After a reset lists are new and totals zero; the old lists stay with whoever holds them."""

    def feed(handler: Any) -> None:
        by_hand(handler, RESPONSE, HELLO)
        embed(handler, "a")
        held = handler.llm_token_counts, handler.embedding_token_counts
        handler.reset_counts()
        assert [len(each) for each in held] == [1, 1]
        assert held[0] is not handler.llm_token_counts
        by_hand(handler, COMPLETION)
        assert [len(each) for each in held] == [1, 1]

    both(feed)


EDITS: dict[str, Callable[[Any], object]] = {
    "append": lambda handler: handler.llm_token_counts.append(
        TokenCountingEvent("a", "b", completion_token_count=5, prompt_token_count=6)
    ),
    "pop": lambda handler: handler.llm_token_counts.pop(),
    "clear": lambda handler: handler.llm_token_counts.clear(),
    "del": lambda handler: handler.llm_token_counts.__delitem__(0),
    "slice": lambda handler: handler.llm_token_counts.__delitem__(slice(0, 1)),
    "keep the newest": lambda handler: setattr(
        handler, "llm_token_counts", handler.llm_token_counts[-1:]
    ),
    "assign": lambda handler: setattr(handler, "llm_token_counts", []),
    "extend": lambda handler: handler.llm_token_counts.extend(list(handler.llm_token_counts)),
    "replace": lambda handler: handler.llm_token_counts.__setitem__(
        0, replace(handler.llm_token_counts[0], prompt_token_count=1_000)
    ),
    "embeddings": lambda handler: handler.embedding_token_counts.clear(),
    "assign embeddings": lambda handler: setattr(handler, "embedding_token_counts", []),
    "insert a core event": lambda handler: handler.embedding_token_counts.insert(
        0, TokenCountingEvent("a", "", completion_token_count=0, prompt_token_count=6)
    ),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_totals_follow_the_lists(edit: Callable[[Any], object]):
    """Lists that are edited by hand, with events of either kind, are what is added up."""

    def feed(handler: Any) -> None:
        by_hand(handler, RESPONSE, HELLO, event_id="1")
        by_hand(handler, COMPLETION, event_id="2")
        embed(handler, "a")
        edit(handler)

    both(feed)


def test_adding_to_a_list_in_place():
    """`handler.llm_token_counts += [...]` is an edit like any other."""

    def feed(handler: Any) -> None:
        by_hand(handler, COMPLETION)
        handler.llm_token_counts += handler.llm_token_counts
        handler.embedding_token_counts += []

    both(feed)


def test_a_list_that_is_held_grows():
    """A list that was taken before a call holds its event after it."""

    def feed(handler: Any) -> None:
        held = handler.llm_token_counts, handler.embedding_token_counts
        by_hand(handler, COMPLETION)
        embed(handler, "a")
        assert [len(each) for each in held] == [1, 1]
        assert held[0][-1].prompt_token_count == 30
        assert held[0] is handler.llm_token_counts

    both(feed)


# --- the budget -----------------------------------------------------------------------------


def exceeds(act: Callable[[], object]) -> str | None:
    """The message of the `ValueError` that an act raises, if it raises one."""
    try:
        act()
    except ValueError as error:
        return str(error)
    return None


@needs_their_budget
@pytest.mark.parametrize("budget", [0, 33, 34, 35, 67, 68, None])
def test_a_budget_ends_as_theirs(budget: int | None):
    """The same call raises, at its end, and with the same words; so does each start after it."""

    def story(handler: Any) -> list[str | None]:
        acts: list[Callable[[], object]] = []
        for event_id in ("1", "2"):
            acts += [
                lambda: handler.on_event_start(CBEventType.QUERY, {}, event_id="q"),
                lambda i=event_id: handler.on_event_start(
                    LLM, {EventPayload.PROMPT: "hello"}, event_id=i
                ),
                lambda i=event_id: by_hand(handler, COMPLETION, event_id=i, start=False),
            ]
        acts += [
            lambda: handler.on_event_start(EMBEDDING, {}, event_id="e"),
            lambda: embed(handler, "a"),
            lambda: handler.on_event_end(CBEventType.QUERY, {}, event_id="q"),
            lambda: handler.on_event_end(LLM, None, event_id="3"),
        ]
        return [exceeds(act) for act in acts]

    ours, theirs = Ours(token_budget=budget), Theirs(token_budget=budget)
    assert story(ours) == story(theirs)
    assert said(ours) == said(theirs)


def test_the_call_that_exceeds_a_budget_is_counted():
    """An answer that was paid for is in the totals, though it raises."""
    ours = Ours(token_budget=10)
    assert exceeds(lambda: by_hand(ours, COMPLETION)) == "Token budget exceeded! Limit: 10, " + (
        "Current: 34"
    )
    assert ours.total_llm_token_count == 34


@BOTH_WITH_BUDGET
def test_a_budget_may_be_changed_and_reset(kind: type[Theirs]):
    """A higher budget, none, or a reset lets calls go on."""
    handler = kind(token_budget=10)
    assert exceeds(lambda: by_hand(handler, COMPLETION))
    handler.token_budget = 100
    assert not exceeds(lambda: by_hand(handler, COMPLETION))
    handler.token_budget = 10
    assert exceeds(lambda: by_hand(handler, COMPLETION))
    handler.reset_counts()
    assert not exceeds(lambda: handler.on_event_start(LLM, {}, event_id="1"))


@BOTH_WITH_BUDGET
def test_a_budget_stops_a_call_before_it_is_sent(kind: type[Theirs]):
    """With its budget used up a model isn't asked."""
    handler = kind(token_budget=10)
    model = Scripted(callback_manager=CallbackManager([handler]), raw=reported(10, 10))
    assert exceeds(lambda: model.complete("hello"))
    assert exceeds(lambda: model.complete("hello"))
    assert model.calls == 1


# --- telling --------------------------------------------------------------------------------


def test_verbose_prints_the_same(capsys: pytest.CaptureFixture[str]):
    """`verbose` prints the counts of each call, in the same words."""
    printed = []
    for kind in (Ours, Theirs):
        handler = kind(tokenizer=words, verbose=True)
        by_hand(handler, RESPONSE, HELLO)
        by_hand(handler, CompletionResponse(text="one two"), "hello")
        embed(handler, "a b", "c")
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "LLM Prompt Token Usage: 100\nLLM Completion Token Usage: 20\n" in printed[0]
    assert "Embedding Token Usage: 3\n" in printed[0]


def test_a_logger_is_told_the_same(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
):
    """With a logger the counts go there, at level DEBUG, and nowhere else."""
    caplog.set_level(logging.DEBUG, logger="ours.or.theirs")
    told = []
    for kind in (Ours, Theirs):
        handler = kind(verbose=True, logger=logging.getLogger("ours.or.theirs"))
        by_hand(handler, RESPONSE, HELLO)
        told.append([(record.levelname, record.getMessage()) for record in caplog.records])
        caplog.clear()
    assert told[0] == told[1]
    assert told[0][0][0] == "DEBUG"
    assert capsys.readouterr().out == ""


@BOTH
def test_a_quiet_handler_says_nothing(kind: type[Theirs], capsys: pytest.CaptureFixture[str]):
    """Without `verbose` nothing is printed."""
    handler = kind()
    by_hand(handler, RESPONSE, HELLO)
    embed(handler, "a")
    assert capsys.readouterr() == ("", "")


# --- subclasses and copies ------------------------------------------------------------------


@BOTH
def test_a_subclass_reads_the_newest_event_right_after_its_end(kind: type[Theirs]):
    """`llm_token_counts[-1]` is the call whose end was just handled."""
    read = []

    class Logging(kind):  # type: ignore[misc, valid-type]
        def __init__(self, name: str, **kwargs: Any) -> None:
            self.name = name
            super().__init__(**kwargs)

        def on_event_end(self, event_type: CBEventType, *args: Any, **kwargs: Any) -> None:
            super().on_event_end(event_type, *args, **kwargs)
            if event_type == LLM:
                event = self.llm_token_counts[-1]
                read.append((self.name, event.prompt_token_count, event.event_id))

    handler = Logging("mine")
    manager = CallbackManager([handler])
    Scripted(callback_manager=manager, raw=reported(5, 2)).complete("hello")
    Scripted(callback_manager=manager, raw=reported(7, 2)).complete("hello")
    assert [each[:2] for each in read] == [("mine", 5), ("mine", 7)]
    assert [each[2] for each in read] == [event.event_id for event in handler.llm_token_counts]


@BOTH
def test_a_subclass_may_hold_calls_back(kind: type[Theirs]):
    """A subclass that doesn't call `super()` leaves a call uncounted."""

    class Picky(kind):  # type: ignore[misc, valid-type]
        def on_event_end(self, event_type: CBEventType, *args: Any, **kwargs: Any) -> None:
            if kwargs.get("event_id") != "1":
                super().on_event_end(event_type, *args, **kwargs)

    handler = Picky()
    by_hand(handler, COMPLETION, event_id="1")
    by_hand(handler, COMPLETION, event_id="2")
    assert len(handler.llm_token_counts) == 1


@pytest.mark.parametrize("twin", [deepcopy, lambda handler: pickle.loads(pickle.dumps(handler))])
@BOTH_WITH_BUDGET
def test_a_copy_goes_its_own_way(kind: type[Theirs], twin: Callable[[Theirs], Theirs]):
    """Copies and pickles hold what was counted, and count on by themselves."""
    handler = kind(tokenizer=words, token_budget=1_000, event_ends_to_ignore=[EMBEDDING])
    by_hand(handler, COMPLETION)
    other = twin(handler)
    assert said(other) == said(handler)
    assert type(other) is kind
    assert (other.token_budget, list(other.event_ends_to_ignore)) == (1_000, [EMBEDDING])
    by_hand(other, CompletionResponse(text="one two"), "three")
    assert totals(other)[:3] == (37, 31, 6)
    assert totals(handler)[:3] == (34, 30, 4)


def test_a_copy_hears_streams():
    """A copy has ears of its own."""
    twin = pickle.loads(pickle.dumps(Ours()))
    model = Scripted(callback_manager=CallbackManager([twin]), raws=[None, reported(5, 2), None])
    stream = model.stream_complete("hello")
    next(stream), next(stream), next(stream)
    stream.close()
    (event,) = twin.llm_token_counts
    assert (event.prompt_token_count, event.status) == (5, "abandoned")


def test_traces_are_ignored():
    """`start_trace` and `end_trace` do nothing."""
    for handler in (Ours(), Theirs()):
        handler.start_trace("a")
        handler.end_trace("a", {})
        assert totals(handler) == (0, 0, 0, 0)
