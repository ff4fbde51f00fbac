"""A user's `tokenizer=`, made into a `Tokenizer` and checked at once."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeGuard, cast

from llama_token_tracker._lock import LOADING
from llama_token_tracker._log_once import notice
from llama_token_tracker.errors import TokenizerError
from llama_token_tracker.tokenizers.base import Counter, TextTokenizer, Tokenizer
from llama_token_tracker.tokenizers.bpe import BytePairCounter
from llama_token_tracker.tokenizers.text import repair
from llama_token_tracker.tokenizers.vocabularies import is_present, openai_vocabulary

if TYPE_CHECKING:
    import tiktoken

_PROBE: Final = "Hello, world"
_WAY_OUT: Final = (
    "give a tokenizers.Tokenizer, a transformers tokenizer, the path of a "
    "tokenizer.json, or a function from a text to the list of its tokens"
)


def as_tokenizer(given: object) -> Tokenizer:
    """Make a `Tokenizer` of any object that can count.

    Special-token text counts as plain text and no special tokens are added, so
    that a figure is that of the text alone.

    Args:
        given: A `Tokenizer`, a `tokenizers.Tokenizer`, a transformers
            tokenizer, a `tiktoken.Encoding`, the path of a tokenizer.json, or
            any function from a text to its tokens.

    Returns:
        A tokenizer that counts with it; `source` is `counted`.

    Raises:
        TokenizerError: It can't count tokens; found out by counting once.
    """
    if _is_tokenizer(given):
        return given
    if isinstance(given, str | Path):
        return _checked(_hugging_face(_from_file(Path(given)), str(given)))
    encoding = _tiktoken_encoding(given)
    if encoding is not None:
        return _checked(_tiktoken_counter(encoding))
    backend = getattr(given, "backend_tokenizer", given)
    if _is_hugging_face(backend):
        return _checked(_hugging_face(cast("_HuggingFace", backend), _name(given)))
    if not callable(given):
        msg = f"tokenizer= is {_name(given)}, which is not callable; {_WAY_OUT}."
        raise TokenizerError(msg)
    if callable(getattr(given, "convert_tokens_to_ids", None)):
        given = functools.partial(given, add_special_tokens=False)
    return _checked(_CallableCounter(given, _name(given)))


def _is_tokenizer(given: object) -> TypeGuard[Tokenizer]:
    # A mock has whatever it's asked for, and before Python 3.12 `isinstance` asks it.
    is_real = inspect.getattr_static(given, "count_many", None) is not None
    return is_real and isinstance(given, Tokenizer) and not inspect.isclass(given)


class _HuggingFace(Protocol):
    """The part of `tokenizers.Tokenizer` that is used here."""

    encode_special_tokens: bool

    @classmethod
    def from_str(cls, json: str) -> "_HuggingFace": ...
    def to_str(self) -> str: ...
    def no_truncation(self) -> None: ...
    def no_padding(self) -> None: ...
    def encode(self, sequence: str, *, add_special_tokens: bool) -> object: ...


class _CallableCounter:
    """Counts what a user's function returns; estimates where it raises."""

    def __init__(self, function: Callable[[str], object], name: str) -> None:
        self._function = function
        self.has_failed = False
        self.name = name

    def count_many(self, texts: Sequence[str]) -> list[int]:
        return [self._count(text) for text in texts]

    def _count(self, text: str) -> int:
        try:
            return length(self._function(repair(text)))
        except BaseException as error:
            # Rust's panics are no `Exception`, and no reason to stop either.
            is_panic = type(error).__name__ == "PanicException"
            if text == _PROBE or not (is_panic or isinstance(error, Exception)):
                raise
            return self._estimate(text, error)

    def _estimate(self, text: str, error: BaseException) -> int:
        from llama_token_tracker.tokenizers.resolve import stand_in

        consequence = "the text is counted with a stand-in"
        notice("the tokenizer {} failed", error, consequence, self.name)
        self.has_failed = True
        return stand_in().count(text)


def length(tokens: object) -> int:
    """Return how many tokens a tokenizer's answer holds.

    Args:
        tokens: A sequence of tokens, or an answer that has `input_ids` (a
            transformers `BatchEncoding`) or `ids` (a tokenizers `Encoding`);
            a batch of one is looked into.

    Raises:
        TokenizerError: It holds no tokens, or no length.
    """
    ids = _ids(tokens)
    if isinstance(ids, str | Mapping) or not isinstance(ids, Sized):
        msg = f"A tokenizer returned {_shown(tokens)}, which is no sequence of tokens; {_WAY_OUT}."
        raise TokenizerError(msg)
    if len(ids) == 1:
        first = next(iter(cast("Iterable[object]", ids)))
        # A batch of one text: [[1, 2, 3]], or an array of that shape.
        if isinstance(first, Sized) and not isinstance(first, str | bytes):
            shape = getattr(first, "shape", None)
            if shape is None or len(shape) > 0:
                return len(first)
    return len(ids)


