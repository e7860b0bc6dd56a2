"""predict and segment against the same steps in transformers: processor, model, post-processing."""

import io

import numpy as np
import pytest
from PIL import Image

import npmobilevit as nm

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil  # noqa: E402

pytestmark = [pytest.mark.framework, pytest.mark.filterwarnings("default")]


def photograph(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + 1), np.sin(y / 7 + x / 23), np.cos(x / 31 - y / 5)]
    return (127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8)


def their_mask(folder, image: np.ndarray, target: tuple[int, int], **settings: object) -> tuple[np.ndarray, np.ndarray]:
    """The label map in float64, and how far ahead of the second the largest logit is."""
    processor = MobileViTImageProcessorPil.from_pretrained(folder)
    model = transformers.MobileViTForSemanticSegmentation.from_pretrained(folder).double().eval()
    pixels = processor(Image.fromarray(image), return_tensors="pt", **settings)["pixel_values"].double()
    with torch.no_grad():
        outputs = model(pixels)
    (label_map,) = processor.post_process_semantic_segmentation(outputs, [target])
    resized = torch.nn.functional.interpolate(outputs.logits, target, mode="bilinear", align_corners=False)[0]
    best = resized.topk(2, dim=0).values
    return label_map.numpy(), (best[0] - best[1]).numpy()


@pytest.mark.parametrize(("height", "width"), [(36, 36), (36, 61), (90, 50), (301, 452)])
def test_segment_is_their_processor_model_and_post_processing(segmenter_folder, height, width):
    image = photograph(height, width)
    expected, lead = their_mask(segmenter_folder, image, (height, width), do_center_crop=False)
    mask = nm.load(segmenter_folder, precision="float64").segment(image).mask
    assert mask.shape == expected.shape
    assert lead[mask != expected].max(initial=0) < 1e-9
    assert len(np.unique(mask)) > 1


@pytest.mark.parametrize(("height", "width"), [(36, 36), (36, 61), (90, 36)])
def test_segment_with_crop_is_their_pipeline_laid_into_the_picture(segmenter_folder, height, width):
    image = photograph(height, width)
    expected, lead = their_mask(segmenter_folder, image, (32, 32))
    mask = nm.load(segmenter_folder, precision="float64").segment(image, crop=True).mask
    top, left = (height - 32) // 2, (width - 32) // 2
    inside = mask[top : top + 32, left : left + 32]
    assert lead[inside != expected].max(initial=0) < 1e-9
    assert (mask == 255).sum() == height * width - 32 * 32


def test_predict_gives_the_scores_of_their_image_classification(classifier_folder):
    image = photograph(60, 90)
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    processor = MobileViTImageProcessorPil.from_pretrained(classifier_folder)
    model = transformers.MobileViTForImageClassification.from_pretrained(classifier_folder).double().eval()
    with torch.no_grad():
        logits = model(processor(Image.fromarray(image), return_tensors="pt")["pixel_values"].double()).logits[0]
    scores, order = logits.softmax(-1).sort(descending=True)
    predictions = nm.load(classifier_folder, precision="float64").predict(data.getvalue())
    assert [p.index for p in predictions] == order.tolist()
    np.testing.assert_allclose([p.score for p in predictions], scores.numpy(), atol=1e-12)
