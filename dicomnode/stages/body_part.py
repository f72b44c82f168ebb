"""Read the body part from the header, for instances whose picture nobody classifies.

**Way** Body Part Examined, then Anatomic Region Sequence, then the descriptions of series, protocol and study; the first of
them that names a region decides. A chest belongs to a child up to 14 years, by Patient's Age or from birth to study date.
Only words of the closed set of `BODY_PARTS` come out; the header's own text goes nowhere.

**Standard** PS3.16 Annex L (defined terms of Body Part Examined), PS3.3 C.7.6.1 and 10.5.

**Limits** What names two regions ("chest and abdomen") is uncertain. So is a chest of unknown age: a child's picture must not
meet the model for adults by a guess. Words are English, German, French and Spanish; the attribute is wrong in about 15 % of
images (Güld 2002), which is why pictures are preferred.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicomnode.records import UNCERTAIN

#: Oldest age that counts as a child's, years.
CHILD_UNTIL = 14
_DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
_REGIONS = {
    "chest": "CHEST THORAX TORAX LUNG LUNGS PULMONARY CXR LUNGE POUMON POUMONS PULMON",
    "abdomen": (
        "ABDOMEN ABDOMINAL ABD ABDO ABDOMENPELVIS KUB LIVER KIDNEY KIDNEYS PANCREAS SPLEEN STOMACH GALLBLADDER BOWEL COLON "
        "ADRENAL BAUCH OBERBAUCH LEBER NIERE"
    ),
    "spine": (
        "SPINE SPINAL CSPINE TSPINE LSPINE SSPINE LSSPINE CTSPINE TLSPINE LUMBAR SACRUM COCCYX VERTEBRA VERTEBRAE VERTEBRAL "
        "WIRBELSAULE HWS BWS LWS RACHIS COLUMNA"
    ),
    "other": (
        "HEAD BRAIN SKULL ORBIT ORBITS SINUS MAXILLA MANDIBLE JAW TEETH TOOTH EYE EAR NECK THYROID CLAVICLE SCAPULA STERNUM "
        "SHOULDER HUMERUS ARM ELBOW FOREARM WRIST HAND FINGER THUMB PELVIS HIP FEMUR THIGH KNEE PATELLA LEG CALF TIBIA FIBULA "
        "ANKLE FOOT CALCANEUS TOE EXTREMITY BREAST HEART CORONARY PROSTATE BLADDER UTERUS WHOLEBODY "
        "SCHADEL KOPF HALS SCHULTER KNIE HUFTE BECKEN FUSS TETE CRANE GENOU EPAULE CABEZA RODILLA MANO HOMBRO"
    ),
}
_REGION_OF = {word: region for region, words in _REGIONS.items() for word in words.split()}
#: Joined terms of PS3.16 Annex L that name two regions.
_BOTH = {"CHESTABDOMEN": {"chest", "abdomen"}, "CHESTABDPELVIS": {"chest", "abdomen"}, "NECKCHEST": {"other", "chest"}}


def from_header(ds: Dataset) -> str:
    """Give one of `BODY_PARTS`, or `UNCERTAIN` when the header names none, two, or a chest of unknown age."""
    for text in _texts(ds):
        regions = regions_of(text)
        if len(regions) > 1:
            return UNCERTAIN
        if regions:
            region = regions.pop()
            return chest_of(ds) if region == "chest" else region
    return UNCERTAIN


def age_years(ds: Dataset) -> float | None:
    """Age at the time of the study, None when the header does not tell or tells nonsense."""
    told = re.fullmatch(r"(\d{3})([DWMY])", str(ds.get("PatientAge") or "").strip())
    if told:
        return int(told[1]) * _DAYS[told[2]] / _DAYS["Y"]
    try:
        born, seen = (datetime.strptime(str(ds.get(k)).strip(), "%Y%m%d") for k in ("PatientBirthDate", "StudyDate"))  # noqa: DTZ007
    except ValueError:
        return None
    days = (seen - born).days
    return days / _DAYS["Y"] if 0 <= days <= 130 * _DAYS["Y"] else None


def chest_of(ds: Dataset) -> str:
    """Tell a child's chest from an adult's by the age, `UNCERTAIN` where the header does not tell it."""
    age = age_years(ds)
    if age is None:
        return UNCERTAIN
    # "Up to 14" means until the fifteenth birthday.
    return "pediatric_chest" if age < CHILD_UNTIL + 1 else "adult_chest"


def _texts(ds: Dataset) -> list[str]:
    """Where a region may be named, the most specific first."""
    texts = [_text(ds, "BodyPartExamined")]
    regions = ds.get("AnatomicRegionSequence")
    # A sender may give it another value representation than that of a sequence.
    texts += [_text(item, "CodeMeaning") for item in (regions if isinstance(regions, Sequence) else [])]
    texts += [_text(ds, k) for k in ("SeriesDescription", "ProtocolName", "StudyDescription")]
    return texts


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "")


def regions_of(text: str) -> set[str]:
    """Give every region that the words of ``text`` name."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).upper()
    found: set[str] = set()
    for word in re.findall(r"[A-Z]+", letters):
        found |= _BOTH.get(word, set())
        if word in _REGION_OF:
            found.add(_REGION_OF[word])
    # "Thoracic spine", "abdomen and pelvis": one region by common usage.
    if found == {"abdomen", "other"} and "PELVIS" in letters:
        found = {"abdomen"}
    return found
