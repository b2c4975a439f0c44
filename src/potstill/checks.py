"""Short checks of what is written to disk, so that what has changed there is found and not gone on with. CRC-32: against accidents."""

from __future__ import annotations

import json
import zlib
from pathlib import Path


def check_of_file(path: Path) -> str:
    """Of all its bytes. Raises OSError."""
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(2**24):
            found = zlib.crc32(chunk, found)
    return f"{found:08x}"


def check_of_json(content: object) -> str:
    """The same of what is written as JSON and of what is read back."""
    return f"{zlib.crc32(json.dumps(content, default=str).encode()):08x}"
