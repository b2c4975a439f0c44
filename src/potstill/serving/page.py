"""The small page to chat on: one file, nothing from elsewhere."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class ChatPage:
    """The page, and headers that allow it its own script, its own style and this door, and nothing else."""

    html: str
    headers: Mapping[str, str]


@functools.cache
def chat_page() -> ChatPage:
    """page.html, whose script and style are allowed by their hashes."""
    html = resources.files("potstill.serving").joinpath("page.html").read_text("utf-8")
    script, style = _hash_of("script", html), _hash_of("style", html)
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return ChatPage(html, headers)


def _hash_of(tag: str, html: str) -> str:
    [inside] = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
