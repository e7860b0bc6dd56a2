"""Pictures -> ``pixel_values`` and logits -> label maps, as the PIL image processor of transformers 5.23 does."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeGuard, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from npmobilevit.errors import ConfigError, ImageError, ShapeError
from npmobilevit.images import (
    MAX_PIXELS,
    ImageSource,
    check_finite,
    describe,
    flatten,
    raw_pixels,
    to_rgb,
    unit_to_uint8,
)
from npmobilevit.images.options import checked_limit
from npmobilevit.label_maps import label_map
from npmobilevit.ops.resize import resize_bilinear, sources

if TYPE_CHECKING:
    from npmobilevit.checkpoints import HubArguments

__all__ = [
    "MAX_RESIZED_PIXELS",
    "Geometry",
    "MobileViTFeatureExtractor",
    "MobileViTImageProcessor",
    "ProcessorOutput",
    "Size",
    "center_crop",
    "resized_size",
]

Pixels: TypeAlias = NDArray[Any]
SizeSetting: TypeAlias = "int | Sequence[int] | Mapping[str, int]"

MAX_RESIZED_PIXELS = 64_000_000
MAX_FACTOR = 1e30  # 255 times this is still a float32

# Written by several generations of transformers, without a meaning of their own.
_BOOKKEEPING = ("feature_extractor_type", "image_processor_type", "processor_class", "_valid_processor_keys")
_CHANNEL_COUNTS = (1, 3, 4)
_SIZE_FORMS = ({"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"height", "width"})
_LABEL_MODES = ("L", "P", "1", "I", "I;16")


class Size(Mapping[str, int]):
    """A read-only size setting; equal to the dict with the same entries."""

    def __init__(self, entries: Mapping[str, int]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, key: str) -> int:
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return hash(frozenset(self._entries.items()))

    def __repr__(self) -> str:
        return repr(self._entries)


class ProcessorOutput(dict[str, Any]):
    """A dict whose entries are also attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r}, there are {sorted(self)}") from None


class Geometry(NamedTuple):
    """What happens to a picture's size; every entry is (height, width) in pixels.

    Attributes
    ----------
    resized : (int, int)
        After the resize.
    origin : (int, int)
        Where in the resized picture the crop begins; negative where the crop is larger and padded.
    network : (int, int)
        After the crop: the network's input.
    """

    resized: tuple[int, int]
    origin: tuple[int, int]
    network: tuple[int, int]


class SegmentationOutput(Protocol):
    """Whatever has the logits of a segmentation network, (N, C, h, w)."""

    @property
    def logits(self) -> Pixels: ...


