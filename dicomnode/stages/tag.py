"""What Body Part Examined alone says, and whether that agrees with what the picture shows.

**Way** `tag_of` reads the one attribute, and of a chest the age; descriptions of series and study stay out, so that what is
counted is the attribute that modalities fill in. `compare` holds it against the picture's answer. `device_of` gives the token
under which `dicomnode report tags` counts a device.

**Standard** PS3.3 C.7.3.1 (Body Part Examined) and C.7.5.1 (General Equipment), PS3.16 Annex L, PS3.15 Annex E: names of
devices are of a site and perhaps of a room, so only their keyed token goes further.

**Limits** A word of which the header reader and the router know nothing is `ABSENT`: it names no body part, it is not wrong. A
chest of unknown age agrees with either chest; one of known age does not agree with the other one. What a site's router calls by
a word of its own is comparable where that word stands in the attribute, or the attribute names another of the router's labels.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from pydicom.dataset import Dataset

from dicomnode.gate import device_token
from dicomnode.records import ABSENT, BODY_PARTS, CHEST, SEVERAL, UNCERTAIN, Agreement
from dicomnode.stages.body_part import chest_of, regions_of

_CHESTS = frozenset({"adult_chest", "pediatric_chest"})
_DEVICE = ("Manufacturer", "ManufacturerModelName", "StationName", "DeviceSerialNumber")


def tag_of(ds: Dataset, labels: Collection[str] = BODY_PARTS) -> str:
    """Give what Body Part Examined says: one of ``labels``, one of `BODY_PARTS`, `CHEST`, `SEVERAL` or `ABSENT`."""
    text = str(ds.get("BodyPartExamined") or "")
    bare = re.sub(r"[^a-z0-9]", "", text.lower())
    if named := [label for label in labels if label not in BODY_PARTS and label.replace("_", "") == bare]:
        return named[0]
    regions = regions_of(text)
    if len(regions) > 1:
        return SEVERAL
    if not regions:
        return ABSENT
    region = regions.pop()
    if region != CHEST or CHEST in labels:
        return region
    part = chest_of(ds)
    return CHEST if part == UNCERTAIN else part


def decides(tag: str, labels: Collection[str] = BODY_PARTS) -> bool:
    """Say whether the tag names one body part; a chest of unknown age is one only where the router tells no ages."""
    return CHEST in labels if tag == CHEST else tag not in {SEVERAL, ABSENT}


def meant(tag: str) -> frozenset[str]:
    """The body parts that fit a tag that names a region."""
    if tag == CHEST:
        return _CHESTS | {CHEST}
    return frozenset({tag, CHEST}) if tag in _CHESTS else frozenset({tag})


def compare(picture: str, tag: str, labels: Collection[str] = BODY_PARTS) -> Agreement:
    """Hold the tag against a picture whose answer is certain.

    Parameters
    ----------
    labels
        What the router can answer at all: a tag for something else says nothing against a word of the site's own.
    """
    if tag == ABSENT:
        return "absent"
    if tag == SEVERAL:
        return "not_comparable"
    if picture in meant(tag):
        return "agrees"
    return "disagrees" if picture in BODY_PARTS or not meant(tag).isdisjoint(labels) else "not_comparable"


def device_of(ds: Dataset, key: bytes) -> str:
    """Give the token of the device that made the image."""
    return device_token([str(ds.get(keyword) or "") for keyword in _DEVICE], key)
