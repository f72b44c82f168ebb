"""The files redaction/*.toml as frozen pydantic models: rectangles in which a device is known to put text.

**Way** `settings.load` reads and checks them with the rest of the configuration, so a reload takes them over as a whole; the
stage `redact` blanks what they name beside what it finds. `dicomnode redact learn` writes such files.

**Limits** A rectangle holds for one size of picture. It never takes the place of looking: what it does not cover is looked at
all the same.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from dicomnode.rules import Strict


def folded(text: str) -> str:
    """Give a name as names of devices are compared: without letter case, runs of blanks as one."""
    return " ".join(text.split()).casefold()


def _name(value: str) -> str:
    if not folded(value.removesuffix("*")):
        raise ValueError("is empty")
    return value


Name = Annotated[str, AfterValidator(_name)]
Side = Annotated[int, Field(ge=1, le=65535)]


class Rectangle(Strict):
    """``{ x, y, w, h }`` of `rectangles`; x and y count from 0 at the top left, in stored pixels."""

    x: int = Field(ge=0, description="First column.")
    y: int = Field(ge=0, description="First row.")
    w: int = Field(gt=0, description="Columns.")
    h: int = Field(gt=0, description="Rows.")
    note: str = Field("", description="What stands there; for people.")


class Place(Strict):
    """``[[place]]`` of redaction/NAME.toml; where one device puts text in pictures of one size."""

    manufacturer: Name = Field(description="Manufacturer (0008,0070), without regard to letter case.")
    model: Name = Field(description="Manufacturer's Model Name (0008,1090), without regard to letter case.")
    software: Name | None = Field(
        None, description="One of Software Versions (0018,1020); with a * at its end, how one begins; absent: any.",
    )
    modality: tuple[str, ...] = Field((), description="Modality (0008,0060) is one of these; empty: any.")
    photometric: str | None = Field(None, description="Photometric Interpretation (0028,0004); absent: any.")
    rows: Side = Field(description="Rows (0028,0010) of the pictures that this holds for.")
    columns: Side = Field(description="Columns (0028,0011) of the pictures that this holds for.")
    scale: bool = Field(
        False, description="true: pictures of this shape in other sizes too, the rectangles enlarged or reduced with them.",
    )
    rectangles: tuple[Rectangle, ...] = Field(min_length=1, description="What is blanked in every frame.")
    note: str = Field("", description="Where this was learned; for people.")

    @model_validator(mode="after")
    def _inside(self) -> Place:
        for number, one in enumerate(self.rectangles):
            if one.x + one.w > self.columns or one.y + one.h > self.rows:
                raise ValueError(f"rectangles.{number} reaches beyond {self.columns} columns and {self.rows} rows")
        return self


class PlacesFile(Strict):
    """A file redaction/NAME.toml as a whole."""

    place: tuple[Place, ...] = Field(min_length=1, description="Each device, and each size of its pictures.")
