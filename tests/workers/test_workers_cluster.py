"""What is known of a cluster before Ray is asked."""

from __future__ import annotations

import pytest

from potstill.errors import RecipeError, ServerError
from potstill.workers import joined


def test_where_nobody_listens_is_said_at_once():
    with (
        pytest.raises(ServerError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 "),
        joined("127.0.0.1:1", count=2, model="m"),
    ):
        pass


@pytest.mark.parametrize("address", ["head", "ray://head:10001", ":6379", "head:port", ""])
def test_what_is_no_address_is_said(address):
    with pytest.raises(RecipeError, match="HOST:PORT"), joined(address, count=2, model="m"):
        pass
