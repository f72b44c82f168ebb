"""Where the folders that travel with the code lie: models, configuration templates, systemd units.

**Way** In a wheel they stand inside the package (pyproject.toml maps them to ``dicomnode/_share``); in a source tree and
an editable installation they are the folders of the repository.

**Fails** A folder that is in neither place is a broken installation: `ProgramMissing`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dicomnode.errors import ProgramMissing

_PACKAGE = Path(__file__).parent


def share(name: Literal["models", "ae_config", "systemd"]) -> Path:
    """Give the folder called ``name``."""
    for place in (_PACKAGE / "_share" / name, _PACKAGE.parent / name):
        if place.is_dir():
            return place
    raise ProgramMissing(f"this installation of dicomnode lacks its folder {name}; install it again")
