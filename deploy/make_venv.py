"""Create a virtual environment with pip in it, also where Python came without ``ensurepip``.

Debian keeps ``ensurepip`` in a package of its own (python3-venv). Where that is missing, pip is taken from
the package index: the very file named below, accepted by its hash.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import venv
from pathlib import Path
from urllib.parse import urljoin

#: The pip to fetch. It only has to install the project's requirements once.
WHEEL = "pip-26.3-py3-none-any.whl"
SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"


def fetch(url: str) -> bytes:
    """Return what lies at ``url``.

    Without certificates on the machine the transfer goes on unverified: the hash of the wheel decides.
    """
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return bytes(answer.read())
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLCertVerificationError):
            raise
        unverified = ssl._create_unverified_context()
        with urllib.request.urlopen(url, timeout=60, context=unverified) as answer:
            return bytes(answer.read())


def pip_wheel(index: str) -> bytes:
    """Return the pip wheel of a package index ("simple" API, PEP 503).

    Raises:
        RuntimeError: If the index does not have it, or has another file under its name.
    """
    page = index.rstrip("/") + "/pip/"
    links = re.findall(r'href="([^"]+)"', fetch(page).decode())
    for link in links:
        if WHEEL in link:
            content = fetch(urljoin(page, link.split("#")[0]))
            if hashlib.sha256(content).hexdigest() != SHA256:
                raise RuntimeError(f"{WHEEL} from {index} is not the expected file")
            return content
    raise RuntimeError(f"{index} does not offer {WHEEL}")


def main(folder: Path) -> None:
    """Create the environment in ``folder``; an existing one is kept and brought in step with this Python."""
    with_pip = importlib.util.find_spec("ensurepip") is not None
    venv.EnvBuilder(with_pip=with_pip, upgrade_deps=False, symlinks=True).create(folder)
    python = folder / "bin" / "python"
    has_pip = (
        subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    )
    if has_pip:
        return
    with tempfile.TemporaryDirectory() as scratch:
        wheel = Path(scratch) / WHEEL
        wheel.write_bytes(pip_wheel(os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")))
        install = [python, wheel / "pip", "install", "--quiet", "--no-index", wheel]
        subprocess.run(install, check=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(
            f"No virtual environment could be made: {error}\n"
            "On Debian and Ubuntu `apt install python3-venv` provides what is missing."
        )
