"""Checkpoints: from a name or folder to config, weights and processor settings, and back to files."""

from npmobilevit.checkpoints.checkpoint import (
    CONFIG,
    PROCESSOR,
    WEIGHTS,
    Checkpoint,
    find_checkpoint,
    find_model,
    load_config_dict,
    load_config_settings,
    load_processor_dict,
    load_processor_settings,
    load_weights,
    local_folder,
)
from npmobilevit.checkpoints.hub import HubArguments
from npmobilevit.checkpoints.json_file import read_json_object, write_json_object
from npmobilevit.checkpoints.weights_file import read_safetensors, write_safetensors

__all__ = [
    "CONFIG",
    "PROCESSOR",
    "WEIGHTS",
    "Checkpoint",
    "HubArguments",
    "find_checkpoint",
    "find_model",
    "load_config_dict",
    "load_config_settings",
    "load_processor_dict",
    "load_processor_settings",
    "load_weights",
    "local_folder",
    "read_json_object",
    "read_safetensors",
    "write_json_object",
    "write_safetensors",
]
