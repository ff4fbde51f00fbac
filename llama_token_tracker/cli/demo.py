"""The `demo` command: a small question-answering run, counted step by step.

It is imported late, because it loads LlamaIndex.
"""

import importlib
import logging
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from llama_index.core import (
    Document,
    MockEmbedding,
    VectorStoreIndex,
    get_response_synthesizer,  # pyright: ignore[reportUnknownVariableType] - LlamaIndex's gap
)
from llama_index.core.base.response.schema import StreamingResponse
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM, MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import BaseNode

from llama_token_tracker._names import install_line
from llama_token_tracker.cli import files
from llama_token_tracker.cli.tables import Step, StepTable
from llama_token_tracker.errors import LlamaTokenTrackerError
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.llama_index.handler import TokenCountingHandler
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.usage import Usage

SAMPLES: Final = Path(__file__).parent / "samples"
"""The pages that are read when no others are named."""

SUFFIXES: Final = frozenset({".md", ".rst", ".txt"})
"""What is read of a folder; a file that is named itself may have any suffix."""

_OFFLINE: Final = ("bedrock-converse", "anthropic.claude-opus-4-1-20250805-v1:0")
"""What a provider on this machine speaks as, if there is its integration."""

_ANSWER: Final = (
    "Each of them is about keeping an honest count. A tally stick is split, so that neither side "
    "can add a notch alone; a baker gives a thirteenth loaf rather than one too few; a table of "
    "the tides is worth what its worst prediction is worth; and a water meter settles what a "
    "house has used, whatever anybody remembers. In all four somebody is charged by a figure, and "
    "trust depends on where that figure comes from."
)

_BILLED: Final = Usage(input_tokens=550, output_tokens=104)
"""About what the tokenizer of this model counts."""

_CHUNKS: Final = 20
_ANSWER_TOKENS: Final = 128
_CHUNK_TOKENS: Final = 256
_EMBEDDING_SIZE: Final = 8


class DemoError(LlamaTokenTrackerError):
    """The demo can't run: a page, an extra or a credential is missing."""


@dataclass(frozen=True, slots=True)
class Page:
    """A text to index.

    Attributes:
        name: What the file is called.
        text: What it says.
    """

    name: str
    text: str


def read_pages(paths: Sequence[Path]) -> list[Page]:
    """Read the text files at these paths.

    Args:
        paths: Files, and folders that are searched for files with one of `SUFFIXES`; if there
            are none, `SAMPLES` is read.

    Raises:
        DemoError: A path is missing or can't be read, a file is empty or no UTF-8 text, or a
            folder holds no text file.
    """
    return [_read(file) for path in paths or [SAMPLES] for file in _files(path)]


def _files(path: Path) -> list[Path]:
    if not path.exists():
        msg = f"{path} does not exist; name a text file, or a folder that holds some."
        raise DemoError(msg)
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not found:
        msg = f"{path} holds no {', '.join(sorted(SUFFIXES))} file; name the files themselves."
        raise DemoError(msg)
    return found


def _read(file: Path) -> Page:
    try:
        text = files.read(str(file))
    except files.UnreadableError as error:
        msg = f"{file}: {error}; mend it or leave it out."
        raise DemoError(msg) from error
    if not text.strip():
        msg = f"{file} is empty; leave it out."
        raise DemoError(msg)
    return Page(file.name, text)


def _missing_variable(name: str) -> str | None:
    return None if os.environ.get(name) else f"set {name}."


def _missing_aws_settings() -> str | None:
    # Here, because they come with the extras that need them.
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.Session()
        if not session.region_name:
            return "set AWS_DEFAULT_REGION, or a region in the AWS profile."
        if session.get_credentials() is None:
            return "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
    except BotoCoreError as error:
        return f"{error}; correct AWS_PROFILE or the AWS configuration."
    return None


@dataclass(frozen=True, slots=True)
class Integration:
    """How the demo reaches a real model.

    Attributes:
        module: Where LlamaIndex keeps it.
        llm: The LLM's class in it.
        extra: The extra of this package that installs it.
        missing: Says how to supply what a call still lacks, or `None` when nothing is.
        options: What its constructor takes beyond what all of them take.
    """

    module: str
    llm: str
    extra: str
    missing: Callable[[], str | None]
    options: Mapping[str, object] = field(default_factory=dict[str, object])


