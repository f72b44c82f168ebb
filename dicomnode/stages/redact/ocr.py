"""Reads text with the program tesseract, through pipes: no picture of a patient touches a disk.

**Way** `Tesseract.read` sends any number of grey pictures as one TIFF of several pages to one process and gives the words
with their boxes.

**Fails** `ProgramMissing` when it is built without the program or the language; `RedactionUncertain` when the program fails
or takes too long: what was not read was not judged.

**Limits** Horizontal text.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import ProgramMissing, RedactionUncertain

Grey = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, repr=False)
class Word:
    """One word that was read; it has no repr, so that its text reaches no log."""

    page: int
    x: int
    y: int
    w: int
    h: int
    #: 0 to 100.
    confidence: float
    text: str


class Tesseract:
    """The program, found and checked once."""

    def __init__(self, lang: str = "eng") -> None:
        program = shutil.which("tesseract")
        if program is None:
            raise ProgramMissing("the program tesseract is not installed: apt-get install tesseract-ocr")
        self._program = program
        self._lang = lang
        #: The program with its version.
        self.version = self._version()
        missing = set(lang.split("+")) - self._languages()
        if missing:
            packages = " ".join(f"tesseract-ocr-{name}" for name in sorted(missing))
            raise ProgramMissing(f"tesseract has no data for {', '.join(sorted(missing))}: apt-get install {packages}")

    def _version(self) -> str:
        said = self._said("--version").split("\n", 1)[0].split()
        return " ".join(said[:2]) if len(said) > 1 else "tesseract"

    def _languages(self) -> set[str]:
        return set(self._said("--list-langs").split())

    def _said(self, option: str) -> str:
        try:
            done = subprocess.run([self._program, option], capture_output=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError):
            raise ProgramMissing("the program tesseract does not run: apt-get install --reinstall tesseract-ocr") from None
        return (done.stdout or done.stderr).decode("utf-8", "replace")

    def read(self, pages: Sequence[Grey], timeout_s: float, *, lines: bool = False) -> list[Word]:
        """Read dark text on light ground.

        Parameters
        ----------
        pages
            Each (rows, cols) uint8.
        lines
            Each page is one line of text, and certainly dark on light.

        Raises
        ------
        RedactionUncertain
            The program failed or did not end in time.
        """
        if not pages:
            return []
        done, packed = cv2.imencodemulti(".tiff", list(pages), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
        if not done:
            raise RedactionUncertain("the picture cannot be handed to tesseract")
        how = ["--psm", "7", "-c", "tessedit_do_invert=0"] if lines else ["--psm", "11"]
        command = [self._program, "stdin", "stdout", "-l", self._lang, *how, "--dpi", "96", "tsv"]
        environment = {"PATH": os.environ.get("PATH", ""), "OMP_THREAD_LIMIT": "1", "LC_ALL": "C"}
        if prefix := os.environ.get("TESSDATA_PREFIX"):
            environment["TESSDATA_PREFIX"] = prefix
        try:
            run: Any = subprocess.run(
                command, input=packed.tobytes(), capture_output=True, timeout=timeout_s, env=environment, check=False
            )
        except subprocess.TimeoutExpired:
            raise RedactionUncertain("tesseract took too long") from None
        except OSError:
            raise RedactionUncertain("tesseract does not start") from None
        if run.returncode != 0:
            raise RedactionUncertain(f"tesseract ended with status {run.returncode}")
        return _parse(run.stdout.decode("utf-8", "replace"), len(pages))


def _parse(table: str, pages: int) -> list[Word]:
    words: list[Word] = []
    seen = 0
    for row in table.splitlines()[1:]:
        cells = row.split("\t")
        if len(cells) < 12:
            continue
        seen = max(seen, int(cells[1]))
        if cells[0] == "5" and cells[11].strip():
            x, y, w, h = map(int, cells[6:10])
            words.append(Word(int(cells[1]) - 1, x, y, w, h, float(cells[10]), cells[11].strip()))
    if seen < pages:
        raise RedactionUncertain("tesseract has not read every page")
    return words
