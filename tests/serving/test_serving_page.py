"""The chat page in headless Chromium: it says who answered, and what a model says stays text."""

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from doors import open_door, policy
from fake_engine import engine

from potstill.serving.page import chat_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ATTACK = '<img src=x onerror="document.title=1"><script>document.title=2</script>&amp;'


def seen(url: str, question: str, profile: Path) -> str:
    """The page's document after it asked a question."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=60000"]
    found = subprocess.run(
        [str(CHROMIUM), *options, f"--user-data-dir={profile}", "--dump-dom", f"{url}/#ask={quote(question)}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return found.stdout


def test_the_page_is_one_file_that_allows_itself_alone():
    page = chat_page()
    allowed = page.headers["content-security-policy"]
    assert "default-src 'none'" in allowed
    assert "unsafe" not in allowed
    assert not re.search(r"https?://|src=|href=|innerHTML|\bon[a-z]+=|style=", page.html)
    with engine() as student, open_door(student=student) as door:
        reply = httpx.get(door.url)
        assert reply.text == page.html
        assert reply.headers["content-security-policy"] == allowed


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_shows_who_answered_and_escapes_what_was_said(tmp_path):
    with (
        engine(answer=ATTACK) as student,
        engine(name="teacher") as teacher,
        open_door(student=student, teacher=teacher, by=policy()) as door,
    ):
        easy = seen(door.url, f"easy {ATTACK}", tmp_path / "a")
        assert "student: confident, confidence 0.99 (threshold 0.80)" in easy
        assert "<title>potstill</title>" in easy
        escaped = ATTACK.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert f'<article class="user"><span>easy {escaped}</span></article>' in easy
        assert f"<span>{escaped}</span>" in easy
        assert "<img" not in easy
        assert "routed: student up, teacher up" in easy
        assert '<option value="teacher">' in easy
        hard = seen(door.url, "hard & heavy", tmp_path / "b")
        assert '<article class="teacher"' in hard
        assert "teacher to hard &amp; heavy" in hard
        assert "teacher: unsure, confidence 0.20 (threshold 0.80)" in hard
        teacher.kill()
        gone = seen(door.url, "hard again", tmp_path / "c")
        assert "error" in re.findall(r'<article class="([^"]*)"', gone)[-1]
        assert "the teacher is not there" in gone
