"""A network in several files: by an index, or by all the files of a folder.

An index, ``model.safetensors.index.json`` or ``pytorch_model.bin.index.json``, has a
``weight_map`` from names to files beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from bigspec.errors import MissingSourceError, SourceError
from bigspec.networks.formats.file_tensors import finished
from bigspec.networks.formats.safetensors import LONGEST, parsed
from bigspec.networks.tensors import Model, called
from bigspec.sources.file_bytes import Content

__all__ = ["INDEX", "found_shards", "missing_numbers", "open_index", "open_shards"]

INDEX = ".index.json"
NUMBERED = re.compile(r"(.*)-(\d+)-of-(\d+)(\.[a-z]+)")
"""A shard by its name: ``model-00001-of-00003.safetensors``."""
MOST = 100_000
LISTED = 1000


def open_index(content: Content, opening: Callable[[Content], Model]) -> Model:
    """Open every shard that an index names.

    Parameters
    ----------
    content : Content
        Of the index.
    opening : callable
        Opens one file.

    Raises
    ------
    MissingSourceError
        Shards are missing: all of them are named.
    SourceError
        The index is damaged, names a file outside its folder, or a tensor that its shard does not
        hold; or two shards hold one tensor.
    """
    file = content.name
    raw = content.at(0, min(content.size, LONGEST), "its index")
    named = parsed(raw.tobytes(), file, "its index").get("weight_map")
    if not isinstance(named, dict) or not named:
        msg = f"{file}: expected names and files in weight_map, got none; write the index again"
        raise SourceError(msg)
    for name, shard in named.items():
        path = PurePosixPath(shard) if isinstance(shard, str) and shard else None
        if path is None or path.is_absolute() or ".." in path.parts or "\0" in str(path):
            msg = (
                f"{file}: expected a file in the folder of the index for {called(name)}, got "
                f"{shard[:120]!a}"
                if isinstance(shard, str)
                else f"{file}: expected a file for {called(name)}, got {type(shard).__name__}"
            )
            raise SourceError(msg)
    names = list(dict.fromkeys(named.values()))
    known: dict[str, str] = {}

    def finding(shard: str) -> Content:
        found = content.beside(shard)
        known[found.name] = shard
        return found

    model = open_shards(file, names, finding, opening)
    files = {tensor.name: known.get(tensor.file) for tensor in model.values()}
    wrong = [(name, shard) for name, shard in named.items() if files.get(name) != shard]
    if wrong:
        what, shard = wrong[0]
        more = f", and {len(wrong) - 1} more do not lie where it says" if len(wrong) > 1 else ""
        msg = (
            f"{file}: the index says that {called(what)} lies in {shard}, which does not hold it"
            f"{more}; bring index and shards from one place"
        )
        raise SourceError(msg)
    return model


def open_shards(
    file: str,
    names: list[str],
    finding: Callable[[str], Content],
    opening: Callable[[Content], Model],
) -> Model:
    """Open all of these files as one model.

    Parameters
    ----------
    file : str
        What messages call the whole.
    names : list of str
    finding : callable
        From a name to its content; MissingSourceError where nothing lies there.
    opening : callable
        Opens one file.

    Raises
    ------
    MissingSourceError
        Shards are missing: all of them are named.
    SourceError
        They are of several formats, or two hold one tensor.
    """
    contents = found_shards(file, names, finding)
    models = [opening(content) for content in contents]
    formats = sorted({model.format for model in models})
    if len(formats) != 1:
        msg = f"{file}: expected shards of one format, got {' and '.join(formats)}"
        raise SourceError(msg)
    notes: dict[str, Any] = {}
    for model in models:
        notes = _merged(notes, model.notes)
    tensors = (tensor for model in models for tensor in model.values())
    return finished(file, formats[0], tensors, notes)


def found_shards(
    file: str, names: list[str], finding: Callable[[str], Content], what: str = "shards"
) -> list[Content]:
    """Return the contents of all of these files.

    Parameters
    ----------
    file : str
        What messages call the whole.
    names : list of str
    finding : callable
        From a name to its content; MissingSourceError where nothing lies there.
    what : str
        What messages call the files.

    Raises
    ------
    MissingSourceError
        Some are missing: all of them are named.
    """
    contents: list[Content] = []
    missing: list[str] = []
    for name in names:
        try:
            contents.append(finding(name))
        except MissingSourceError:
            missing.append(name)
        if len(missing) > LISTED:
            break
    if missing:
        listed = ", ".join(missing[:LISTED])
        count = f"more than {LISTED}" if len(missing) > LISTED else str(len(missing))
        more = ", ..." if len(missing) > LISTED else ""
        msg = (
            f"{file}: {count} of its {len(names)} {what} are missing: {listed}{more}; copy them, "
            "too"
        )
        raise MissingSourceError(msg)
    return contents


def missing_numbers(names: list[str]) -> list[str]:
    """Return the shards that a folder lacks, by the numbers in the names of the others."""
    there, found = set(names), []
    series = {
        (match[1], int(match[3]), len(match[2]), match[3], match[4])
        for match in map(NUMBERED.fullmatch, names)
        if match
    }
    for begin, count, width, said, ending in sorted(series):
        for number in range(1, min(count, MOST) + 1):
            name = f"{begin}-{number:0{width}d}-of-{said}{ending}"
            if name not in there:
                found.append(name)
    return found


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Put notes together; the first shard's word holds."""
    found = dict(one)
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = {**value, **found[key]} if both else found.get(key, value)
    return found
