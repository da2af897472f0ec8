"""Transfer syntaxes: how the bytes of a DICOM file are encoded, and which of them can be decoded here."""

from __future__ import annotations

from lungtl.settings.errors import Refused

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
UNCOMPRESSED = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG})

RLE = "1.2.840.10008.1.2.5"
JPEG_2000 = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})
JPEG_LOSSLESS = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
JPEG_LS = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
# One decoder a syntax, so that a file has the same values on every machine that reads it.
PLUGINS = {RLE: "pydicom"} | dict.fromkeys(JPEG_LOSSLESS | JPEG_LS | JPEG_2000, "gdcm")


def decoders() -> list[str]:
    """List the compressed transfer syntaxes that can be decoded here, as UIDs in order."""
    return sorted(syntax for syntax in PLUGINS if _available(syntax))


def check_decodable(syntax: str) -> None:
    """Raise Refused where files of this transfer syntax cannot be decoded."""
    if syntax in UNCOMPRESSED:
        return
    if syntax not in PLUGINS:
        raise Refused(
            "has a transfer syntax that is not supported", "rewrite it uncompressed (Explicit VR Little Endian)"
        )
    if not _available(syntax):
        from pydicom.uid import UID

        raise Refused(
            f"is compressed ({UID(syntax).name}) and no decoder is installed", "pip install 'lungtl[compressed]'"
        )


def _available(syntax: str) -> bool:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    return any(plugin == PLUGINS[syntax] for plugin in get_decoder(UID(syntax)).available_plugins)
