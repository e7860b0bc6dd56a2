"""Checkpoints: from a name or path to config, weights and processor settings, and back to files."""

from npmobilevit.checkpoints.catalogue import ALIASES, CATALOGUE, Entry
from npmobilevit.checkpoints.checkpoint import (
    ARCHITECTURES,
    Checkpoint,
    CheckpointContents,
    find_checkpoint,
    is_cached,
    load_config_settings,
    load_processor_settings,
    local_path,
    read_checkpoint,
    read_model,
)
from npmobilevit.checkpoints.convert import convert
from npmobilevit.checkpoints.files import read_at_once, regular_file_size, shown, write_atomically
from npmobilevit.checkpoints.folder import CONFIG, PROCESSOR, WEIGHTS
from npmobilevit.checkpoints.hub import HubArguments
from npmobilevit.checkpoints.json_file import read_json_object, write_json_object
from npmobilevit.checkpoints.weights_file import (
    StoredTensors,
    bfloat16_bits,
    from_bfloat16_bits,
    read_safetensors,
    read_stored,
    safetensors_bytes,
    write_safetensors,
)

__all__ = [
    "ALIASES",
    "ARCHITECTURES",
    "CATALOGUE",
    "CONFIG",
    "PROCESSOR",
    "WEIGHTS",
    "Checkpoint",
    "CheckpointContents",
    "Entry",
    "HubArguments",
    "StoredTensors",
    "bfloat16_bits",
    "convert",
    "find_checkpoint",
    "from_bfloat16_bits",
    "is_cached",
    "load_config_settings",
    "load_processor_settings",
    "local_path",
    "read_at_once",
    "read_checkpoint",
    "read_json_object",
    "read_model",
    "read_safetensors",
    "read_stored",
    "regular_file_size",
    "safetensors_bytes",
    "shown",
    "write_atomically",
    "write_json_object",
    "write_safetensors",
]
