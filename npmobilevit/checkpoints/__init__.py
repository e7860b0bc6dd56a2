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
from npmobilevit.checkpoints.folder import CONFIG, PROCESSOR, WEIGHTS
from npmobilevit.checkpoints.hub import HubArguments
from npmobilevit.checkpoints.json_file import read_json_object, write_json_object
from npmobilevit.checkpoints.weights_file import read_safetensors, write_safetensors

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
    "convert",
    "find_checkpoint",
    "is_cached",
    "load_config_settings",
    "load_processor_settings",
    "local_path",
    "read_checkpoint",
    "read_json_object",
    "read_model",
    "read_safetensors",
    "write_json_object",
    "write_safetensors",
]
