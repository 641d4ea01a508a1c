"""Readers of what loggers write, by the formats alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any


def events_of(folder: Path) -> list[Any]:
    """Events of all files of a TensorBoard folder: length, its CRC, data, its CRC."""
    from tensorboardX.proto.event_pb2 import Event

    result = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            result.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return result


def tensorboard_rows(folder: Path) -> dict[tuple[int, int], dict[str, float]]:
    """Points of a TensorBoard folder: seed and step -> metric -> value."""
    rows: dict[tuple[int, int], dict[str, float]] = {}
    for event in events_of(folder):
        for value in event.summary.value:
            if not value.HasField("tensor"):
                seed, _, name = value.tag.partition("/")
                row = rows.setdefault((int(seed.removeprefix("seed_")), event.step), {})
                assert name not in row, "logged twice"
                row[name] = value.simple_value
    return rows


def wandb_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of W&B's offline mode, with ``_step``: a log of LevelDB's form, whose blocks
    of 32 KiB hold parts of records with CRC, length and kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, pending, rows = path.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if not kind:  # padding at the end
            break
        pending += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            record, pending = Record.FromString(pending), b""
            if record.WhichOneof("record_type") == "history":
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                rows.append(items | {"_step": record.history.step.num})
    return rows