INTEGRATIONS: Final[Mapping[str, Integration]] = {
    "anthropic": Integration(
        "llama_index.llms.anthropic",
        "Anthropic",
        "anthropic",
        partial(_missing_variable, "ANTHROPIC_API_KEY"),
    ),
    "bedrock": Integration(
        "llama_index.llms.bedrock",
        "Bedrock",
        "bedrock-legacy",
        _missing_aws_settings,
        # It refuses models that it has no size for; the demo's prompts fit into any.
        {"context_size": 8_192},
    ),
    "bedrock-converse": Integration(
        "llama_index.llms.bedrock_converse",
        "BedrockConverse",
        "bedrock",
        _missing_aws_settings,
    ),
    "openai": Integration(
        "llama_index.llms.openai",
        "OpenAI",
        "openai",
        partial(_missing_variable, "OPENAI_API_KEY"),
    ),
}
"""What may stand before the colon of `--llm`."""


@dataclass(frozen=True, slots=True)
class Model:
    """What answers the questions.

    Attributes:
        name: What the output calls it.
        llm: The LlamaIndex LLM.
    """

    name: str
    llm: LLM


@contextmanager
def open_model(spec: str | None) -> Generator[Model]:
    """Make the LLM that `--llm` names.

    Args:
        spec: `PROVIDER:MODEL`, or nothing for a stand-in that works offline: a model of Bedrock's
            that a provider on this machine speaks as, or `MockLLM` where it can't be called.

    Raises:
        DemoError: The provider is unknown, its integration isn't installed, a credential is
            missing, or the integration refuses the model.
    """
    if spec is not None:
        yield _named_model(spec)
        return
    name, model = _OFFLINE
    integration = INTEGRATIONS[name]
    try:
        make = getattr(importlib.import_module(integration.module), integration.llm)
    except ImportError:
        mock = MockLLM(max_tokens=_ANSWER_TOKENS)
        yield Model(f"MockLLM (offline); to see dollars, {install_line(integration.extra)}", mock)
        return
    from botocore.config import Config

    with LoopbackProvider(Reply(_ANSWER, _BILLED, chunks=_CHUNKS)) as aws:
        # A proxy wouldn't find this machine.
        options = aws.arguments("bedrock") | {"botocore_config": Config(proxies={})}
        llm = make(model=model, max_tokens=_ANSWER_TOKENS, **options)
        with _unlogged():
            yield Model(f"{model} (a stand-in, offline)", llm)


@contextmanager
def _unlogged() -> Generator[None]:
    """Leave what would be logged to the table, which says of each figure what it is."""
    logger, nowhere = logging.getLogger("llama_token_tracker"), logging.NullHandler()
    logger.addHandler(nowhere)
    try:
        yield
    finally:
        logger.removeHandler(nowhere)


def _named_model(spec: str) -> Model:
    name, _, model = spec.partition(":")
    integration = INTEGRATIONS.get(name)
    if integration is None or not model:
        msg = f"--llm {spec}: expected PROVIDER:MODEL; providers are {', '.join(INTEGRATIONS)}."
        raise DemoError(msg)
    try:
        module = importlib.import_module(integration.module)
    except ImportError as error:
        msg = (
            f"--llm {spec} needs {integration.module} ({error}); {install_line(integration.extra)}."
        )
        raise DemoError(msg) from error
    missing = integration.missing()
    if missing is not None:
        msg = f"--llm {spec} finds no credentials: {missing}"
        raise DemoError(msg)
    return Model(spec, _construct(spec, getattr(module, integration.llm), model, integration))


def _construct(spec: str, llm: Callable[..., LLM], model: str, integration: Integration) -> LLM:
    try:
        made = llm(
            model=model, max_tokens=_ANSWER_TOKENS, max_retries=2, timeout=60, **integration.options
        )
        # Some integrations look the model up here, and not before.
        _ = made.metadata
    except Exception as error:
        msg = f"--llm {spec} is refused by {integration.module}: {error}"
        raise DemoError(msg) from error
    return made


def _node_id(position: int, document: BaseNode) -> str:
    # To MockEmbedding all texts are alike, so that ids decide which are retrieved: random ones
    # would give other figures in each run.
    return f"{document.node_id}-{position}"


