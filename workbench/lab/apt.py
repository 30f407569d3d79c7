"""Debian packages without installing them and without touching the system's own lists.

A private configuration names the archive that the system itself uses, in suites that may be newer than the system, and
keeps its lists in our cache. Packages are downloaded, checked by apt against the archive's signature, and extracted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import MissingCapability, RunFailed

__all__ = (
    "SUITES",
    "Apt",
    "Stanza",
    "archive_uri",
    "parse_stanzas",
    "parse_uris",
    "suite_of_system",
)

SUITES = ("sid", "testing", "trixie-backports", "stable-backports")
"""Where a kernel with sched_ext may be."""

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LIMIT = 300.0  # seconds for one run of apt
_FRESH = 3600.0  # seconds for which package lists are not asked for again

Stanza = dict[str, str]
"""Fields of one package, as `apt-cache show` prints them."""


def parse_stanzas(text: str) -> list[Stanza]:
    """Packages as `apt-cache show` and the archive's index have them (deb822): fields, continued lines joined."""
    stanzas: list[Stanza] = []
    for block in re.split(r"\n\s*\n", text):
        fields: Stanza = {}
        name = ""
        for line in block.splitlines():
            if line[:1] in (" ", "\t"):
                if name:
                    fields[name] += "\n" + line.strip()
            elif ":" in line and not line.startswith("#"):
                name, value = line.split(":", 1)
                fields[name] = value.strip()
        if fields:
            stanzas.append(fields)
    return stanzas


def parse_uris(text: str) -> list[str]:
    """Names of the packages in `apt-get install --print-uris`: ``'URI' NAME_VERSION_ARCH.deb SIZE HASH`` each."""
    return [match for match in re.findall(r"^'[^']+' ([^_\s]+)_\S+\.deb \d+", text, re.MULTILINE)]


def archive_uri(texts: Iterable[str]) -> str:
    """The archive that the system's own sources name; "" when they name none of Debian.

    Parameters
    ----------
    texts : iterable of str
        Contents of ``sources.list`` files, of the one-line kind and of the deb822 kind.
    """
    for text in texts:
        for line in text.splitlines():
            words = re.sub(r"\[[^]]*\]", " ", line.split("#", 1)[0]).split()
            if words[:1] == ["deb"] or (words and words[0].lower() == "uris:"):
                for word in words[1:]:
                    if re.match(r"(https?|file|mirror\+\w+)://?\S+/debian/?$", word):
                        return word.rstrip("/")
    return ""


def suite_of_system() -> str:
    """The code name of this system's release; "" if it does not say."""
    try:
        text = Path("/etc/os-release").read_text(errors="replace")
    except OSError:
        return ""
    match = re.search(r'^VERSION_CODENAME="?([\w-]+)', text, re.MULTILINE)
    return match[1] if match else ""


