"""What a call cost: `Prices` turns its usage, its model and its time into US dollars.

Unknown is not zero: what has no price costs `None`.
"""

from llama_token_tracker.pricing.own import Price
from llama_token_tracker.pricing.prices import OwnPrices, Prices
from llama_token_tracker.pricing.rates import Cost

__all__ = ["Cost", "OwnPrices", "Price", "Prices"]
