"""The pixels of one instance: as received (`Image`), cleared for leaving (`Redacted`), coded for an output (`Coded`).

**Way** `Image.open` reads the header of a seekable Part 10 file and remembers where the pixel data lie; frames are read and
decoded one at a time, when asked for. `stages/redact` makes `Redacted` of it, and nothing else does; `stages/encode` makes
`Coded` of that. The builders of outputs take `Coded`, so what skips redaction does not type-check.
"""

from __future__ import annotations

from dicomnode.image.cleared import Coded, Redacted
from dicomnode.image.received import Image

__all__ = ["Coded", "Image", "Redacted"]