@dataclasses.dataclass(frozen=True, kw_only=True, init=False)
class MobileViTImageProcessor:
    """Resize, centre crop, rescale and flip to BGR; equal to ``MobileViTImageProcessorPil`` of transformers 5.23.

    Instances are immutable; every setting is an attribute of the same name.

    Parameters
    ----------
    do_resize, do_center_crop, do_rescale, do_flip_channel_order : bool
        Which steps are taken. None, which files of transformers may have, is False.
    size : int, (height, width) or dict
        Target of the resize. ``{"shortest_edge": s}`` (or the int ``s``) keeps the aspect ratio and truncates the
        long side, ``{"shortest_edge": s, "longest_edge": l}`` also caps it, ``{"height": h, "width": w}`` does not
        keep the ratio.
    crop_size : int, (height, width) or dict
        Size after the centre crop. A smaller picture is padded with zeros, the odd row or column at the top or left.
    resample : int
        Pillow's filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.
    rescale_factor : float
        Factor of the rescaling, positive.
    do_reduce_labels : bool
        Whether label 0 of segmentation maps becomes 255 and every other label k becomes k - 1.
    do_convert_rgb : bool or None
        Whether arrays of 1 or 4 channels and RGB pictures with a transparent colour are turned into opaque RGB.
    input_data_format : {"channels_first", "channels_last"} or None
        Layout of array images. None tells it from the shape.
    do_normalize, image_mean, image_std
        Kept for files that have them. **Never applied**, as in transformers, where this processor skips the step.
    extra : mapping
        Other keys of a settings file, kept and ignored.

    Raises
    ------
    ConfigError
        If a setting is not of its type or outside its range.

    Notes
    -----
    Arrays are treated exactly as in transformers, down to its treatment of floats: whole numbers in 0..255 are
    cast to uint8; otherwise values in 0..1 pass through 8 bits for the resize, come back as 0..1, **and are then
    multiplied by** `rescale_factor` **once more**. A 3-D array whose first axis has 1, 3 or 4 entries is read as
    (C, H, W); ``input_data_format="channels_last"`` says otherwise. RGB pictures of PIL are taken as they are,
    without regard to EXIF orientation. What transformers turns into one or four channels or refuses (paths, bytes,
    PIL images of other modes) goes through :func:`npmobilevit.images.to_rgb`, and so does what
    :func:`npmobilevit.predict` is given.

    The defaults are those of the class in transformers (bicubic, 224, crop 256), not those of the published
    checkpoints (bilinear, 288 or 544, crop 256 or 512), which carry their own.

    Examples
    --------
    >>> from PIL import Image
    >>> processor = MobileViTImageProcessor(size=288, resample=2)
    >>> processor.size
    {'shortest_edge': 288}
    >>> processor(Image.new("RGB", (640, 480), (255, 0, 0)))["pixel_values"][0, :, 0, 0].tolist()  # BGR
    [0.0, 0.0, 1.0]
    """

    do_resize: bool
    size: Size
    resample: int
    do_center_crop: bool
    crop_size: Size
    do_rescale: bool
    rescale_factor: float
    do_flip_channel_order: bool
    do_reduce_labels: bool
    do_convert_rgb: bool | None
    do_normalize: bool | None
    image_mean: float | tuple[float, ...] | None
    image_std: float | tuple[float, ...] | None
    input_data_format: str | None
    extra: Mapping[str, Any] = dataclasses.field(hash=False)

    def __init__(
        self,
        *,
        do_resize: bool | None = True,
        size: SizeSetting = 224,
        resample: int = Image.Resampling.BICUBIC,
        do_center_crop: bool | None = True,
        crop_size: SizeSetting = 256,
        do_rescale: bool | None = True,
        rescale_factor: float = 1 / 255,
        do_flip_channel_order: bool | None = True,
        do_reduce_labels: bool | None = False,
        do_convert_rgb: bool | None = None,
        do_normalize: bool | None = None,
        image_mean: float | Sequence[float] | None = (0.5, 0.5, 0.5),
        image_std: float | Sequence[float] | None = (0.5, 0.5, 0.5),
        input_data_format: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        settings = {
            "do_resize": bool(_checked_bool("do_resize", do_resize)),
            "size": _checked_size(size),
            "resample": _checked_resample(resample),
            "do_center_crop": bool(_checked_bool("do_center_crop", do_center_crop)),
            "crop_size": _checked_crop_size(crop_size),
            "do_rescale": bool(_checked_bool("do_rescale", do_rescale)),
            "rescale_factor": _checked_factor(rescale_factor),
            "do_flip_channel_order": bool(_checked_bool("do_flip_channel_order", do_flip_channel_order)),
            "do_reduce_labels": bool(_checked_bool("do_reduce_labels", do_reduce_labels)),
            "do_convert_rgb": _checked_bool("do_convert_rgb", do_convert_rgb),
            "do_normalize": _checked_bool("do_normalize", do_normalize),
            "image_mean": _checked_statistics("image_mean", image_mean),
            "image_std": _checked_statistics("image_std", image_std),
            "input_data_format": _checked_layout(input_data_format),
            "extra": _checked_extra(extra or {}),
        }
        for name, value in settings.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], **overrides: Any) -> MobileViTImageProcessor:
        """Build a processor from the contents of a ``preprocessor_config.json`` of any generation.

        Parameters
        ----------
        settings : mapping
            Missing entries take the class defaults; unknown keys are kept in ``extra`` and ignored, among
            them ``do_flip_channels`` of the files of 2022, which transformers does not read either.
        **overrides
            Settings that take precedence.

        Raises
        ------
        ConfigError
            If an override has an unknown name or any setting is not valid.
        """
        if not isinstance(settings, Mapping):
            raise ConfigError(
                f"the processor settings are of type {type(settings).__name__}; they have to be a JSON object.",
                code="setting-type",
            )
        known = {key: value for key, value in settings.items() if key in _SETTINGS}
        extra = {k: v for k, v in settings.items() if k not in _SETTINGS and k not in _BOOKKEEPING}
        return cls(**{**known, **_checked_overrides(overrides), "extra": extra})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a JSON-able dict, as transformers writes them (without those None by default)."""
        settings = {name: getattr(self, name) for name in _SETTINGS}
        written = {k: v for k, v in settings.items() if v is not None or k in ("image_mean", "image_std")}
        plain = {name: _plain(value) for name, value in written.items()}
        return {**deepcopy(dict(self.extra)), **plain, "image_processor_type": "MobileViTImageProcessor"}

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], **arguments: Unpack[HubArguments]
    ) -> MobileViTImageProcessor:
        """Load the processor of a checkpoint: a shipped name, an alias, a Hub id or a local folder.

        Parameters
        ----------
        name_or_folder : str or path
        revision, cache_dir, local_files_only, token, force_download : optional
            See :func:`npmobilevit.load`.

        Raises
        ------
        CheckpointError
            If the settings cannot be found or read.
        ConfigError
            If they are not valid.
        """
        from npmobilevit.checkpoints import load_processor_settings  # stands above this module

        return cls.from_dict(load_processor_settings(name_or_folder, **arguments))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``preprocessor_config.json`` into a folder, which is made if need be.

        Raises
        ------
        CheckpointError
            If the file cannot be written.
        """
        from npmobilevit.checkpoints import PROCESSOR, write_json_object  # stands above this module

        write_json_object(Path(folder) / PROCESSOR, self.to_dict())

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource],
        segmentation_maps: ImageSource | Sequence[ImageSource] | None = None,
        *,
        return_tensors: str | None = "np",
        max_resized_pixels: int = MAX_RESIZED_PIXELS,
        **overrides: Any,
    ) -> ProcessorOutput:
        """Call :meth:`preprocess`."""
        return self.preprocess(
            images,
            segmentation_maps,
            return_tensors=return_tensors,
            max_resized_pixels=max_resized_pixels,
            **overrides,
        )

    def preprocess(
        self,
        images: ImageSource | Sequence[ImageSource],
        segmentation_maps: ImageSource | Sequence[ImageSource] | None = None,
        *,
        return_tensors: str | None = "np",
        max_resized_pixels: int = MAX_RESIZED_PIXELS,
        **overrides: Any,
    ) -> ProcessorOutput:
        """Turn pictures into the network's input.

        Parameters
        ----------
        images : one image or a list of images
            PIL images, paths, bytes, binary file objects, or arrays: (H, W, C) or (C, H, W) with C in {1, 3, 4}, or
            a batch of these.
        segmentation_maps : PIL image, (H, W) or (N, H, W) array, or a list of these, optional
            One map of whole numbers for each image. Maps may differ in size from their images.
        return_tensors : "np" or None
            None returns lists of arrays, which then may differ in size.
        max_resized_pixels : int
            Limit of a picture's pixels after the resize, before the crop.
        **overrides
            Settings for this call only.

        Returns
        -------
        ProcessorOutput
            A dict with ``pixel_values``, float32 (N, C, H, W) in 0..1 and BGR (with ``do_rescale=False`` the uint8
            values of the resize), and with maps ``labels``, int64 (N, H, W). The arrays are new.

        Raises
        ------
        ImageError
            If an image or map cannot be used, the resized picture would have more than `max_resized_pixels`
            pixels, or the results differ in size.
        ConfigError
            If an option is not valid.

        Notes
        -----
        The crop comes before the rescaling; transformers has it the other way round, with the same bits.
        """
        if return_tensors not in ("np", None):
            raise ConfigError(
                f"return_tensors is {return_tensors!r}; it has to be 'np' or None. "
                "Pass the arrays to the framework, for example torch.from_numpy(array).",
                code="setting-range",
            )
        checked_limit("max_resized_pixels", max_resized_pixels)
        settings = dataclasses.replace(self, **_checked_overrides(overrides))
        pixels = [settings._pixel_values(image, max_resized_pixels) for image in settings._pixel_arrays(images)]
        if not pixels:
            raise ImageError("there are no images in the list. Pass at least one.", code="no-images")
        output = ProcessorOutput(pixel_values=_batch(pixels, return_tensors))
        if segmentation_maps is not None:
            labels = [settings._labels(label_map, max_resized_pixels) for label_map in _label_maps(segmentation_maps)]
            if len(labels) != len(pixels):
                raise ImageError(
                    f"there are {len(labels)} segmentation maps for {len(pixels)} images. Pass one for each.",
                    code="map-count",
                )
            output["labels"] = _batch(labels, return_tensors)
        return output

    def _pixel_arrays(self, images: object) -> list[Pixels]:
        if isinstance(images, list | tuple):
            return [array for image in images for array in self._pixel_arrays(image)]
        if isinstance(images, np.ndarray) and images.ndim == 4:
            return [self._channels_first(image) for image in images]
        if isinstance(images, np.ndarray):
            return [self._channels_first(images)]
        if isinstance(images, Image.Image) and images.mode == "RGB":
            pixels = raw_pixels(flatten(images) if self.do_convert_rgb else images)
        else:
            pixels = to_rgb(images)  # type: ignore[arg-type]
        return [np.moveaxis(pixels, -1, 0)]  # (H, W, 3) -> (3, H, W)

    def _channels_first(self, array: Pixels) -> Pixels:
        """Check an array and bring it into (C, H, W); as the array is, C is 1, 3 or 4."""
        _check_values(array)
        if array.ndim != 3:
            raise ImageError(
                f"cannot use {describe(array)}: the processor takes (H, W, C) or (C, H, W), or a batch of them. "
                "For a grey picture pass array[:, :, None], or npmobilevit.images.to_rgb(array) for an RGB one.",
                code="array-shape",
            )
        first = self.input_data_format == "channels_first"
        if self.input_data_format is None:
            first = array.shape[0] in _CHANNEL_COUNTS
        image = np.asarray(array) if first else np.moveaxis(np.asarray(array), -1, 0)
        if image.shape[0] not in _CHANNEL_COUNTS:
            raise ImageError(
                f"cannot use {describe(array)}: the channel axis, first or last, has to have 1, 3 or 4 entries.",
                code="array-shape",
            )
        return _converted_to_rgb(image) if self.do_convert_rgb else image

    def geometry(self, height: int, width: int) -> Geometry:
        """Tell the sizes of a picture of `height` x `width` pixels on its way to the network.

        Parameters
        ----------
        height, width : int
            In pixels, at least 1.

        Returns
        -------
        Geometry
        """
        resized = resized_size(height, width, self.size) if self.do_resize else (height, width)
        if not self.do_center_crop:
            return Geometry(resized, (0, 0), resized)
        crop = self.crop_size["height"], self.crop_size["width"]
        return Geometry(resized, (_crop_origin(resized[0], crop[0]), _crop_origin(resized[1], crop[1])), crop)

    def _pixel_values(self, image: Pixels, max_pixels: int) -> Pixels:
        image = self._resized_and_cropped(image, self.resample, max_pixels)
        if self.do_rescale:
            image = _rescaled(image, self.rescale_factor)
        return image[::-1] if self.do_flip_channel_order else image

    def _labels(self, label_map: Pixels, max_pixels: int) -> NDArray[np.int64]:
        if self.do_reduce_labels:
            label_map = _reduced_labels(label_map)
        image = self._resized_and_cropped(label_map[None], Image.Resampling.NEAREST, max_pixels)  # (1, H, W)
        labels: NDArray[np.int64] = image[0].astype(np.int64)
        return labels

    def _resized_and_cropped(self, image: Pixels, resample: int, max_pixels: int) -> Pixels:
        is_unit = False
        if self.do_resize:
            image, is_unit = _as_uint8(image)
            image = _resized(image, self.size, resample, max_pixels)
        if self.do_center_crop:
            image = center_crop(image, self.crop_size["height"], self.crop_size["width"])
        return _rescaled(image, 1 / 255) if is_unit else image

    def post_process_semantic_segmentation(
        self,
        outputs: SegmentationOutput,
        target_sizes: Sequence[tuple[int, int]] | NDArray[np.integer] | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[NDArray[np.int64]] | list[ProcessorOutput]:
        """Turn the logits of a segmentation network into label maps.

        Parameters
        ----------
        outputs : object with ``logits``, (N, C, h, w)
        target_sizes : list of (height, width) or (N, 2) array, optional
            Size of each map; without it the maps have the size of the logits. The logits, not the labels, are
            resized, bilinearly.
        return_segmentation_scores : bool
            Whether to return the resized logits too.

        Returns
        -------
        list of int64 (height, width) arrays
            The class of the largest logit, of equal ones the lowest. With `return_segmentation_scores` a list of
            dicts, also readable as attributes, with ``segmentation`` and ``segmentation_scores`` (C, height, width).

        Raises
        ------
        ShapeError
            If there are no such logits, or the target sizes are not N pairs of positive whole numbers.

        Notes
        -----
        A centre crop made by :meth:`preprocess` is not undone: the map shows what the network saw.
        """
        logits = getattr(outputs, "logits", None)
        if not isinstance(logits, np.ndarray) or logits.ndim != 4 or 0 in logits.shape:
            found = describe(logits) if logits is not None else describe(outputs)
            raise ShapeError(
                f"outputs.logits has to be an array of shape (N, C, h, w), found {found}. "
                "Pass the output of MobileViTForSemanticSegmentation.",
                code="logits-shape",
            )
        if logits.dtype not in (np.float32, np.float64):
            raise ShapeError(
                f"outputs.logits has to be of float32 or float64, found {logits.dtype}.", code="logits-dtype"
            )
        if np.isnan(logits).any():
            raise ShapeError("outputs.logits holds NaN, which belongs to no class.", code="logits-nan")
        own = [logits.shape[2:]] * len(logits)
        sizes = own if target_sizes is None else _checked_target_sizes(target_sizes, len(logits))
        maps = [_label_map(logits[i], size) for i, size in enumerate(sizes)]
        if not return_segmentation_scores:
            return maps
        return [
            ProcessorOutput(segmentation=maps[i], segmentation_scores=resize_bilinear(logits[i : i + 1], size)[0])
            for i, size in enumerate(sizes)
        ]


MobileViTFeatureExtractor = MobileViTImageProcessor

_SETTINGS = tuple(f.name for f in dataclasses.fields(MobileViTImageProcessor) if f.name != "extra")


def resized_size(height: int, width: int, size: Mapping[str, int]) -> tuple[int, int]:
    """Return (height, width) of a picture after the resize to a size setting.

    Notes
    -----
    ``get_resize_output_image_size`` and ``get_size_with_aspect_ratio`` of transformers: the long side is truncated,
    and with a cap the short side is first rounded, half to even.
    """
    if "height" in size:
        return size["height"], size["width"]
    short, long = min(height, width), max(height, width)
    if "longest_edge" in size:
        new_short, new_long = _capped_sides(short, long, size["shortest_edge"], size["longest_edge"])
    else:
        new_short, new_long = size["shortest_edge"], int(size["shortest_edge"] * long / short)
    return (new_long, new_short) if width <= height else (new_short, new_long)


def _capped_sides(short: int, long: int, target: int, cap: int) -> tuple[int, int]:
    exact: float = target
    if long / short * target > cap:
        exact = cap * float(short) / long
        target = round(exact)
    if short == target:
        return short, long
    return target, int(exact * long / short)


def center_crop(image: Pixels, height: int, width: int) -> Pixels:
    """Cut (C, height, width) out of the middle of (C, H, W), with zeros where there is no picture.

    Notes
    -----
    ``center_crop`` of transformers. An odd rest goes to the bottom and right when cutting, and to the top and left
    when padding: both are floor((H - height) / 2), which is negative for padding.
    """
    source_rows, rows = _crop_spans(image.shape[1], height)
    source_columns, columns = _crop_spans(image.shape[2], width)
    cropped = np.zeros((image.shape[0], height, width), dtype=image.dtype)
    cropped[:, rows, columns] = image[:, source_rows, source_columns]
    return cropped


def _crop_origin(length: int, target: int) -> int:
    """Where along one axis the crop begins; negative if it is larger than the picture."""
    return (length - target) // 2


def _crop_spans(length: int, target: int) -> tuple[slice, slice]:
    """Along one axis: the span that is kept, and where it comes to lie in the result."""
    offset = _crop_origin(length, target)
    if offset >= 0:
        return slice(offset, offset + target), slice(0, target)
    return slice(0, length), slice(-offset, -offset + length)


def _resized(image: NDArray[np.uint8], size: Mapping[str, int], resample: int, max_pixels: int) -> NDArray[np.uint8]:
    height, width = resized_size(image.shape[1], image.shape[2], size)
    if height < 1 or width < 1:
        raise ImageError(
            f"a picture of {image.shape[1]} x {image.shape[2]} (height x width) would vanish at size {size}. "
            "Its sides differ too much: crop it first.",
            code="resized-no-pixels",
        )
    if height * width > max_pixels:
        ratio = max(image.shape[1:]) / min(image.shape[1:])
        raise ImageError(
            f"a picture of {image.shape[1]} x {image.shape[2]} (height x width) would be resized to {height} x "
            f"{width}, more than the limit max_resized_pixels of {max_pixels:,}. Its aspect ratio is {ratio:.0f}: crop "
            "it first, or raise the limit.",
            code="resized-too-large",
        )
    channels_last = np.ascontiguousarray(np.moveaxis(image, 0, -1))  # (H, W, C)
    picture = Image.fromarray(channels_last[:, :, 0] if image.shape[0] == 1 else channels_last)
    pixels = np.asarray(picture.resize((width, height), resample=resample))
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)  # (C, height, width)


