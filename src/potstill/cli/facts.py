"""Facts as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def json_of(facts: Mapping[str, object]) -> str:
    """With null in the place of what is not a finite number, for which JSON has no word."""
    return json.dumps(_finite(facts), indent=2, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {str(key): _finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
        case _:
            return value
