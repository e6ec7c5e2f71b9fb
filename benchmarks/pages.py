"""Parts of README and pictures that benchmarks write."""

import io
import textwrap
from pathlib import Path

from PIL import Image

from core.errors import StudyError
from core.files import write_atomically


def write_part(page: Path, begin: str, end: str, text: str) -> None:
    """Put `text` between two lines of a page, in place of what stands there.

    Raises StudyError for a page that lacks one of the lines.
    """
    before, has_begin, rest = page.read_text().partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise StudyError(f"{page} must hold the lines {begin} and {end}; put them back")
    write_atomically(page, f"{before}{begin}\n{text}{end}{after}".encode())


def wrapped(text: str) -> str:
    """A paragraph, or a line of a list, in lines of at most 120 columns."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(
        text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def as_jpeg(image: Image.Image, most_bytes: int) -> bytes:
    """A picture as a JPEG of at most `most_bytes`, as good as they allow."""
    for quality in (90, 80, 70, 60, 45, 30):
        stream = io.BytesIO()
        image.convert("RGB").save(stream, "JPEG", quality=quality, optimize=True)
        if stream.tell() <= most_bytes:
            break
    return stream.getvalue()
