"""Facts as JSON has them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def json_of(facts: Mapping[str, object]) -> str:
    """With null in the place of what is not a finite number."""
    return json.dumps(finite(facts), indent=2, allow_nan=False) + "\n"


def finite(value: object) -> object:
    """Without NaN and infinity, which JSON doesn't know."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {str(key): finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [finite(inner) for inner in value]
        case _:
            return value
