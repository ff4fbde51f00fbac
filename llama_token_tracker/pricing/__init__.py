"""Cost of a call: `Prices` turns its usage, provider, model and time into US dollars.

An unknown price is not zero: the cost is `None`.
"""

from llama_token_tracker.pricing.own import Price
from llama_token_tracker.pricing.prices import OwnPrices, Prices
from llama_token_tracker.pricing.rates import Cost
from llama_token_tracker.pricing.served import UNSAID, Served

__all__ = ["UNSAID", "Cost", "OwnPrices", "Price", "Prices", "Served"]
