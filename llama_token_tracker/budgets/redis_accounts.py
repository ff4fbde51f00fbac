"""`RedisAccounts`: budgets' accounts in Redis, each step one script, by the server's own clock."""

from collections.abc import Iterable
from typing import Any, Final

from llama_token_tracker._lock import LOADING, pass_on
from llama_token_tracker._printable import plain, printable
from llama_token_tracker.budgets.store import (
    KEEP_DEAD_US,
    LEASE_S,
    NO_LIMITS,
    NOTHING,
    WAIT_S,
    Hold,
    Limits,
    Standing,
    Used,
    check_seconds,
    standing_of,
)
from llama_token_tracker.errors import BudgetError

# Whole numbers stay text where they're added up: Lua's are floats, and exact up to 2^53 alone.
_SCRIPT: Final = """
local account, leases, held, dead, window = unpack(KEYS)
local step, id, first, last, tokens, money, unpriced, most_tokens, most_money, lease, keep, top,
    name = unpack(ARGV)
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function exact(number) return string.format('%.0f', number) end
local function add(field, amount, sign)
  if amount ~= '0' then redis.call('HINCRBY', account, field, (sign or '') .. amount) end
end
local function take(hold, sign)
  local t, m = string.match(hold, '(%d+),(%d+)')
  add('reserved_tokens', t, sign)
  add('reserved_money', m, sign)
end
for _, one in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', exact(now), 'LIMIT', 0, 100)) do
  take(redis.call('HGET', held, one), '-')
  redis.call('ZREM', leases, one)
  redis.call('ZADD', dead, exact(now), one)
end
local old = exact(now - keep)
for _, one in ipairs(redis.call('ZRANGEBYSCORE', dead, '-inf', old, 'LIMIT', 0, 100)) do
  redis.call('HDEL', held, one)
  redis.call('ZREM', dead, one)
end
local function value(field) return redis.call('HGET', account, field) or '0' end
local function roll()
  if tonumber(value('end')) < tonumber(last) then
    redis.call('HSET', account, 'end', last, 'tokens', '0', 'money', '0', 'unpriced', '0')
  end
end
local function lend()
  redis.call('ZADD', leases, exact(now + lease), id)
  redis.call('ZREM', dead, id)
end
local is_now = now >= tonumber(first) and now < tonumber(last)
local hold = redis.call('HGET', held, id)
local done = step == 'reserve' and hold and 1 or 0
if step == 'reserve' and is_now then
  local is_over = tonumber(value('end')) < tonumber(last)
  local spent_tokens = is_over and 0 or tonumber(value('tokens'))
  local spent_money = is_over and 0 or tonumber(value('money'))
  if not hold
      and spent_tokens + value('reserved_tokens') + tokens <= tonumber(most_tokens)
      and spent_money + value('reserved_money') + money <= tonumber(most_money) then
    roll()
    redis.call('HSET', held, id, tokens .. ',' .. money)
    take(tokens .. ',' .. money)
    lend()
    done = 1
  end
elseif (step == 'settle' and is_now or step == 'release') and hold then
  redis.call('HDEL', held, id)
  redis.call('ZREM', dead, id)
  if redis.call('ZREM', leases, id) == 1 then take(hold, '-') end
  if step == 'settle' then
    roll()
    add('tokens', tokens)
    add('money', money)
    add('unpriced', unpriced)
    done = 1
  end
elseif step == 'extend' and hold then
  if not redis.call('ZSCORE', leases, id) then take(hold) end
  lend()
end
if done == 1 then
  local until_ = value('end')
  if tonumber(until_) > tonumber(redis.call('GET', window) or '0') then
    redis.call('SET', window, until_)
  end
  redis.call('ZADD', top .. until_, math.max(value('tokens') / math.max(most_tokens, 1),
                                             value('money') / math.max(most_money, 1)), name)
  redis.call('PEXPIREAT', top .. until_, exact(math.min(until_ / 1000 + 86400000, 4e15)))
end
return {exact(now), value('end'), value('tokens'), value('money'), value('unpriced'),
        value('reserved_tokens'), value('reserved_money'), done}
"""


