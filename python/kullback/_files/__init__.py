"""Files of rows: what is in them, blocks of their rows, and files of results."""

from kullback._files.llama import Codes, Packed, PackedRows
from kullback._files.rows import Rows, open_rows
from kullback._files.select import (
    EXTENSIONS,
    as_stored,
    list_tensors,
    pair_matrices,
    select_aligned,
    select_matrices,
)
from kullback._files.shards import SHARD_EXTENSIONS, Shards
from kullback._files.tensor import DamagedError, FileError, Tensor
from kullback._files.topk import Position, is_topk, read_topk, topk_columns
from kullback._files.writers import OUT_EXTENSIONS, AtomicFile, RowWriter, WriteError, open_writer

__all__ = [
    "EXTENSIONS",
    "OUT_EXTENSIONS",
    "SHARD_EXTENSIONS",
    "AtomicFile",
    "Codes",
    "DamagedError",
    "FileError",
    "Packed",
    "PackedRows",
    "Position",
    "RowWriter",
    "Rows",
    "Shards",
    "Tensor",
    "WriteError",
    "as_stored",
    "is_topk",
    "list_tensors",
    "open_rows",
    "open_writer",
    "pair_matrices",
    "read_topk",
    "select_aligned",
    "select_matrices",
    "topk_columns",
]
