"""COCO captions (https://cocodataset.org/#format-data): `images` with `file_name`, `annotations` with `caption`."""

from collections.abc import Iterator
from pathlib import Path

from importers import PICTURE, Draft, NotThisFormat, Options, read_json


def rows(path: Path, options: Options) -> Iterator[Draft]:
    """A row for each caption or, on request, for each picture's first one; numbered as the annotations are."""
    data = read_json(path)
    if not isinstance(data, dict) or not {"images", "annotations"} <= data.keys():
        raise NotThisFormat('it has not "images" and "annotations"')
    names = {image.get("id"): image.get("file_name") for image in data["images"] if isinstance(image, dict)}
    seen = set()
    for where, annotation in enumerate(data["annotations"], 1):
        draft = Draft(where)
        if not isinstance(annotation, dict):
            draft.fault = "it is no object; correct it, or take it out"
            yield draft
            continue
        name, caption = names.get(annotation.get("image_id")), annotation.get("caption")
        if options.first_caption and annotation.get("image_id") in seen:
            continue
        seen.add(annotation.get("image_id"))
        if not isinstance(name, str):
            draft.fault = f"no picture has the id {annotation.get('image_id')!r}; add it, or take the caption out"
        elif not isinstance(caption, str):
            draft.fault = 'it has no "caption"; only caption files are converted'
        else:
            draft.turns = [("user", PICTURE + options.prompt), ("assistant", caption.strip())]
            draft.pictures = [name]
        yield draft