def _ids(tokens: object) -> object:
    for attribute in ("input_ids", "ids"):
        if hasattr(tokens, attribute):
            return cast("object", getattr(tokens, attribute))
    if not isinstance(tokens, Mapping):
        return tokens
    by_name = cast("Mapping[object, object]", tokens)
    if "input_ids" in by_name:
        return by_name["input_ids"]
    msg = f"A tokenizer returned {_shown(by_name)}, a mapping without input_ids; {_WAY_OUT}."
    raise TokenizerError(msg)


def _from_file(path: Path) -> _HuggingFace:
    if not path.is_file():
        msg = (
            f"tokenizer= names {str(path)!r}, where there is no file; {_WAY_OUT}, "
            "or leave it out to count with the model's own."
        )
        raise TokenizerError(msg)
    try:
        with LOADING:
            from tokenizers import Tokenizer as HuggingFaceTokenizer
    except ImportError as error:
        msg = (
            f"tokenizer= names {str(path)!r}, which takes the package tokenizers "
            "to read; install it (pip install tokenizers)."
        )
        raise TokenizerError(msg) from error
    try:
        return cast("_HuggingFace", HuggingFaceTokenizer.from_file(str(path)))
    # `tokenizers` raises bare `Exception`.
    except Exception as error:
        msg = f"{str(path)!r} is no tokenizer.json that tokenizers can read: {error}"
        raise TokenizerError(msg) from error


def _hugging_face(tokenizer: _HuggingFace, name: str) -> _CallableCounter:
    try:
        # A copy: the user's own may truncate and pad, and goes on doing so.
        copy = type(tokenizer).from_str(tokenizer.to_str())
    # `tokenizers` raises bare `Exception` where a part is written in Python.
    except Exception as error:  # noqa: BLE001
        notice("the tokenizer {} can't be copied", error, "it is used as it is", name)
        copy = tokenizer
    else:
        copy.no_truncation()
        copy.no_padding()
        copy.encode_special_tokens = True
    # Text by text: `encode_batch` starts threads.
    return _CallableCounter(functools.partial(copy.encode, add_special_tokens=False), name)


def _is_hugging_face(given: object) -> bool:
    return type(given).__module__.partition(".")[0] == "tokenizers" and hasattr(given, "to_str")


def _tiktoken_encoding(given: object) -> "tiktoken.Encoding | None":
    """Return the encoding behind `encoding.encode`, a partial of it, or itself.

    LlamaIndex's documentation gives `tiktoken.encoding_for_model(…).encode`,
    which raises on special-token text and panics on endless spaces.
    """
    if isinstance(given, functools.partial):
        given = given.func
    owner = getattr(given, "__self__", given)
    is_encoding = (
        type(owner).__module__.partition(".")[0] == "tiktoken"
        and hasattr(owner, "encode_ordinary")
        and not inspect.isclass(owner)
    )
    return cast("tiktoken.Encoding", owner) if is_encoding else None


def _tiktoken_counter(encoding: "tiktoken.Encoding") -> BytePairCounter | _CallableCounter:
    vocabulary = openai_vocabulary(encoding.name)
    if vocabulary is not None and is_present(vocabulary):
        return BytePairCounter(vocabulary)
    return _CallableCounter(encoding.encode_ordinary, encoding.name)


def _checked(counter: Counter) -> TextTokenizer:
    tokenizer = TextTokenizer(counter, "counted")
    try:
        tokenizer.count(_PROBE)
    except TokenizerError:
        raise
    # It's the user's code: whatever it raises, a panic included, it is told here and now.
    except BaseException as error:
        if not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
            raise
        msg = f"The tokenizer {counter.name} raised {type(error).__name__} on {_PROBE!r}: {error}"
        raise TokenizerError(msg) from error
    return tokenizer


def _name(given: object) -> str:
    if inspect.isclass(given):
        return f"the class {given.__qualname__}"
    name = getattr(given, "__qualname__", None) or getattr(given, "name_or_path", None)
    return str(name) if name else f"a {type(given).__qualname__}"


def _shown(value: object) -> str:
    return f"{type(value).__qualname__} {value!r:.60}"
