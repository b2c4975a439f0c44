"""What is known of a cluster before Ray is asked."""

from __future__ import annotations

import pytest

from potstill.errors import RecipeError, ServerError
from potstill.workers import joined
from potstill.workers.cluster import has_token


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


def test_a_token_is_found_where_ray_finds_it(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not has_token()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0")
    assert has_token()
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0")
    assert has_token()