def _as_uint8(image: Pixels) -> tuple[NDArray[np.uint8], bool]:
    """Bring pixels into 8 bits, and tell whether they were floats in 0..1 (``_rescale_for_pil_conversion``)."""
    if image.dtype == np.uint8:
        return image, False
    low, high = np.min(image), np.max(image)
    if low >= 0 and high <= 255 and np.allclose(image, image.astype(int)):
        return image.astype(np.uint8), False
    if low >= 0 and high <= 1:
        return unit_to_uint8(image), True
    raise ImageError(
        f"cannot resize {describe(image)} with values {low:g}..{high:g}. They have to be whole numbers in 0..255, or "
        "floats in 0..1.",
        code="array-range",
    )


def _rescaled(image: Pixels, factor: float) -> NDArray[np.float32]:
    return (image.astype(np.float64) * factor).astype(np.float32)


def _converted_to_rgb(image: Pixels) -> Pixels:
    """Repeat one channel, or lay four on white, as ``convert_to_rgb`` of transformers does with arrays."""
    if image.shape[0] == 1:
        return np.repeat(image, 3, axis=0)
    if image.shape[0] == 3:
        return image
    is_integer = np.issubdtype(image.dtype, np.integer)
    if not is_integer and (image.min() < 0 or image.max() > 1):
        raise ImageError(
            f"cannot lay {describe(image)} on white: floats with an alpha channel have to be within 0..1.",
            code="array-range",
        )
    white = 255 if is_integer else 1.0
    alpha = image[3:] / white
    composite = alpha * image[:3] + (1 - alpha) * white
    return (np.round(composite) if is_integer else composite).astype(image.dtype)


