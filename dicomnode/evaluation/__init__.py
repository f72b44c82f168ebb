"""How well redaction works: every string of a set of files with known text is looked for again after the whole way.

**Way** `manifest` reads which strings stand where. `trial` sends a file through the node's own redaction and coder, reads
what was written and compares every frame (`compare`, `ink`). `figures` sums up, `report`, `misses` and `plots` show;
`measure` does all of it. `synthetic` draws a set of files of its own. Nothing here needs torch; plots need matplotlib.

**Fails** `BadSetting` for a manifest that cannot be used.

**Limits** A figure is as true as the manifest: text that it does not name counts as picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dicomnode.evaluation.figures import figures
from dicomnode.evaluation.manifest import Case
from dicomnode.evaluation.misses import Misses
from dicomnode.evaluation.trial import Redactor, check, try_file

__all__ = ["measure"]


def measure(
    cases: Sequence[Case],
    redactors: Mapping[str, Redactor],
    *,
    pictures: Path | None = None,
    draws: int = 10_000,
    tell: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Measure redactors on the same files.

    Parameters
    ----------
    redactors
        By the name of their mode.
    pictures
        Folder for pictures of misses, one a mode; None makes none.
    tell
        Told of mode, files done and all files.

    Returns
    -------
    What evaluation.json holds: by mode the figures, and the list of misses.

    Raises
    ------
    BadSetting
        A manifest does not fit its files.
    """
    for case in cases:
        check(case)
    strings = [sum(text.identifying is kind for text in case.texts if text.visible) for case in cases for kind in (True, False)]
    modes: dict[str, Any] = {}
    for mode, redact in redactors.items():
        misses, tried = Misses(pictures / mode if pictures else None), []
        for done, case in enumerate(cases, 1):
            tried.append(try_file(case, redact, misses))
            tell(mode, done, len(cases))
        held = [{"path": one.name, "reason": one.held} for one in tried if one.held]
        modes[mode] = {**figures(tried, strings, draws), "misses": misses.found, "held_files": held}
    return {"manifest_files": len(cases), "draws": draws, "modes": modes}
