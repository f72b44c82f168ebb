"""The original, unchanged, for peers inside.

**Way** The spooled Part 10 file is copied to the output: same data set bytes, same SOP Instance UID and transfer syntax.

**Fails** `ReleaseRefused` when the identity is to be removed: an original carries it.

**Limits** The file meta is the acceptor's; C-STORE sends the data set only.
"""

from __future__ import annotations

import shutil
from functools import partial
from typing import BinaryIO

from dicomnode.errors import ReleaseRefused
from dicomnode.outputs.material import Material
from dicomnode.records import Output


def build(material: Material) -> Output:
    """Pass the instance on as it is.

    Raises
    ------
    ReleaseRefused
        The output is for outside.
    """
    if material.identity != "kept":
        raise ReleaseRefused("an original does not leave for an outside peer")
    instance = material.instance
    return Output(
        kind="original",
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        identity="kept",
        destinations=material.destinations,
        write=partial(_copy, material.source),
    )


def _copy(source: BinaryIO, stream: BinaryIO) -> None:
    source.seek(0)
    shutil.copyfileobj(source, stream, 1 << 20)
