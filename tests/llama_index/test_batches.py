"""Which request embedded which texts, and how they share its figure."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker.extraction import SILENT, Reported
from llama_token_tracker.llama_index.embeddings import Batch


class Request:
    """A request that embedded these texts, as the wire tells of it."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = tuple(texts)
        self.is_disowned = False

    def reported(self) -> Reported:
        """Nothing."""
        return SILENT

    def texts(self) -> tuple[str, ...]:
        """What it sent."""
        return self._texts

    def disown(self) -> None:
        """Note that no call has taken it."""
        self.is_disowned = True


# Few texts, so that batches have some in common.
BATCHES = st.lists(
    st.lists(st.sampled_from(["one", "two\nlines", "two lines", "three"]), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


@given(BATCHES, st.randoms())
def test_batches_that_share_texts_get_requests_of_their_own(batches: list[list[str]], random: Any):
    """In whatever order requests are answered and calls end, each call finds all of its texts."""
    batch = Batch()
    batch.open = len(batches)
    requests = [Request([text.replace("\n", " ") for text in texts]) for texts in batches]
    for request in random.sample(requests, len(requests)):
        batch.attach(request)
    taken: list[Any] = []
    for texts in random.sample(batches, len(batches)):
        found, rest = batch.take(texts)
        [(request, chunks)] = found
        assert (rest, Counter(chunks)) == ([], Counter(texts))
        taken.append(request)
    assert len(taken) == len({id(request) for request in taken}) == len(requests)
    batch.close()
    assert not any(request.is_disowned for request in requests)


def test_a_call_may_have_sent_several_requests():
    """An integration that sends each text for itself has a request a text."""
    batch = Batch()
    batch.open = 2
    for text in ("a", "b", "b", "c"):
        batch.attach(Request([text]))
    found, rest = batch.take(["b", "a"])
    assert [chunks for _, chunks in found] == [["b"], ["a"]]
    assert rest == []
    assert [chunks for _, chunks in batch.take(["c", "b", "d"])[0]] == [["c"], ["b"]]


def test_texts_that_were_changed_on_their_way_find_their_request():
    """Some integrations shorten texts, or put an instruction before them."""
    batch = Batch()
    batch.open = 2
    shortened, instructed = Request(["a long", "same"]), Request(["query: why?"])
    batch.attach(instructed)
    batch.attach(shortened)
    assert batch.take(["same", "a long text"]) == ([(shortened, ["same", "a long text"])], [])
    assert batch.take(["why?"]) == ([(instructed, ["why?"])], [])


def test_the_very_text_is_found_before_one_like_it():
    """Whichever was heard first."""
    batch = Batch()
    batch.open = 2
    alike, same = Request(["why"]), Request(["why?", "of another call"])
    batch.attach(alike)
    batch.attach(same)
    assert batch.take(["why?"]) == ([(same, ["why?"])], [])


def test_the_only_open_call_takes_what_there_is():
    """A text may be changed beyond recognition; where no other call is open, it's this one's."""
    batch = Batch()
    batch.open = 2
    encoded = Request(["d2h5Pw=="])
    batch.attach(encoded)
    assert batch.take(["why?"]) == ([], ["why?"])
    batch.open = 1
    assert batch.take(["why?"]) == ([(encoded, ["why?"])], [])


def test_what_no_call_has_taken_is_given_back():
    """Such a request has cost something all the same, and is counted by itself."""
    batch = Batch()
    batch.open = 2
    early, late = Request(["a"]), Request(["b"])
    batch.attach(early)
    assert batch.take(["c"]) == ([], ["c"])
    batch.close()
    batch.attach(late)
    assert early.is_disowned
    assert late.is_disowned
