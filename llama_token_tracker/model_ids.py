"""The forms in which Amazon Bedrock writes the id of one and the same model.

Source: the Bedrock user guide, "Supported foundation models", "Geographic cross-Region
inference" and "Amazon Bedrock ARNs" (checked 2026-11-22).
"""

import re
from typing import Final

ARN: Final = re.compile(r"^arn:(?:[^:/\n]*:)*(?P<kind>[^:/\n]*)/")
"""An ARN, up to the resource: arn:aws:bedrock:REGION:ACCOUNT:KIND/ID."""

GEOGRAPHY: Final = re.compile(r"^[a-z]{2,6}(?:-[a-z]+)?\.(?=[a-z0-9]+\.)")
"""us. eu. apac. jp. global. us-gov. …, before a vendor."""
