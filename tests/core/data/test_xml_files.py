"""Laws of XML files: nothing in them grows, and no other file is opened."""

from pathlib import Path

import pytest

from core.data import xml_files
from core.data.xml_files import read_xml, root_of
from core.errors import DataError


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]><a>&z;</a>', "has a document type"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "has a document type"),
        ('<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><a/>', "has a document type"),
        ("<a>&x;</a>", "is not XML (undefined entity"),
        ("<a>", "is not XML"),
        ("", "is not XML"),
        ('<?xml version="1.0" encoding="utf-99"?><a/>', "cannot be read"),
        ('<?xml version="1.0" encoding="utf-16"?><a/>', "is not XML"),
    ],
)
def test_a_file_with_entities_or_damage_is_refused_in_a_sentence(
    tmp_path: Path, content: str, told: str
) -> None:
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(DataError) as refused:
        read_xml(tmp_path / "a.xml")
    assert str(refused.value).startswith(f"{tmp_path}/a.xml: the file {told}")


def test_a_large_file_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.xml").write_text("<" * 100)
    monkeypatch.setattr(xml_files, "MOST_XML", 99)
    with pytest.raises(DataError, match=r"a\.xml: an XML file may have 99 bytes, and has 100"):
        read_xml(tmp_path / "a.xml")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the file cannot be read: No such file"):
        read_xml(tmp_path / "a.xml")
    assert root_of(tmp_path / "a.xml") == ""


def test_the_root_is_known_from_the_first_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    file.write_text('<?xml version="1.0"?>\n<!-- made by hand -->\n<Annotations a="<x>"><')
    assert root_of(file) == "Annotations"
    file.write_bytes(b"II*\0")
    assert root_of(file) == ""
