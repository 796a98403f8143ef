"""ICC profiles: what the numbers of a picture's colours stand for."""

from __future__ import annotations

from typing import Any

LARGEST = 4 * 2**20
"""Bytes: those of pictures have 500 to 5,000, those of printers 2 million."""
_SPACES = {1: b"GRAY", 3: b"RGB "}


def profile_for(channels: int, profile: Any) -> bytes:
    """The profile, where it is whole and one for pictures of so many channels; else nothing: numbers that were converted when
    they were read, such as those of CMYK, are no longer what it describes."""
    if not isinstance(profile, bytes) or not 128 <= len(profile) <= LARGEST:
        return b""
    whole = int.from_bytes(profile[:4], "big") <= len(profile) and profile[36:40] == b"acsp"
    return profile if whole and profile[16:20] == _SPACES.get(channels) else b""


def profile_name(profile: bytes) -> str:
    """What a profile calls itself, such as ``Display P3``; ``unnamed`` where it does not tell."""
    import io

    from PIL import ImageCms

    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError, ValueError):
        name = ""
    return " ".join(name.split()) or "unnamed"
