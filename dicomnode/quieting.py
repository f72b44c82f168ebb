"""Keeps pynetdicom from writing: its texts may hold what a peer sent, and our own lines say what happened.

**Limits** Nothing of pynetdicom is imported here; its settings of the same purpose are set where it is used.
"""

from __future__ import annotations

import logging


def quiet() -> None:
    """Silence the loggers of pynetdicom, whatever set them up."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
