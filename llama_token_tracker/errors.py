"""Everything this package raises on purpose.

    LlamaTokenTrackerError
    ├── CountRefusedError               a provider that was asked for a count gave none
    ├── LoopbackError (ValueError)      a loopback provider told to do what it can't
    ├── TokenizerError (ValueError)     a tokenizer that can't count, or isn't there
    └── UsageShapeError (ValueError)    a usage that contradicts itself

Nothing here is ever raised into a LlamaIndex call: these answer bad input to this
package's own API. The one exception that LlamaIndex's handler raises itself, the plain
`ValueError` of `token_budget`, is raised here word for word and is no part of the tree.
"""


class LlamaTokenTrackerError(Exception):
    """Base class of all errors of this package."""


class UsageShapeError(LlamaTokenTrackerError, ValueError):
    """A usage contradicts itself: a count is negative, or a part exceeds its whole."""


class TokenizerError(LlamaTokenTrackerError, ValueError):
    """A tokenizer can't count tokens, or its vocabulary isn't on this machine."""


class LoopbackError(LlamaTokenTrackerError, ValueError):
    """A loopback provider is told to answer, or asked for, what no provider could."""


class CountRefusedError(LlamaTokenTrackerError):
    """A provider that was asked what a prompt costs gave no count."""
