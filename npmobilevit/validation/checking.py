"""The check: every layer of a port judged on its own input."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npmobilevit.errors import BundleError, ConfigError
from npmobilevit.images import ImageSource, read_stream
from npmobilevit.models import MobileViTForSemanticSegmentation, PreTrainedModel
from npmobilevit.ops.arrays import Array
from npmobilevit.pipeline import Pipeline, load
from npmobilevit.validation.bundles import weights_sha256
from npmobilevit.validation.candidates import read_candidate
from npmobilevit.validation.diagnosis import diagnosed
from npmobilevit.validation.profiles import Profile, profile_named
from npmobilevit.validation.replay import in_float64
from npmobilevit.validation.report import Finding, Judgement, Report
from npmobilevit.validation.surroundings import Judged, judge_labels, judge_mask, judge_picture, judge_probabilities
from npmobilevit.validation.trial import RESULTS, Trial

Model = Pipeline | PreTrainedModel | str | os.PathLike[str]


def check(
    candidate: Mapping[str, Any] | str | os.PathLike[str],
    model: Model,
    *,
    image: ImageSource | None = None,
    pixel_values: NDArray[Any] | None = None,
    target_size: tuple[int, int] | None = None,
    profile: str = "fp32",
    inputs: Mapping[str, Any] | str | os.PathLike[str] | None = None,
) -> Report:
    """Judge a port of a network by the tensors it dumped.

    Every tap is compared with what float64 makes of the port's own tensors just before it, against a tolerance that
    follows from the declared arithmetic (:mod:`npmobilevit.validation.bounds`). So each mistake is found at its own
    layer, several at once, and nothing downstream is blamed for it.

    Parameters
    ----------
    candidate : mapping of str to array, or path
        The tensors: an .npz or .safetensors file, a folder of .npy files, or a folder with a manifest
        (:func:`npmobilevit.validation.read_candidate`). Names are those of transformers' modules, with or without the
        leading "mobilevit.", and "pixel_values", "logits"; "mask" is a label map; see Notes. Taps may be missing.
    model : Pipeline, model or name
        What was ported, with the weights that the port has.
    image : path, bytes, file object, PIL image or array, optional
        The picture that the pixel values must come from. Needs a Pipeline or a name, which have a processor.
    pixel_values : (N, C, H, W) float array, optional
        The input of the port; the candidate's own, or what is made of `image`, when None.
    target_size : (height, width), optional
        Size of the "mask"; that of the logits when None.
    profile : {"fp32", "tf32", "fp16", "fp16-acc16", "bf16", "int8-dynamic", "fixed"}
        The arithmetic that the port declares.
    inputs : mapping or path, optional
        Injection: the recorded tensors on which the port ran its layers one by one, such as a :class:`Bundle`. Each
        layer is judged on the recorded tensors before it. None: the port ran as a whole.

    Returns
    -------
    Report

    Raises
    ------
    BundleError
        If the candidate cannot be used: damaged, empty, without pixel values.
    ConfigError
        If the profile is unknown, `target_size` no size, the image without a processor, or the network's `hidden_act`
        one for which no tolerance has been derived (relu2, sqrtsoftplus).
    ImageError
        If the image cannot be used.
    ShapeError
        If `pixel_values` does not fit the model.

    Notes
    -----
    Before and after the network the candidate may also give "picture", "resized", "center_cropped" and "rescaled",
    the steps of the image processor, each judged on the one before; "probabilities" and "labels", judged on its
    logits, as is "mask".
    """
    declared = profile_named(profile)
    target_size = _checked_size(target_size)
    pipeline, network = _resolved(model)
    given = read_candidate(candidate)
    injected = None if inputs is None else read_candidate(inputs).tensors
    trial = Trial(in_float64(network), given, declared, injected)

    findings: list[Finding] = []
    judgements: list[Judgement] = []

    def note(results: Judged) -> None:
        for judgement, found in results:
            judgements.append(judgement)
            findings.extend(found)

    prepared = None
    if image is not None:
        if pipeline is None:
            raise ConfigError("image: a bare model has no image processor; pass a Pipeline or a name", "check-image")
        source = read_stream(image) if hasattr(image, "read") else image  # it is read twice
        passed = {} if pixel_values is None else {"pixel_values": np.asarray(pixel_values)}
        note(judge_picture({**passed, **given.tensors}, source, pipeline.processor, declared, given.scales))
        prepared = pipeline.pixel_values(source)
    start = trial.pixel_values(prepared if pixel_values is None else pixel_values)
    if image is None:
        findings += _beyond_range(start)
    if pixel_values is not None:
        trial.judge_start(network.check_pixel_values(pixel_values))
    trial.run(start)
    diagnoses = diagnosed(trial, start)
    judgements += [_with_status(judgement, diagnoses) for judgement in trial.judgements]
    findings += diagnoses

    results, unjudged = _judged_results(trial, given.tensors, network, target_size, declared)
    note(results)
    findings += trial.strangers()
    if not judgements:
        raise BundleError(
            f"the candidate holds nothing that can be judged, but {', '.join(list(given.tensors)[:5])}; "
            "`npmobilevit taps` lists the names of taps",
            "bundle-no-tap",
        )

    return Report(
        model={
            "name": pipeline.name if pipeline else None,
            "class": type(network).__name__,
            "sha256": weights_sha256(network),
        },
        producer=dict(given.producer),
        profile=profile,
        behaves_as=trial.behaviour(start),
        judgements=tuple(judgements),
        findings=tuple(findings),
        unchecked=(*trial.unchecked, *unjudged),
        complete=trial.complete,
    )


def _with_status(judgement: Judgement, findings: list[Finding]) -> Judgement:
    """A tap that is only odd, but odd in the way of a known mistake, is wrong."""
    explained = judgement.status == "unusual" and any(f.tap == judgement.tap and f.severity == "fail" for f in findings)
    return dataclasses.replace(judgement, status="wrong") if explained else judgement


def _judged_results(
    trial: Trial,
    tensors: Mapping[str, NDArray[Any]],
    network: PreTrainedModel,
    target_size: tuple[int, int] | None,
    profile: Profile,
) -> tuple[Judged, list[str]]:
    """What the port made of its logits, judged on them; and the names of what cannot be judged."""
    is_segmenter = isinstance(network, MobileViTForSemanticSegmentation)
    given = [name for name in RESULTS if name in tensors]
    logits = trial.given("logits")
    if logits is None or logits.ndim != (4 if is_segmenter else 2) or not np.isfinite(logits).all():
        return [], given
    found = np.asarray(logits, np.float64)
    judged: Judged = []
    for name in given:
        if name == "mask" and is_segmenter:
            judged += judge_mask(found, tensors[name], target_size, profile)
        elif name == "probabilities" and not is_segmenter:
            judged += judge_probabilities(found, tensors[name], network.config, profile)
        elif name == "labels" and not is_segmenter:
            judged += judge_labels(found, tensors[name], network.config)
    seen = {judgement.tap for judgement, _ in judged}
    return judged, [name for name in given if name not in seen]


def _checked_size(size: tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    is_pair = isinstance(size, tuple | list) and len(size) == 2
    if not is_pair or not all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 1 for n in size):
        raise ConfigError(f"target_size must be (height, width), integers of at least 1, found {size!r}", "target-size")
    return int(size[0]), int(size[1])


def _beyond_range(pixel_values: Array) -> list[Finding]:
    """A finding if the pixel values cannot be what the image processor makes."""
    low, high = float(pixel_values.min()), float(pixel_values.max())
    if low >= 0 and high <= 1:
        return []
    text = f"lie in {low:.3g} to {high:.3g}, and those of a picture in 0 to 1; give the picture to see what differs"
    return [Finding("pixel_values", "unusual", "preprocessing", text)]


def _resolved(model: Model) -> tuple[Pipeline | None, PreTrainedModel]:
    """The pipeline, if there is one, and the network."""
    if isinstance(model, PreTrainedModel):
        return None, model
    pipeline = model if isinstance(model, Pipeline) else load(model)
    return pipeline, pipeline.network
