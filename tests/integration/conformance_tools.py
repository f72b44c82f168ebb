"""The independent tools that judge our objects: dciodvfy, dsrdump, DicomSRValidator and Orthanc, by their full paths.

pynetdicom installs commands of the names of DCMTK's into the environment, hence the full paths.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import peers

DCIODVFY = Path("/usr/bin/dciodvfy")
DSRDUMP = Path("/usr/bin/dsrdump")
ORTHANC = Path(peers.ORTHANC)
PIXELMED = Path("/usr/share/java/pixelmed.jar")
SLF4J = Path("/usr/share/java/slf4j-api.jar")

#: One JVM for many files: compiling the validator's style sheets takes seconds each time.
_BATCH = """
import com.pixelmed.validate.DicomSRValidator;
public class Batch {
    public static void main(String[] files) throws Exception {
        DicomSRValidator validator = new DicomSRValidator();
        for (String file : files) {
            System.out.println("FILE " + file);
            System.out.println(validator.validate(file));
        }
    }
}
"""
#: The validator's style sheets are larger than Java 17 allows by itself.
_LIMITS = [f"-Djdk.xml.{name}=0" for name in ("xpathTotalOpLimit", "xpathExprOpLimit", "xpathExprGrpLimit")]


def needs(*tools: Path) -> pytest.MarkDecorator:
    """Skip, with the reason, where a tool is not installed."""
    missing = [str(tool) for tool in tools if not tool.exists()]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def dciodvfy_errors(path: Path) -> list[str]:
    """The lines that dciodvfy calls errors; a crash is one too."""
    done = subprocess.run([DCIODVFY, "-new", path], capture_output=True, text=True, errors="replace", check=False, timeout=60)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Abort"))]
    return lines or ([] if done.returncode in (0, 1) else [f"dciodvfy ended with {done.returncode}"])


def element_of(line: str) -> str:
    """Keyword of the top-level element that an error line speaks of, empty when it names none."""
    found = re.search(r"</(\w+)\(", line)
    return found[1] if found else ""


def dsrdump(path: Path) -> subprocess.CompletedProcess[str]:
    """Have DCMTK read a report, all of its text, with the checks of its content constraints."""
    command = [DSRDUMP, "+Pl", path]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=60)


def sr_verdicts(paths: Sequence[Path], scratch: Path) -> dict[Path, str]:
    """What DicomSRValidator says of each report."""
    java = shutil.which("java")
    if java is None:
        pytest.skip("not installed: java")
    base = [java, *_LIMITS, "-cp", f"{PIXELMED}:{SLF4J}"]
    modules = subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=True, timeout=60).stdout
    if "jdk.compiler" not in modules:  # a JRE cannot run a source file: a JVM for each report then
        return {path: _said([*base, "com.pixelmed.validate.DicomSRValidator", str(path)]) for path in paths}
    batch = scratch / "Batch.java"
    batch.write_text(_BATCH)
    said = _said([*base, str(batch), *map(str, paths)])
    parts = re.split(r"^FILE (.*)$", said, flags=re.MULTILINE)
    return {Path(name): text for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=600)
    return done.stdout + done.stderr


class Orthanc:
    """Orthanc's REST interface on loopback."""

    def __init__(self, port: int) -> None:
        self._root = f"http://127.0.0.1:{port}"

    def call(self, path: str, data: bytes | None = None) -> Any:
        """GET, or POST with ``data``; gives the answer."""
        request = urllib.request.Request(self._root + path, data=data)  # noqa: S310 - our own loopback address
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.loads(answer.read())

    def instances_of(self, study_instance_uid: str) -> list[dict[str, Any]]:
        """Main tags of all instances of a study, with those of their series."""
        (study,) = (hit["ID"] for hit in self.call("/tools/lookup", study_instance_uid.encode()) if hit["Type"] == "Study")
        found = []
        for series in self.call(f"/studies/{study}/series"):
            instances = self.call(f"/series/{series['ID']}/instances")
            found += [{**series["MainDicomTags"], **instance["MainDicomTags"]} for instance in instances]
        return found


@contextmanager
def orthanc(scratch: Path) -> Iterator[Orthanc]:
    """Start Orthanc on free loopback ports with an empty archive below ``scratch``."""
    with peers.orthanc(scratch / "orthanc") as (_, http):
        yield Orthanc(http)