def _label_maps(maps: object) -> list[Pixels]:
    if isinstance(maps, list | tuple):
        return [label_map for item in maps for label_map in _label_maps(item)]
    if isinstance(maps, Image.Image) and maps.mode in _LABEL_MODES:
        maps = raw_pixels(maps)
    if not isinstance(maps, np.ndarray):
        raise ImageError(
            f"cannot use {describe(maps)} as a segmentation map. Pass an (H, W) array of whole numbers, or a PIL image "
            f"of mode {', '.join(_LABEL_MODES)}.",
            code="map-type",
        )
    _check_values(maps)
    if maps.ndim not in (2, 3):
        raise ImageError(
            f"cannot use {describe(maps)} as segmentation maps: the shape has to be (H, W) or (N, H, W).",
            code="map-shape",
        )
    if maps.dtype.kind == "f" and not np.array_equal(maps, np.trunc(maps)):
        raise ImageError(
            f"cannot use {describe(maps)} as a segmentation map: labels are whole numbers.", code="map-values"
        )
    return [np.asarray(maps)] if maps.ndim == 2 else list(np.asarray(maps))


def _reduced_labels(label_map: Pixels) -> NDArray[np.int64]:
    labels = label_map.astype(np.int64)
    return np.where((labels == 0) | (labels == 255), 255, labels - 1)


