"""Films and zips that others made, opened: as what their first bytes say they are and nothing else, within bounds."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

# How a film begins → FFmpeg's reader. Left to guess, it follows lists of addresses, and listens where a text says so.
READERS = (
    (rb".{4}(ftyp|moov|mdat|wide|free|skip|pnot)", "mov"),
    (rb"\x1aE\xdf\xa3", "matroska"),
    (rb"RIFF.{4}AVI ", "avi"),
    (rb"GIF8[79]a", "gif"),
)
LARGEST = 100  # megapixels of a frame
ENTRIES = 4_000_000  # bytes of a zip's list of files: some 40,000 of them


@contextmanager
def film(path: Path) -> Iterator[Any]:
    """An `av` container to read from. ValueError for what is none of a kind that is read here, or has larger frames;
    FFmpeg's errors for broken ones."""
    with path.open("rb") as file:
        head = file.read(16)
        reader = next((name for begins, name in READERS if re.match(begins, head, re.DOTALL)), None)
        if reader is None:
            raise ValueError("a film of another kind")
        file.seek(0)
        most = {"max_pixels": str(int(LARGEST * 1e6))}
        with av.open(file, format=reader, options=most, io_open=_alone) as found:
            for stream in found.streams.video:
                if stream.width * stream.height > LARGEST * 1e6:
                    raise ValueError("a film of too large frames")
                stream.codec_context.options = dict(most)
            yield found


def _alone(url: str, flags: int, options: dict[str, Any]) -> Any:
    raise PermissionError(f"a film asks for {url}")


@contextmanager
def archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip to read from; BadZipFile for one whose list of files alone would fill the memory."""
    with path.open("rb") as file:
        found = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # what ZipFile itself goes by
        if not found or found[zipfile._ECD_SIZE] > ENTRIES:  # type: ignore[attr-defined]
            raise zipfile.BadZipFile("it lists too many files")
        with zipfile.ZipFile(file) as z:
            yield z