class Demo:
    """One run: index, ask, stream, and leave half-way.

    Attributes:
        handler: What counts.
    """

    def __init__(self, pages: Sequence[Page], model: Model, question: str) -> None:
        """Prepare a run; nothing is embedded or sent before `tasks` is worked through.

        Args:
            pages: What to index; at least one.
            model: What answers.
            question: What is asked, three times.
        """
        self._pages = pages
        self._model = model
        self._question = question
        self.handler = TokenCountingHandler()
        self._manager = CallbackManager([self.handler])
        self._index = VectorStoreIndex(
            [],
            embed_model=MockEmbedding(embed_dim=_EMBEDDING_SIZE, callback_manager=self._manager),
            callback_manager=self._manager,
            transformations=[
                SentenceSplitter(chunk_size=_CHUNK_TOKENS, chunk_overlap=0, id_func=_node_id)
            ],
        )
        self._rows: list[Step] = []
        self._problem: str | None = None

    @property
    def task_count(self) -> int:
        """How many tasks there are."""
        return len(self._pages) + 3

    @property
    def problem(self) -> str | None:
        """What ended the run early, if anything did."""
        return self._problem

    def tasks(self) -> Iterator[str]:
        """Do one task after another, each named before it is done.

        A call that fails ends the run; `problem` says why, and `table` what was counted.
        """
        with self._step("Index"):
            for number, page in enumerate(self._pages):
                yield f"Indexing {page.name}"
                document = Document(
                    id_=str(number), text=page.text, metadata={"file_name": page.name}
                )
                self._index.insert(document)
        try:
            yield "Asking"
            with self._step("Ask"):
                self._engine(streaming=False).query(self._question)
            yield "Streaming"
            with self._step("Stream"):
                chunks = self._stream(None)
            yield "Streaming, and leaving half-way"
            with self._step("Half-way"):
                self._stream(max(1, chunks // 2))
        except Exception as error:  # noqa: BLE001 - each SDK has its own exceptions
            self._problem = f"a call to {self._model.name} failed: {error}"

    def table(self) -> StepTable:
        """What each step used, and the handler's running totals."""
        characters = sum(len(page.text) for page in self._pages)
        _, answered, failed = self._events()
        calls = Step.of_calls("", [*answered, *failed])
        return StepTable(
            heading=(
                f"Pages:      {len(self._pages)}, {characters:,} characters",
                f"LLM:        {self._model.name}",
                "Embeddings: MockEmbedding (offline)",
            ),
            rows=tuple(self._rows),
            totals=Step(
                label="Running totals",
                embedding=self.handler.total_embedding_token_count,
                prompt=self.handler.prompt_llm_token_count,
                completion=self.handler.completion_llm_token_count,
                total=self.handler.total_embedding_token_count + self.handler.total_llm_token_count,
                usd=calls.usd,
                is_whole=calls.is_whole,
            ),
        )

    def _engine(self, *, streaming: bool) -> RetrieverQueryEngine:
        # Neither `as_query_engine` nor `from_args`: both put the callback manager of Settings
        # on the LLM.
        synthesizer = get_response_synthesizer(
            llm=self._model.llm, callback_manager=self._manager, streaming=streaming
        )
        return RetrieverQueryEngine(
            self._index.as_retriever(), synthesizer, callback_manager=self._manager
        )

    def _stream(self, limit: int | None) -> int:
        """Ask for a streamed answer, read so many chunks of it, and close it.

        Args:
            limit: How many to read; `None` for all.

        Returns:
            How many were read.
        """
        response = self._engine(streaming=True).query(self._question)
        assert isinstance(response, StreamingResponse)
        with closing(response.response_gen) as chunks:
            return sum(1 for _ in islice(chunks, limit))

    @contextmanager
    def _step(self, name: str) -> Generator[None]:
        """Add the rows of what runs inside, also if it fails."""
        before = [len(events) for events in self._events()]
        try:
            yield
        finally:
            embeddings, calls, failed = (
                events[count:] for events, count in zip(self._events(), before, strict=True)
            )
            if embeddings:
                self._rows.append(Step.of_embeddings(f"{name}: embed", embeddings))
            if calls or failed:
                self._rows.append(Step.of_calls(f"{name}: answer", [*calls, *failed]))

    def _events(self) -> tuple[list[TokenCountingEvent], ...]:
        handler = self.handler
        return handler.embedding_token_counts, handler.llm_token_counts, handler.failed_calls