def _check_values(array: Pixels) -> None:
    source = describe(array)
    if isinstance(array, np.ma.MaskedArray):
        raise ImageError(
            f"cannot use a masked {source}: the mask has no meaning here. Pass array.filled(value).",
            code="array-masked",
        )
    if array.dtype.kind not in "buif":
        raise ImageError(f"cannot use {source}: pixels have to be real numbers.", code="array-dtype")
    if array.size == 0:
        raise ImageError(
            f"cannot use {source}: it has no pixels. Height and width have to be at least 1.", code="image-no-pixels"
        )
    check_finite(array, source)


def _batch(arrays: list[Pixels], return_tensors: str | None) -> Pixels | list[Pixels]:
    if return_tensors is None:
        return [np.array(array, order="C") for array in arrays]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ImageError(
            f"the results have different shapes, {', '.join(map(str, shapes))}, and do not make one batch. Use "
            "do_center_crop=True or a size of height and width, or return_tensors=None for a list.",
            code="batch-shapes",
        )
    return np.stack(arrays)


def _label_map(logits: Pixels, size: tuple[int, int]) -> NDArray[np.int64]:
    if logits.shape[1:] == size:
        own: NDArray[np.int64] = np.argmax(logits, axis=0).astype(np.int64)
        return own
    rows, columns = (sources(logits.shape[axis + 1], size[axis], logits.dtype) for axis in range(2))
    return label_map(logits, rows, columns).astype(np.int64)


