"""Statuses: what a peer's answer means for a delivery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode import dimse
from dicomnode.errors import Permanent, Transient, leaves

DELIVERED = (0x0000, 0x0001, 0x0107, 0x0111, 0x0116, 0xB000, 0xB006, 0xB007, 0xBFFF)
DEFERRED = (None, 0xA700, 0xA701, 0xA7FF, 0x0213, 0x0110)
REFUSED = (0xA900, 0xA9FF, 0xC000, 0xC211, 0xCFFF, 0x0117, 0x0122, 0x0106, 0x0211, 0x0212, 0xFE00)


@pytest.mark.parametrize("status", DELIVERED)
def test_delivered(status: int) -> None:
    """Success, duplicates and warnings end a delivery well."""
    assert dimse.classify(status).outcome == "delivered"


@pytest.mark.parametrize("status", DEFERRED)
def test_deferred(status: int | None) -> None:
    """Lack of resources, a processing failure and no response at all are tried again."""
    verdict = dimse.classify(status)
    assert verdict.outcome == "deferred"
    assert issubclass(leaves()[verdict.reason], Transient)


@pytest.mark.parametrize("status", REFUSED)
def test_refused(status: int) -> None:
    """What repeating does not change goes on hold."""
    verdict = dimse.classify(status)
    assert verdict.outcome == "refused"
    assert issubclass(leaves()[verdict.reason], Permanent)


def test_not_authorised_blocks_the_destination() -> None:
    """0x0124 is about us, not about the instance."""
    assert dimse.classify(dimse.NOT_AUTHORISED).outcome == "blocked"


@given(st.integers(0, 0xFFFF))
def test_every_status_has_an_outcome(status: int) -> None:
    """No status of a peer is without a meaning, and each verdict carries it."""
    assert dimse.classify(status).status == status


def test_text() -> None:
    """Logs write statuses as the standard does."""
    assert [dimse.text(0xA700), dimse.text(0), dimse.text(None)] == ["0xA700", "0x0000", "none"]
