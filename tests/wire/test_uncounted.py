"""Requests to known providers that aren't covered are seen."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config

from llama_token_tracker import Budget, BudgetExceededError, Tracker
from llama_token_tracker.wire import WatchingTransport, watch
from llama_token_tracker.wire.botocore import UNCOUNTED
from llama_token_tracker.wire.botocore.answers import OPERATIONS
from llama_token_tracker.wire.operations import find, is_free

BATCHES = "https://api.openai.com/v1/batches"


def _post(tracker: Tracker, url: str, status: int = 200) -> httpx.Response:
    network = httpx.MockTransport(lambda _: httpx.Response(status, json={}))
    with httpx.Client(transport=WatchingTransport(tracker, network)) as client:
        return client.post(url, json={"input": "x" * 400})


def test_an_uncovered_path_is_said_counted_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    """It's logged once, in `uncounted` as often as it was sent, and on the card."""
    tracker = Tracker()
    for _ in range(2):
        _post(tracker, BATCHES)
    assert tracker.uncounted == {"api.openai.com/v1/batches": 2}
    assert caplog.text.count("api.openai.com/v1/batches") == 1
    assert "2 calls could not be counted" in tracker.summary()
    assert "2 calls could not be counted" in tracker._repr_html_()
    tracker.reset()
    assert tracker.uncounted == {}


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://api.openai.com/v1/files", 200),
        ("https://example.com/v1/batches", 200),
        (BATCHES, 400),
    ],
)
def test_what_is_free_or_unknown_is_not_said(url: str, status: int) -> None:
    """Neither free paths, nor hosts that nobody knows, nor refusals are uncounted."""
    tracker = Tracker()
    _post(tracker, url, status)
    assert tracker.uncounted == {}


def test_a_scope_has_its_own() -> None:
    """An uncounted call belongs to the scope in which it was made."""
    tracker = Tracker()
    with tracker.scope("inside") as inside:
        _post(tracker, BATCHES)
    assert inside.uncounted == tracker.uncounted == {"api.openai.com/v1/batches": 1}


def test_a_budget_in_money_refuses_it() -> None:
    """A call that can't be priced is refused where money is limited, unless that's allowed."""
    with pytest.raises(BudgetExceededError):
        _post(Tracker(budget=Budget(usd=1)), BATCHES)
    tracker = Tracker(budget=Budget(usd=1, unpriced="allow"))
    _post(tracker, BATCHES)
    assert tracker.accounts[0].spent().unpriced_calls == 1


def test_a_budget_in_tokens_is_charged_by_its_length() -> None:
    """A budget in tokens is charged, and stops further ones."""
    tracker = Tracker(budget=Budget(tokens=150, default_max_tokens=1))
    _post(tracker, BATCHES)
    with pytest.raises(BudgetExceededError):
        _post(tracker, BATCHES)
    assert sum(tracker.uncounted.values()) == 1


@pytest.mark.parametrize(("status", "uncounted"), [(200, 1), (400, 0), (None, 0)])
def test_operations_of_boto3_are_seen(status: int | None, uncounted: int) -> None:
    """An operation that isn't covered is uncounted, unless it's refused or never connected."""
    with _answering(status) as url:
        client: Any = boto3.client(
            "bedrock-runtime",
            region_name="us-east-1",
            endpoint_url=url,
            aws_access_key_id="none",
            aws_secret_access_key="none",
            config=Config(retries={"total_max_attempts": 1}),
        )
        tracker = Tracker()
        watch(tracker, client)
        with suppress(Exception):  # of botocore's, where it's refused
            client.start_async_invoke(
                modelId="amazon.nova-reel-v1:0",
                modelInput={},
                outputDataConfig={"s3OutputDataConfig": {"s3Uri": "s3://bucket"}},
            )
    expected = {"bedrock-runtime.StartAsyncInvoke": 1} if uncounted else {}
    assert tracker.uncounted == expected


