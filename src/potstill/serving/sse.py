"""Server-sent events: what streams of OpenAI's API are made of."""

from __future__ import annotations

import json

from potstill.errors import ServerError

DONE = "[DONE]"
# Of one event: beyond, it is no event but a server gone wrong.
_MOST_BYTES = 8 * 2**20


class EventReader:
    """Bytes in, as they come; the data of each event that is complete out."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, received: bytes) -> list[str]:
        """Data of the events that end here. ServerError for what is no text, or an event without an end."""
        found: list[str] = []
        *lines, self._rest = (self._rest + received).split(b"\n")
        if len(self._rest) > _MOST_BYTES or sum(map(len, self._data)) > _MOST_BYTES:
            raise ServerError(f"an event of more than {_MOST_BYTES:,} bytes")
        for line in lines:
            try:
                text = line.rstrip(b"\r").decode("utf-8")
            except UnicodeDecodeError as error:
                raise ServerError(f"an event that is not UTF-8: {error}") from error
            if not text:
                if self._data:
                    found.append("\n".join(self._data))
                self._data = []
            elif text.startswith("data:"):
                self._data.append(text.removeprefix("data:").removeprefix(" "))
            # Anything else is a comment or a field that this API does not use.
        return found


def event(data: object) -> bytes:
    """One event; text is sent as it is, anything else as JSON."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode("utf-8", "replace")
