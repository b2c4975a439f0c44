"""Stores at URLs: `memory://` here, and a server that speaks S3's language where moto and s3fs are installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
from fake_labels import TEACHER, files_of, labelled, manifest_of

from potstill.errors import StoreError
from potstill.soft_labels import Manifest, Mirror, Sampled, Store, begin_store, is_url, label, store_at


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place where nothing is yet; copies of what will be there go to the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "memory":
        return f"memory://{uuid4().hex}/labels"
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("server"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return f"s3://{uuid4().hex}/labels"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Speaks S3's language on this machine."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("s3fs") is None:
        pytest.skip("needs moto[server] and s3fs, which the lock file can't have beside it (docs/ray.md)")
    place = "http://127.0.0.1:5557"
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "5557"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(240):
        try:
            urllib.request.urlopen(place, timeout=1).close()
            break
        except OSError:
            time.sleep(0.25)
    yield place
    process.kill()
    process.wait()


def put(mirror: Mirror, corpus, manifest: Manifest) -> Store:
    """Labelled into the copy, and sent."""
    mirror.fetch()
    store = labelled(mirror.folder, corpus, manifest)
    mirror.send()
    return store


def there(url: str) -> dict[str, bytes]:
    """Everything at the URL, byte for byte."""
    files, root = fsspec.url_to_fs(url)
    files.invalidate_cache()
    return {name.rsplit("/", 1)[-1]: files.cat_file(name) for name in files.find(root)}


def away(url: str, name: str) -> None:
    files, root = fsspec.url_to_fs(url)
    files.rm(f"{root}/{name}")
    files.invalidate_cache()


def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From now on this is another machine: it has no copies."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / uuid4().hex))


def test_what_is_sent_is_read_elsewhere(url, store, corpus, tmp_path, monkeypatch):
    put(Mirror(url), corpus, store.manifest)
    assert there(url) == files_of(store.folder)
    elsewhere(monkeypatch, tmp_path)
    found = store_at(url)
    assert files_of(found.folder) == files_of(store.folder)
    assert found.num_documents == store.num_documents > 0


def test_labelling_goes_on_from_what_is_there(url, store, corpus, tmp_path, monkeypatch):
    """Another machine labels what is missing, and sends no more than that."""
    put(Mirror(url), corpus, store.manifest)
    lost = sorted(name for name in there(url) if name.endswith(".labels"))[0]
    away(url, lost)
    elsewhere(monkeypatch, tmp_path)
    mirror = Mirror(url)
    mirror.fetch()
    before = {path.name: path.stat().st_mtime_ns for path in mirror.folder.iterdir()}
    assert lost not in before
    for _ in label(TEACHER, corpus, mirror.folder):
        mirror.send()
    mirror.send()
    assert there(url) == files_of(store.folder)
    assert {path.name for path in mirror.folder.iterdir() if path.stat().st_mtime_ns != before.get(path.name)} == {
        lost,
        "plan.json",
    }


def test_half_sent_files_are_no_labels(url, store, corpus):
    put(Mirror(url), corpus, store.manifest)
    files, root = fsspec.url_to_fs(url)
    files.pipe_file(f"{root}/{'0' * 24}.labels.part", b"half")
    files.pipe_file(f"{root}/notes.txt", b"of no store")
    assert store_at(url).num_tokens == store.num_tokens


def test_a_copy_of_another_store_is_cleared_away(url, store, corpus):
    """Somebody else put other labels there meanwhile; or took all of them away."""
    mirror = Mirror(url)
    put(mirror, corpus, store.manifest)
    for name in there(url):
        away(url, name)
    other = manifest_of(Sampled(0.2))
    mirror.fetch()
    assert list(mirror.folder.iterdir()) == []
    begin_store(mirror.folder, other, corpus)
    mirror.send()
    assert sorted(there(url)) == ["manifest.json", "tables.safetensors"]
    (mirror.folder / "manifest.json").write_bytes((store.folder / "manifest.json").read_bytes())
    Mirror(url).fetch()
    assert Manifest.load(mirror.folder)[0] == other


def test_a_store_that_is_not_there_is_said(url):
    with pytest.raises(StoreError, match="holds no soft labels"):
        store_at(url)


def test_a_file_system_that_nobody_knows_is_said():
    assert is_url("s3://bucket/labels")
    assert not is_url("runs/labels")
    with pytest.raises(StoreError, match=r"nowhere://x can't be reached: Protocol not known.*s3fs"):
        Mirror("nowhere://x")


def test_what_cannot_be_brought_whole_is_refused(store, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "there"
    source.mkdir()
    for name, data in files_of(store.folder).items():
        (source / name).write_bytes(data)
    shard = next(source.glob("*.labels"))
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(StoreError, match="damaged"):
        store_at(f"file://{source}")