def _checked_target_sizes(target_sizes: ArrayLike, count: int) -> list[tuple[int, int]]:
    try:
        sizes = np.asarray(target_sizes)
    except ValueError:  # ragged
        sizes = np.empty(0)
    whole = sizes.shape == (count, 2) and sizes.dtype.kind in "iu" and sizes.min() >= 1
    pairs = [(int(height), int(width)) for height, width in sizes] if whole else []
    if not whole or any(height * width > MAX_PIXELS for height, width in pairs):
        raise ShapeError(
            f"target_sizes has to hold {count} pairs (height, width) of positive whole numbers, one for each item of "
            f"the batch, for at most {MAX_PIXELS:,} pixels each; found {target_sizes!r}.",
            code="target-sizes",
        )
    return pairs


def _setting_error(name: str, value: object, allowed: str, code: str = "setting-range") -> ConfigError:
    return ConfigError(f"{name} is {value!r}; it has to be {allowed}.", code=code)


def _checked_overrides(overrides: dict[str, Any]) -> dict[str, Any]:
    for name in overrides:
        if name not in _SETTINGS:
            raise ConfigError(
                f"there is no setting {name!r}; there are {', '.join(_SETTINGS)}.", code="setting-unknown"
            )
    return overrides


def _checked_bool(name: str, value: object) -> bool | None:
    if value is not None and not isinstance(value, bool | np.bool_):
        raise _setting_error(name, value, "True, False or None", code="setting-type")
    return None if value is None else bool(value)