@dataclass(frozen=True, slots=True)
class Apt:
    """apt with a configuration of its own in `folder`.

    Parameters
    ----------
    folder : Path
        Takes configuration, lists and downloads.
    suites : tuple of str
        Of the archive.
    uri : str
        The archive.
    """

    folder: Path
    suites: tuple[str, ...]
    uri: str

    @classmethod
    def of_system(cls, folder: Path) -> Apt:
        """The system's archive with `SUITES` and the system's own suite.

        Raises
        ------
        MissingCapability
            No apt, no sources that name Debian's archive, or not its keys.
        """
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise MissingCapability(
                "there is no apt-get here to get a kernel with",
                "give one: `workbench lab prepare --kernel PATH`",
            )
        places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
        uri = archive_uri(path.read_text(errors="replace") for path in places if path.is_file())
        if not uri or not _KEYRING.exists():
            raise MissingCapability(
                "this system's apt sources name no Debian archive"
                if not uri
                else f"there is no {_KEYRING}",
                "give a kernel with sched_ext: `workbench lab prepare --kernel PATH`",
            )
        own = suite_of_system()
        return cls(folder, tuple(dict.fromkeys((*SUITES, *([own] if own else [])))), uri)

    def update(self, say: Callable[[str], None]) -> None:
        """Get the package lists, unless they are fresh. A suite that the archive lacks is left out.

        Raises
        ------
        MissingCapability
            The archive cannot be reached.
        """
        stamp = self.folder / "updated"
        if (
            stamp.exists()
            and 0 <= time.time() - stamp.stat().st_mtime < _FRESH
            and stamp.read_text() == " ".join((self.uri, *self.suites))
        ):
            return
        say(f"getting the package lists of {self.uri}")
        self._configure()
        run = self._run("apt-get", "update")
        lists = list((self.folder / "lists").glob("*_Packages*"))
        if not lists:
            raise MissingCapability(
                f"the package lists of {self.uri} could not be fetched: {_complaint(run.stderr)}",
                "connect to the network, or give a kernel: `workbench lab prepare --kernel PATH`",
            )
        stamp.write_text(" ".join((self.uri, *self.suites)))

    def _configure(self) -> None:
        for name in ("empty", "lists/partial", "cache/archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        lines = [f"deb [signed-by={_KEYRING}] {self.uri} {suite} main\n" for suite in self.suites]
        (self.folder / "sources.list").write_text("".join(lines))
        (self.folder / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{self.folder}/sources.list";\n'
            f'Dir::Etc::sourceparts "{self.folder}/empty";\n'
            f'Dir::State::lists "{self.folder}/lists";\n'
            f'Dir::Cache "{self.folder}/cache";\n'
            'Acquire::Retries "2";\nAcquire::http::Timeout "30";\nAcquire::Languages "none";\n'
            'Debug::NoLocking "1";\nAPT::Get::AllowUnauthenticated "0";\n'
        )

    def show(self, package: str) -> list[Stanza]:
        """All versions of a package in all suites; none if there is no such package."""
        return parse_stanzas(self._run("apt-cache", "show", package).stdout)

    def missing(self, packages: Iterable[str]) -> list[str]:
        """Of these packages and what they need, those that the system has not installed."""
        found: list[str] = []
        for package in packages:
            run = self._run(
                "apt-get", "install", "--print-uris", "-qq", "-y", "--no-install-recommends",
                "-o", f"APT::Default-Release={suite_of_system()}", package,
            )  # fmt: skip
            found += parse_uris(run.stdout)
        return list(dict.fromkeys(found))

    def extract(
        self, packages: Iterable[str], target: Path, say: Callable[[str], None], suite: str = ""
    ) -> None:
        """Download packages and extract them into one tree.

        Raises
        ------
        MissingCapability
            One cannot be downloaded.
        RunFailed
            One is damaged, or the disk is full.
        """
        names = [f"{package}/{suite}" if suite else package for package in packages]
        holding = self.folder / f"debs-{os.getpid()}"
        holding.mkdir(parents=True, exist_ok=True)
        try:
            say(f"downloading {', '.join(names)}")
            run = self._run("apt-get", "download", "-qq", *names, folder=holding)
            files = sorted(holding.glob("*.deb"))
            if run.returncode or not files:
                raise MissingCapability(
                    f"apt-get could not download {' '.join(names)}: {_complaint(run.stderr)}",
                    "is the network there, and is the disk full? `workbench lab prepare --again` begins anew",
                )
            target.mkdir(parents=True, exist_ok=True)
            for file in files:
                done = subprocess.run(
                    ["dpkg-deb", "-x", str(file), str(target)],
                    stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                )  # fmt: skip
                if done.returncode:
                    raise RunFailed(
                        f"{file.name} cannot be extracted: {_complaint(done.stderr)}",
                        "is the disk full?",
                    )
        finally:
            shutil.rmtree(holding, ignore_errors=True)

    def _run(self, *command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "APT_CONFIG": str(self.folder / "apt.conf"),
            "LC_ALL": "C.UTF-8",
        }
        try:
            return subprocess.run(
                command, cwd=folder or self.folder, env=environment, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, errors="replace", timeout=_LIMIT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise MissingCapability(
                f"`{' '.join(command[:3])}` did not end within {_LIMIT:g} s",
                "is the network slow? try it again",
            ) from None


def _complaint(text: str) -> str:
    """The line of apt's complaints that says most."""
    lines = text.strip().splitlines()
    worst = [line for line in lines if line.startswith("E:")] or [
        line for line in lines if "Failed to fetch" in line
    ]
    return (worst or lines or ["no message"])[-1]