class RedisAccounts:
    """Budgets' accounts in Redis, for all processes and machines that reach it.

    What is spent stays until it's deleted; keep Redis from forgetting it (`appendonly yes`, and
    no eviction of keys without a time to live).

    Args:
        url: Where it is, as redis-py takes it: `redis://`, `rediss://` or `unix://`.
        lease_s: So long a reservation outlives a process that dies, in seconds.
        wait_s: So long a call waits for an answer at the most, in seconds.
        prefix: How all of its keys begin.

    Raises:
        BudgetError: The URL can't be one, redis-py isn't installed, or nobody answers there.
    """

    def __init__(
        self,
        url: str,
        *,
        lease_s: float = LEASE_S,
        wait_s: float = WAIT_S,
        prefix: str = "llama-token-tracker",
    ) -> None:
        self.__setstate__({"_url": url, "lease_s": lease_s, "_wait_s": wait_s, "_prefix": prefix})
        check_seconds(lease_s=lease_s, wait_s=wait_s)
        try:
            self._redis.ping()
        except Exception as error:
            pass_on(error)
            msg = f"no Redis answers at {self.place}: {printable(error)}"
            raise BudgetError(msg) from error

    lease_s: float
    _prefix: str
    _url: str
    _wait_s: float

    def __getstate__(self) -> dict[str, Any]:
        """Where they are: a copy connects by itself."""
        return {name: vars(self)[name] for name in ("_url", "lease_s", "_wait_s", "_prefix")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Connect when it's first asked."""
        vars(self).update(state)
        self._redis, self.place = _connected_to(self._url, self._wait_s)
        self._script = self._redis.register_script(_SCRIPT)

    def reserve(self, hold: Hold, limits: Limits) -> Standing:
        """Reserve, if with it nothing is beyond the limits."""
        return self._run("reserve", hold, Used(hold.tokens, hold.nanodollars, 0), limits)

    def settle(self, hold: Hold, used: Used, limits: Limits) -> Standing:
        """Spend in the place of what is reserved."""
        return self._run("settle", hold, used, limits)

    def release(self, hold: Hold) -> None:
        """Give back what is reserved, if it is."""
        self._run("release", hold)

    def extend(self, holds: Iterable[Hold]) -> None:
        """Begin the leases of these anew."""
        for hold in holds:
            self._run("extend", hold)

    def standing(self, budget: str, key: str) -> Standing:
        """The state of an account."""
        return self._run("read", Hold("", budget, key, 0, 0, 0, 0))

    def fullest(
        self, budget: str, limits: Limits, most: int
    ) -> tuple[list[tuple[str, Standing]], int]:
        """Accounts that have used up most in this window, and how many there are in it."""
        del limits  # their order was found out when they settled
        top = self._top(budget)
        names = [name.decode() for name in self._redis.zrevrange(top, 0, most - 1)]
        found = [(name, self.standing(budget, name)) for name in names]
        current = [(name, one) for name, one in found if one.end_us > one.now_us]
        return current, self._redis.zcard(top) if current else 0

    def reset(self, budget: str) -> None:
        """Have nothing be spent in all accounts of a budget."""
        top = self._top(budget)
        for name in self._redis.zrange(top, 0, -1):
            account = self._keys(budget, name.decode())[0]
            self._redis.hset(account, mapping={"tokens": 0, "money": 0, "unpriced": 0})
            self._redis.zadd(top, {name: 0})

    def close(self) -> None:
        """Let go of all connections; the next question makes new ones."""
        self._redis.close()

    def _run(
        self, step: str, hold: Hold, used: Used = NOTHING, limits: Limits = NO_LIMITS
    ) -> Standing:
        window = hold.start_us, hold.end_us
        lease = int(self.lease_s * 1e6), KEEP_DEAD_US
        top = f"{self._base(hold.budget)}:top:"
        args = [step, hold.id, *window, *used, *limits, *lease, top, hold.key]
        found = self._script(keys=self._keys(hold.budget, hold.key), args=args)
        now, *figures, is_held = map(int, found)
        return standing_of(now, figures, is_held=bool(is_held))

    def _base(self, budget: str) -> str:
        # In braces, so that all keys of one budget are on the same node of a cluster.
        return f"{self._prefix}:{{{budget}}}"

    def _keys(self, budget: str, key: str) -> list[str]:
        base = self._base(budget)
        account = f"{base}:account:{key}"
        return [
            account,
            f"{account}:leases",
            f"{account}:held",
            f"{account}:dead",
            f"{base}:window",
        ]

    def _top(self, budget: str) -> str:
        window = self._redis.get(f"{self._base(budget)}:window")
        return f"{self._base(budget)}:top:{(window or b'0').decode()}"


def _connected_to(url: str, wait_s: float) -> tuple[Any, str]:
    """A client of redis-py, and where that is as people may read it."""
    try:
        with LOADING:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
    except ModuleNotFoundError:
        msg = (
            'the package redis isn\'t installed; pip install ".[redis]" in a clone of this project.'
        )
        raise BudgetError(msg) from None
    try:
        factory: Any = redis.Redis
        client = factory.from_url(
            url,
            socket_timeout=wait_s,
            socket_connect_timeout=wait_s,
            # A connection that broke while nobody used it, as after a restart.
            retry=Retry(NoBackoff(), 1),
        )
    except (ValueError, AttributeError, TypeError) as error:
        msg = (
            f"the URL of Redis can't be read ({printable(error)}); give one such as "
            '"redis://host:6379/0".'
        )
        raise BudgetError(msg) from None
    known = client.connection_pool.connection_kwargs
    place = known.get("path") or f"{known.get('host')}:{known.get('port', 6379)}"
    return client, plain(f"Redis {place}", 300)