def _checked_size(value: object) -> Size:
    size = _size_entries({"shortest_edge": value} if isinstance(value, Integral) else value)
    keys = set(size)
    area = size["height"] * size["width"] if keys == {"height", "width"} else min(size.values(), default=0) ** 2
    if keys not in _SIZE_FORMS or area > MAX_RESIZED_PIXELS:
        raise _setting_error(
            "size",
            value,
            "a positive int, [height, width], or a dict with shortest_edge, shortest_edge and longest_edge, or height "
            f"and width, for at most {MAX_RESIZED_PIXELS:,} pixels",
        )
    return Size(size)


def _checked_crop_size(value: object) -> Size:
    size = _size_entries({"height": value, "width": value} if isinstance(value, Integral) else value)
    if set(size) != {"height", "width"} or size["height"] * size["width"] > MAX_RESIZED_PIXELS:
        raise _setting_error(
            "crop_size",
            value,
            "a positive int, [height, width], or a dict with height and width, for at most "
            f"{MAX_RESIZED_PIXELS:,} pixels",
        )
    return Size(size)


def _size_entries(value: object) -> dict[str, int]:
    """Return the named lengths of a size; none if one of them is not a positive int."""
    if isinstance(value, list | tuple) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    if not isinstance(value, Mapping):
        return {}
    for length in value.values():
        if not isinstance(length, Integral) or isinstance(length, bool) or length < 1:
            return {}
    return {str(key): int(length) for key, length in value.items()}


