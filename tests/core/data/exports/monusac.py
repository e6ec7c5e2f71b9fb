"""MoNuSAC 2020: a folder for each patient, NAME.tif, NAME.svs and ImageScope's NAME.xml in it."""

from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from core.data.dataset import Dataset
from core.sample import Sample
from tests.core.data.exports.export import SCENE, Export
from tests.core.data.exports.tracing import areas_of


def write(folder: Path, scene: Dataset) -> None:
    """One annotation (layer) for each class that an image holds."""
    for sample in scene.samples:
        place = folder / sample.name.split("_")[0]
        place.mkdir(exist_ok=True)
        tifffile.imwrite(place / f"{sample.name}.tif", sample.image, photometric="rgb")
        (place / f"{sample.name}.svs").write_bytes(b"II*\0")
        classes = [category.name for category in scene.classes]
        document(sample, classes).write(
            place / f"{sample.name}.xml", encoding="utf-8", xml_declaration=True
        )


def document(sample: Sample, classes: list[str]) -> ElementTree.ElementTree:
    """The regions of an image, in layers of one class each."""
    root = ElementTree.Element("Annotations", MicronsPerPixel="0.252000")
    for layer, label in enumerate(sorted(set(sample.labels_N.tolist())), start=1):
        annotation = ElementTree.SubElement(
            root, "Annotation", Id=str(layer), Name="", ReadOnly="0", NameReadOnly="0",
            LineColorReadOnly="0", Incremental="0", Type="4", LineColor="65280", Visible="1",
            Selected="0", MarkupImagePath="", MacroName="",
        )  # fmt: skip
        attributes = ElementTree.SubElement(annotation, "Attributes")
        ElementTree.SubElement(attributes, "Attribute", Name=classes[label - 1], Id="0", Value="")
        regions = ElementTree.SubElement(annotation, "Regions")
        headers = ElementTree.SubElement(regions, "RegionAttributeHeaders")
        ElementTree.SubElement(
            headers, "AttributeHeader", Id="9999", Name="Region", ColumnWidth="-1"
        )
        for number in (sample.labels_N == label).nonzero()[0].tolist():
            mask = (sample.label_maps == number + 1).any(axis=0)
            region = ElementTree.SubElement(
                regions, "Region", Id=str(number + 1), Type="0", Zoom="1", Selected="0",
                ImageLocation="", ImageFocus="-1", Length="1", Area=str(mask.sum()),
                LengthMicrons="1", AreaMicrons="1", Text="", NegativeROA="0", InputRegionId="0",
                Analyze="1", DisplayId=str(number + 1),
            )  # fmt: skip
            ElementTree.SubElement(region, "Attributes")
            vertices = ElementTree.SubElement(region, "Vertices")
            for x, y in areas_of(mask)[0][0]:
                ElementTree.SubElement(vertices, "Vertex", X=f"{x}.0", Y=f"{y}.0", Z="0")
        ElementTree.SubElement(annotation, "Plots")
    return ElementTree.ElementTree(root)


EXPORT = Export(partial(write, scene=SCENE), ("class2", "class3", "class4"), images="slide01")
