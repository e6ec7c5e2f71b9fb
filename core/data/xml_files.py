"""XML files, read so that a small file cannot grow and no other file is opened."""

import re
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

from core.errors import DataError
from core.files import reason_of

MOST_XML = 256 * 2**20
"""Largest size of an XML file, in bytes; its tree takes some ten times as much memory."""


class _Builder(ElementTree.TreeBuilder):
    """A builder of a tree that refuses a document type.

    Entities, which can multiply to gigabytes or name other files, can only be declared in one.
    """

    def doctype(self, *_: Any) -> NoReturn:
        """Called where a document type begins, before any declaration in it is read."""
        raise DataError(
            "the file has a document type (<!DOCTYPE ...>), which is not read; remove it"
        )


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file.

    Raises DataError, one sentence that begins with the path, for a file that cannot be read, is no
    XML, is larger than MOST_XML or has a document type.
    """
    try:
        if (size := path.stat().st_size) > MOST_XML:
            raise DataError(f"an XML file may have {MOST_XML:,} bytes, and has {size:,}; split it")
        # defusedxml does the same and more (it also guards SAX and XML-RPC); refusing the document
        # type is all that a tree needs.
        parser = ElementTree.XMLParser(target=_Builder())
        return ElementTree.parse(path, parser).getroot()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: the file is not XML ({error})") from None
    except (OSError, ValueError, LookupError) as error:
        raise DataError(f"{path}: the file cannot be read: {reason_of(error)}") from None


def root_of(path: Path) -> str:
    """The name of the first element in an XML file's first bytes; empty if there is none."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
    except OSError:
        return ""
    match = re.search(rb"<([A-Za-z][\w.-]*)", head)
    return match[1].decode() if match else ""
