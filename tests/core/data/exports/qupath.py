"""QuPath 0.5, "Export objects as GeoJSON": NAME.geojson beside NAME.png, holes included."""

import json
import uuid
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from core.data.dataset import Dataset
from tests.core.data.exports.export import SCENE, Export
from tests.core.data.exports.tracing import Ring, areas_of


def write(folder: Path, scene: Dataset) -> None:
    """Annotations, as a FeatureCollection; of several pieces, a MultiPolygon."""
    for sample in scene.samples:
        Image.fromarray(sample.image).save(folder / f"{sample.name}.png")
        features = [
            feature(
                areas_of((sample.label_maps == number).any(axis=0)),
                scene.classes[label - 1].name,
            )
            for number, label in enumerate(sample.labels_N.tolist(), start=1)
        ]
        content = {"type": "FeatureCollection", "features": features}
        (folder / f"{sample.name}.geojson").write_text(json.dumps(content))


def feature(areas: list[list[Ring]], name: str | None, kind: str = "annotation") -> dict[str, Any]:
    """An object; its rings end with their first point."""
    coordinates = [[[*ring, ring[0]] for ring in area] for area in areas]
    geometry: dict[str, Any] = {"type": "MultiPolygon", "coordinates": coordinates}
    if len(areas) == 1:
        geometry = {"type": "Polygon", "coordinates": coordinates[0]}
    properties: dict[str, Any] = {"objectType": kind}
    if name is not None:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    return {
        "type": "Feature",
        "id": str(uuid.UUID(int=len(str(coordinates)))),
        "geometry": geometry,
        "properties": properties,
    }


EXPORT = Export(partial(write, scene=SCENE), ("class2", "class3", "class4"))
