"""Laws of ImageScope's XML, as MoNuSAC and MoNuSeg have it."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile

from core.config import DataConfig
from core.data import load_data
from core.data.synthetic import make_cells
from core.errors import DataError
from tests.core.data.exports import monusac

SCENE = make_cells(images=4, side=64)
SQUARE = (
    '<Vertex X="10" Y="5"/><Vertex X="30" Y="5"/><Vertex X="30" Y="25"/><Vertex X="10" Y="25"/>'
)


def write(folder: Path, *layers: str, name: str = "a") -> None:
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / f"{name}.tif", np.full((40, 56, 3), 99, np.uint8), photometric="rgb")
    (folder / f"{name}.xml").write_text(f"<Annotations>{''.join(layers)}</Annotations>")


def layer(
    *regions: str, attribute: str = "Description", name: str = "", number: int = 1, more: str = ""
) -> str:
    inside = "".join(
        f'<Region Id="{position}" {more}><Vertices>{vertices}</Vertices></Region>'
        for position, vertices in enumerate(regions, start=1)
    )
    return (
        f'<Annotation Id="{number}" Name="{name}"><Attributes><Attribute Name="{attribute}"/>'
        f"</Attributes><Regions>{inside}</Regions></Annotation>"
    )


def test_regions_are_read_with_the_classes_of_their_layers(tmp_path: Path) -> None:
    monusac.write(tmp_path, SCENE)
    data = load_data(str(tmp_path))
    assert [category.name for category in data.classes] == ["class2", "class3", "class4"]
    for read, drawn in zip(data.samples, SCENE.samples, strict=True):
        assert read.name == f"{drawn.name}.tif"
        np.testing.assert_array_equal(read.label_maps > 0, drawn.label_maps > 0)
        assert sorted(read.labels_N + 1) == sorted(drawn.labels_N)


def test_monuseg_keeps_images_and_annotations_apart_and_has_one_class(tmp_path: Path) -> None:
    write(tmp_path, layer(SQUARE), layer(number=2))
    for folder, file in (("Tissue Images", "a.tif"), ("Annotations", "a.xml")):
        (tmp_path / "MoNuSeg 2018 Training Data" / folder).mkdir(parents=True)
        (tmp_path / file).rename(tmp_path / "MoNuSeg 2018 Training Data" / folder / file)
    data = load_data(str(tmp_path))
    assert [category.name for category in data.classes] == ["cell"]
    assert np.count_nonzero(data.samples[0].label_maps) == 400


def test_the_name_of_an_annotation_is_its_class_where_its_attribute_is_the_usual_one(
    tmp_path: Path,
) -> None:
    write(tmp_path, layer(SQUARE, name="Tumour"))
    assert [category.name for category in load_data(str(tmp_path)).classes] == ["Tumour"]


def test_a_region_that_ends_where_it_began_is_the_same(tmp_path: Path) -> None:
    write(tmp_path, layer(SQUARE + '<Vertex X="10" Y="5"/>'))
    assert np.count_nonzero(load_data(str(tmp_path)).samples[0].label_maps) == 400


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (layer(SQUARE, attribute="b", more='Type="2"'), "and is an ellipse (Type '2')"),
        (layer(SQUARE, attribute="b", more='Type="9"'), "and is of another kind (Type '9')"),
        (layer(SQUARE, attribute="b", more='NegativeROA="1"'), "this one is cut out of others"),
        (layer('<Vertex X="1" Y="2"/>', attribute="b"), "a list x, y, x, y, ... of three points"),
        (layer(SQUARE + '<Vertex X="1"/>', attribute="b"), "must have the numbers X and Y"),
        (
            layer(SQUARE + '<Vertex X="nan" Y="1"/>', attribute="b"),
            "value 8 (counted from 0) is nan",
        ),
        (layer(SQUARE), "a region must be in an annotation that names a class where others are"),
    ],
)
def test_one_bad_region_is_named_and_left_out_when_asked(
    tmp_path: Path, bad: str, told: str
) -> None:
    others = [SQUARE.replace('"5"', f'"{y}"') for y in (1, 2, 3)]
    write(tmp_path, layer(*others, attribute="b"), bad.replace('Id="1" Name', 'Id="2" Name'))
    with pytest.raises(DataError) as refused:
        load_data(str(tmp_path))
    assert f"{tmp_path}/a.xml, annotation 2, region 1: " in str(refused.value)
    assert told in str(refused.value)
    data = load_data(str(tmp_path), DataConfig(skip_bad=True, allow_suspicious=True))
    assert len(data.samples[0].labels_N) == 3


def test_a_file_that_is_no_xml_or_has_entities_is_named_and_left_out_when_asked(
    tmp_path: Path,
) -> None:
    write(tmp_path, layer(SQUARE))
    write(tmp_path, name="b")
    bomb = '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]><Annotations>&z;</Annotations>'
    for content, told in (("<Annotations><", "is not XML"), (bomb, "has a document type")):
        (tmp_path / "b.xml").write_text(content)
        with pytest.raises(DataError, match=rf"{tmp_path}/b\.xml: the file {told}"):
            load_data(str(tmp_path))
        assert len(load_data(str(tmp_path), DataConfig(skip_bad=True)).samples) == 1


def test_a_whole_slide_without_its_tif_is_named(tmp_path: Path) -> None:
    monusac.write(tmp_path, SCENE)
    (image,) = tmp_path.rglob(f"{SCENE.samples[0].name}.tif")
    image.unlink()
    with pytest.raises(DataError, match=r"is a whole slide, which is not read"):
        load_data(str(tmp_path))


def test_xml_of_other_kinds_is_not_taken_for_regions(tmp_path: Path) -> None:
    write(tmp_path, layer(SQUARE))
    voc = ElementTree.Element("annotation")
    ElementTree.ElementTree(voc).write(tmp_path / "a.xml")
    with pytest.raises(DataError, match="holds no annotated image"):
        load_data(str(tmp_path))


def test_images_without_a_file_are_noted_and_slides_beside_them_are_not(tmp_path: Path) -> None:
    monusac.write(tmp_path, SCENE)
    assert load_data(str(tmp_path)).notes == ()
    name = SCENE.samples[0].name
    (file,) = tmp_path.rglob(f"{name}.xml")
    file.unlink()
    assert load_data(str(tmp_path)).notes == (f"1 image without a .xml file, left out: {name}.tif",)
