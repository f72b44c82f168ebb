"""UIDs: their form, and the derivation that makes a repeat give the same object."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode import uids


@pytest.mark.parametrize("uid", ["1.2", "2.25.0", "1.2.840.10008.1.1", "0.0", "1." + "2" * 62])
def test_valid(uid: str) -> None:
    """Digits and dots without leading zeros, at most 64 characters, are a UID."""
    assert uids.is_valid(uid)


@pytest.mark.parametrize("uid", ["", "1", "1.", ".1", "1..2", "1.02", "01.2", "1.2\n", "1.2 ", "1.a", "1." + "2" * 63, "1.²"])
def test_invalid(uid: str) -> None:
    """Anything else is none."""
    assert not uids.is_valid(uid)


@given(st.lists(st.text(), max_size=6))
def test_derived_is_valid_and_stable(parts: list[str]) -> None:
    """The same parts give the same valid UID below 2.25, whose number is an UUID of version 8."""
    found = uids.derive(*parts)
    assert uids.is_valid(found)
    assert found == uids.derive(*parts)
    number = uuid.UUID(int=int(found.removeprefix("2.25.")))
    assert (number.version, number.variant) == (8, uuid.RFC_4122)


@given(st.lists(st.text(), min_size=1, max_size=4), st.lists(st.text(), min_size=1, max_size=4))
def test_other_parts_give_another_uid(left: list[str], right: list[str]) -> None:
    """Parts that differ, also only in where one ends, give different UIDs."""
    assert (left == right) == (uids.derive(*left) == uids.derive(*right))


def test_known_value() -> None:
    """The derivation never changes: files of earlier versions name these UIDs."""
    assert uids.derive("ab", "c") == "2.25.322439678945019151949744567084042146678"
