"""Convert a checkpoint of transformers' TensorFlow classes (tf_model.h5) into one that npmobilevit reads.

    python tools/convert_tf.py SOURCE DESTINATION

SOURCE is a folder with tf_model.h5 and, if there are any, config.json and preprocessor_config.json; without them the
config follows from the shapes, and the processor has the published settings. DESTINATION becomes a folder with
model.safetensors, config.json and preprocessor_config.json, which transformers reads too.

Needs h5py besides npmobilevit, and neither TensorFlow nor transformers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import npmobilevit as nm
from npmobilevit.checkpoints import CONFIG, PROCESSOR, read_json_object
from npmobilevit.checkpoints.families import infer_config, infer_head, processor_settings, to_transformers
from npmobilevit.image_processing import MobileViTImageProcessor
from npmobilevit.models import PreTrainedModel

SOURCE_FILE = "tf_model.h5"


def read_variables(path: Path) -> dict[str, NDArray[np.generic]]:
    """All variables of a file that Keras 2 wrote, by name.

    Raises
    ------
    SystemExit
        If it is no such file.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            names = {layer: file[layer].attrs["weight_names"] for layer in _texts(file.attrs["layer_names"])}
            return {name: file[layer][name][()] for layer, found in names.items() for name in _texts(found)}
    except (OSError, KeyError) as error:
        raise SystemExit(f"error: {path} is no file of weights that Keras 2 wrote: {error}") from error


def _texts(values: object) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]  # type: ignore[attr-defined]


def model_class(names: list[str]) -> type[PreTrainedModel]:
    """The class that the weights belong to; TensorFlow names a base model's as if it were part of another."""
    if infer_head(names) == "segmentation":
        return nm.MobileViTForSemanticSegmentation
    return nm.MobileViTForImageClassification if "classifier.weight" in names else nm.MobileViTModel


def convert(source: Path, destination: Path) -> None:
    """Write the checkpoint in the folder `source` into the folder `destination`."""
    weights = to_transformers(read_variables(source / SOURCE_FILE))
    if (source / CONFIG).exists():
        config = nm.MobileViTConfig.from_dict(read_json_object(source / CONFIG))
    else:
        config = infer_config(weights)
    if (source / PROCESSOR).exists():
        settings = read_json_object(source / PROCESSOR)
    else:
        settings = processor_settings("tensorflow", infer_head(weights), config)
    processor = MobileViTImageProcessor.from_dict(settings)
    model_class(list(weights))(config, weights).save_pretrained(destination)
    processor.save_pretrained(destination)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    arguments = parser.parse_args()
    try:
        convert(arguments.source, arguments.destination)
    except nm.NpMobileViTError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"wrote {arguments.destination}")


if __name__ == "__main__":
    main()
