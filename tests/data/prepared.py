"""Folders as TensorFlow Datasets prepares them, written without TensorFlow."""

import json
import pathlib
import struct
from collections.abc import Mapping, Sequence


def write_shard(path: pathlib.Path, records: Sequence[bytes], file_format: str) -> None:
    if file_format == "array_record":
        import array_record.python.array_record_module as array_record

        writer = array_record.ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
    else:
        framed = [struct.pack("<QI", len(record), 0) + record + struct.pack("<I", 0) for record in records]
        path.write_bytes(b"".join(framed))


def write_info(folder: pathlib.Path, file_format: str, shard_lengths: Mapping[str, Sequence[int]]) -> None:
    """`dataset_info.json` of the version folder, for splits of shards with so many records each."""
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    splits = [
        {"name": split, "shardLengths": [str(length) for length in lengths], "filepathTemplate": template}
        for split, lengths in shard_lengths.items()
    ]
    info = {"name": folder.parent.name, "version": folder.name, "fileFormat": file_format, "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