@contextmanager
def _answering(status: int | None) -> Iterator[str]:
    """A server that answers all with this status; with `None` nobody listens there."""
    if status is None:
        yield "http://127.0.0.1:9"
        return

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


# --- what SDKs can send ------------------------------------------------------------------------

_POST = r'self\._post\(\s*(?:path_template\(\s*)?f?"([^"]+)"'

SDKS = {
    "openai": ("resources", _POST, "/v1"),
    "anthropic": ("resources", _POST, ""),
    "cohere": (
        "",
        r'\.(?:request|stream)\(\s*f?"([^"]+)",\s*(?:base_url=[^,]*,\s*)?method="POST"',
        "/",
    ),
    "mistralai": ("", r'method="POST",\s*path="([^"]+)"', ""),
    "google.genai": ("", r"'([^']*)'\.format_map", "/v1beta/models/"),
    "ollama": ("", r"'POST',\s*'([^']+)'", ""),
}
"""Where an SDK's source names the paths of its requests, and what stands before them."""


def sent_by(sdk: str) -> set[str]:
    """The paths to which an SDK can post, parameters as plain words."""
    folder, pattern, before = SDKS[sdk]
    spec = pytest.importorskip(sdk) and find_spec(sdk)
    root = Path(next(iter(spec.submodule_search_locations)), folder)  # type: ignore[union-attr,arg-type]
    found = {m for file in root.rglob("*.py") for m in re.findall(pattern, file.read_text())}
    return {before + re.sub(r"\{[^}]*\}", "x", re.split("[?#]", path)[0]) for path in found}


NAMES = {"mistralai": "mistral_ai", "google.genai": "gcp.gemini"}
# Where its API is, for what is known at no other host.
HOSTS = {"mistralai": "api.mistral.ai"}

