"""A program whose processes share a budget and call a provider as fast as they may.

    python -m tests.budgets.spender URL PROVIDER_URL PROCESSES

One more is killed before with a call open. It prints what the store says of them, as JSON.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from llama_index.core.callbacks import CallbackManager
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.llms.openai import OpenAI

from llama_token_tracker import Budget, BudgetExceededError, SqlAccounts, TokenCountingHandler
from llama_token_tracker.budgets import Accounts, RedisAccounts

LIMIT = 1_000
LEASE_S = 1.0
WAIT_S = 30.0
PROMPT = "word " * 30
TAGS = {"user": "ann"}


def store_at(url: str, **options: Any) -> Any:
    """The store that a URL names."""
    kind = RedisAccounts if url.startswith("redis") else SqlAccounts
    return kind(url, **options)


def in_child(work: Callable[[], object]) -> int:
    """Do something in a forked process."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        os._exit(0)


def main(url: str, provider_url: str, processes: int) -> None:
    """Spend the budget to its end."""
    told, teller = os.pipe()
    handler = TokenCountingHandler(
        budget=Budget(
            tokens=LIMIT,
            per="user",
            # A machine that is busy with other tests is slow, and not away.
            shared=store_at(url, wait_s=WAIT_S),
            at={0.5: lambda _: os.write(teller, b"!")},
        )
    )
    (accounts,) = handler.accounts
    llm = OpenAI(
        model="gpt-4o-mini",
        api_key="none",
        api_base=provider_url,
        max_retries=0,
        callback_manager=CallbackManager([handler]),
    )

    def spend() -> None:
        with instrument_tags(TAGS):
            while True:
                try:
                    llm.complete(PROMPT, max_tokens=10)
                except BudgetExceededError as error:
                    if not error.reserved.tokens:
                        return
                    time.sleep(0.02)

    accounts.spent(TAGS)  # before the fork: no connection may be shared
    reader, writer = os.pipe()

    def die() -> None:
        store = store_at(url, wait_s=WAIT_S, lease_s=LEASE_S)
        mortal = Accounts(Budget(tokens=LIMIT, per="user", shared=store))
        held = mortal.reserve(TAGS, None, input_tokens=300, output_tokens=0, usd=None)
        os.write(writer, b"held")
        time.sleep(600)
        held.release()

    victim = in_child(die)
    os.read(reader, 4)
    held = accounts.spent(TAGS).reserved_tokens
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    for child in [in_child(spend) for _ in range(processes)]:
        os.waitpid(child, 0)
    end = accounts.spent(TAGS)
    os.close(teller)
    found = {"held": held, "spent": end.tokens, "reserved": end.reserved_tokens}
    print(json.dumps({**found, "alerts": len(os.read(told, 100))}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
