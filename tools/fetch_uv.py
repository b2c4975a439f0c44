"""Bring the uv that uv.lock names into a folder, with Python's standard library alone.

    python3 tools/fetch_uv.py .tools/uv        (makes .tools/uv/bin/uv)

For machines whose Python has neither venv nor pip: tools/setup.sh comes here last. The file is checked against the hash
in uv.lock before anything is written.
"""

import hashlib
import io
import platform
import re
import sys
import tomllib
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

# The musl build is linked statically: it runs on every Linux, whatever its libc.
FAMILIES = {"Linux": "musllinux", "Darwin": "macosx"}


def locked_wheel(lock: dict, *, system: str, machine: str) -> dict:
    """The lock's entry of the uv wheel for this system; ends the process when there is none."""
    wheels = next(package for package in lock["package"] if package["name"] == "uv")["wheels"]
    tag = re.compile(rf"{FAMILIES.get(system, system)}_\d+_\d+_{machine}\b")
    for wheel in wheels:
        if tag.search(wheel["url"]):
            return wheel
    sys.exit(f"setup: uv.lock has no uv for {system} on {machine}")


def main() -> None:
    root = Path(__file__).parent.parent
    lock = tomllib.loads((root / "uv.lock").read_text(encoding="utf-8"))
    wheel = locked_wheel(lock, system=platform.system(), machine=platform.machine())
    try:
        with urllib.request.urlopen(wheel["url"], timeout=60) as answer:
            content = answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        sys.exit(f"setup: could not fetch {wheel['url']}: {error}")
    if "sha256:" + hashlib.sha256(content).hexdigest() != wheel["hash"]:
        sys.exit(f"setup: {wheel['url']} is not the file that uv.lock describes")
    folder = Path(sys.argv[1]) / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        [member] = [name for name in archive.namelist() if name.endswith(".data/scripts/uv")]
        (folder / "uv").write_bytes(archive.read(member))
    (folder / "uv").chmod(0o755)


if __name__ == "__main__":
    main()