SEEN: dict[str, set[str]] = {
    "openai": {
        "/v1/audio/voice_consents",
        "/v1/audio/voice_consents/x",
        "/v1/audio/voices",
        "/v1/batches",
        "/v1/chatkit/sessions",
        "/v1/evals",
        "/v1/evals/x",
        "/v1/evals/x/runs",
        "/v1/evals/x/runs/x",
        "/v1/fine_tuning/alpha/graders/run",
        "/v1/fine_tuning/jobs",
        "/v1/live/sessions",
        "/v1/live/sessions/x/accept",
        "/v1/live/sessions/x/fork",
        "/v1/live/sessions/x/hangup",
        "/v1/live/sessions/x/refer",
        "/v1/live/sessions/x/reject",
        "/v1/realtime/calls",
        "/v1/realtime/calls/x/accept",
        "/v1/realtime/calls/x/hangup",
        "/v1/realtime/calls/x/refer",
        "/v1/realtime/calls/x/reject",
        "/v1/realtime/sessions",
        "/v1/realtime/transcription_sessions",
        "/v1/threads/runs",
        "/v1/threads/x/runs",
        "/v1/threads/x/runs/x",
        "/v1/threads/x/runs/x/submit_tool_outputs",
        "/v1/videos",
        "/v1/videos/characters",
        "/v1/videos/edits",
        "/v1/videos/extensions",
        "/v1/videos/x/remix",
    },
    "anthropic": {
        "/v1/complete",
        "/v1/deployments",
        "/v1/deployments/x",
        "/v1/deployments/x/run",
        "/v1/dreams",
        "/v1/messages/batches",
        "/v1/sessions",
        "/v1/sessions/x",
        "/v1/sessions/x/events",
        "/v1/sessions/x/resources",
        "/v1/sessions/x/resources/x",
    },
    "cohere": {
        "/v1/classify",
        "/v1/embed-jobs",
        "/v1/finetuning/finetuned-models",
        "/v1/summarize",
        "/v2/batches",
        "/v2/parse",
    },
    "mistralai": {
        "/providers/mistral/azure/ocr",
        "/rawPredict",
        "/streamRawPredict",
        "/v1/audio/sessions",
        "/v1/audio/voices",
        "/v1/batch/jobs",
        "/v1/chat/classifications",
        "/v1/chat/moderations",
        "/v1/classifications",
        "/v1/client/sessions",
        "/v1/context/search-indexes",
        "/v1/context/search-indexes/x/documents",
        "/v1/context/search-indexes/x/grep",
        "/v1/context/search-indexes/x/navigate",
        "/v1/context/search-indexes/x/read",
        "/v1/context/search-indexes/x/search",
        "/v1/context/search-indexes/x/summary_field/x",
        "/v1/moderations",
        "/v1/observability/dataset-records/x/live-judging",
        "/v1/observability/judges",
        "/v1/observability/judges/x/live-judging",
        "/v1/ocr",
        "/v1/triggers",
        "/v1/workflows/deployments",
        "/v1/workflows/deployments/x/restart",
        "/v1/workflows/deployments/x/start",
        "/v1/workflows/deployments/x/stop",
        "/v1/workflows/deployments/x/unharden",
        "/v1/workflows/executions/terminate",
        "/v1/workflows/executions/x/queries",
        "/v1/workflows/executions/x/reset",
        "/v1/workflows/executions/x/signals",
        "/v1/workflows/executions/x/terminate",
        "/v1/workflows/executions/x/updates",
        "/v1/workflows/registrations/x/execute",
        "/v1/workflows/schedules",
        "/v1/workflows/schedules/x/trigger",
        "/v1/workflows/x/execute",
        "/v1/workflows/x/tags",
    },
    "google.genai": {
        "/v1beta/models/batchPredictionJobs",
        "/v1beta/models/batchPredictionJobs/x",
        "/v1beta/models/batches",
        "/v1beta/models/batches/x",
        "/v1beta/models/cachedContents",
        "/v1beta/models/fileSearchStores",
        "/v1beta/models/operations/x",
        "/v1beta/models/tunedModels",
        "/v1beta/models/upload/x}/x:uploadToFileSearchStore",
        "/v1beta/models/tuningJobs",
        "/v1beta/models/x",
        "/v1beta/models/x/documents",
        "/v1beta/models/x/tuningJobs:validateReinforcementTuningReward",
        "/v1beta/models/x:asyncBatchEmbedContent",
        "/v1beta/models/x:batchGenerateContent",
        "/v1beta/models/x:fetchPredictOperation",
        "/v1beta/models/x:importFile",
        "/v1beta/models/x:predict",
        "/v1beta/models/x:predictLongRunning",
    },
    "ollama": {
        "/api/copy",
        "/api/create",
        "/api/pull",
        "/api/push",
        "/api/show",
        "/v1/systemone",
        "https://ollama.com/api/web_fetch",
        "https://ollama.com/api/web_search",
    },
}
"""Paths that may be billed and aren't counted: a request to one is in `uncounted`."""


@pytest.mark.parametrize("sdk", SDKS)
def test_every_path_of_an_sdk_is_covered_free_or_known(sdk: str) -> None:
    """A new path of an SDK's new version is in one of three tables, or fails here."""
    paths = sent_by(sdk)
    assert paths
    host = HOSTS.get(sdk, "")
    unknown = {p for p in paths if not (find(host, "POST", p) or is_free(NAMES.get(sdk, sdk), p))}
    assert unknown <= SEEN.get(sdk, set()), sorted(unknown - SEEN.get(sdk, set()))


def test_every_operation_of_bedrock_runtime_is_covered_free_or_known() -> None:
    """The service's own model names no operation that nobody here knows."""
    names = set(boto3.client("bedrock-runtime", "us-east-1").meta.service_model.operation_names)
    free = {"CountTokens", "GetAsyncInvoke", "ListAsyncInvokes"}
    assert names <= {*OPERATIONS, *UNCOUNTED, *free}