def _checked_resample(value: object) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value not in range(6):
        raise _setting_error(
            "resample", value, "0 (nearest), 1 (Lanczos), 2 (bilinear), 3 (bicubic), 4 (box) or 5 (Hamming)"
        )
    return int(value)


def _checked_factor(value: object) -> float:
    if not _is_finite_number(value) or not 0 < value <= MAX_FACTOR:
        raise _setting_error("rescale_factor", value, f"a positive number of at most {MAX_FACTOR:g}")
    return float(value)


def _checked_statistics(name: str, value: object) -> float | tuple[float, ...] | None:
    if value is None:
        return None
    values = value if isinstance(value, list | tuple) else (value,)
    if not all(_is_finite_number(number) for number in values):
        raise _setting_error(name, value, "a number, a list of numbers or None")
    numbers = tuple(float(number) for number in values)
    return numbers if isinstance(value, list | tuple) else numbers[0]


def _is_finite_number(value: object) -> TypeGuard[float]:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _checked_layout(value: object) -> str | None:
    if value is not None and value not in ("channels_first", "channels_last"):
        raise _setting_error("input_data_format", value, "'channels_first', 'channels_last' or None")
    return None if value is None else str(value)


def _checked_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    if extra.get("default_to_square"):
        raise ConfigError(
            "default_to_square is set, which is not supported. Give size as [height, width] instead.",
            code="setting-unsupported",
        )
    try:
        json.dumps(dict(extra), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the unknown settings cannot be kept as JSON: {error}.", code="setting-type") from error
    return deepcopy(dict(extra))


def _plain(value: object) -> object:
    if isinstance(value, Size):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value
