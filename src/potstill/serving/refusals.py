"""What a client is told when it gets no answer, in the shape of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping

from potstill.errors import ServerError

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class RefusedError(ServerError):
    """An HTTP status, and why; `code` is for programs, `param` the field that is wrong, `retry_after` seconds."""

    def __init__(
        self, status: int, message: str, *, code: str, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after = status, message, code, param, retry_after

    @property
    def body(self) -> dict[str, object]:
        """{"error": {...}}."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> Mapping[str, str]:
        """Retry-After, where waiting helps."""
        return {} if self.retry_after is None else {"retry-after": str(max(1, round(self.retry_after)))}


def wrong(message: str, param: str | None = None) -> RefusedError:
    """What was asked can't be answered by anyone: 400."""
    return RefusedError(400, message, code="invalid_value", param=param)
