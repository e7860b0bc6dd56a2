"""Train the CamVid segmenter with transformers' own MobileViTForSemanticSegmentation.

    python tools/train_segmenter.py --data camvid.tar --backbone npmobilevit/checkpoints/shipped/cifar10-xx-small \\
        --state runs/camvid.pt --out runs/camvid

``--data`` is the archive: ``{train,val,test}/images/*.jpg`` with ``labels/*.png``, see camvid.py.
The state is saved after every epoch; the same command started again goes on where it stopped. When the last epoch is
done, ``--out`` holds a Hugging Face folder whose weights are the exponential moving average, stored as float16.
The training pictures train, the validation pictures are measured on the way and decide what is left to decide (which
BatchNorm statistics are kept); the test pictures are read once, when the folder is written.

The backbone begins as that of a classifier of 64x64 pictures, which knows edges and colours but no streets: it learns
on, more slowly than the new head.

Needs torch and transformers (see pyproject.toml, group ``framework``).
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path
from typing import NamedTuple

import torch
from camvid import IGNORED, LABELS, read_split
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from training import forget_statistics, update_average
from transformers import MobileViTConfig, MobileViTForSemanticSegmentation, MobileViTImageProcessorPil

HEIGHT, WIDTH = 360, 480
CROP = 288
BATCH_SIZE = 8
PEAK = 2e-3  # learning rate of the head
BACKBONE_SHARE = 0.7
WARM_UP = 0.03  # share of the training
WEIGHT_DECAY = 0.02
EMA_DECAY = 0.995
MEASURED_EVERY = 5  # epochs


class Score(NamedTuple):
    """Mean over the classes of intersection / union, share of right pixels, and the intersection / union of each."""

    mean_iou: float
    accuracy: float
    per_class: list[float]

    def __str__(self) -> str:
        return f"mIoU {self.mean_iou:.4f} pixels {self.accuracy:.4f}"


def build_model(backbone: Path) -> MobileViTForSemanticSegmentation:
    """The xx-small network with the backbone's weights and a fresh head, whose BatchNorm weights are 1
    (transformers draws them near zero)."""
    config = MobileViTConfig(
        hidden_sizes=[64, 80, 96],
        neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320],
        expand_ratio=2.0,
        output_stride=16,
        image_size=HEIGHT,
        hidden_dropout_prob=0.0,
        semantic_loss_ignore_index=IGNORED,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    model = MobileViTForSemanticSegmentation(config)
    for module in model.segmentation_head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    weights = load_file(backbone / "model.safetensors")
    wanted = [name for name in model.state_dict() if name.startswith("mobilevit.")]
    model.load_state_dict({name: weights[name] for name in wanted}, strict=False)
    return model.to(memory_format=torch.channels_last)


def uniform(rng: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return torch.rand(count, generator=rng) * (high - low) + low


def random_grid(rng: torch.Generator, count: int) -> Tensor:
    """Sampling grid (N, CROP, CROP, 2): pictures enlarged by 0.7 to 2, cut out at random (or, where smaller than the
    crop, put into it at random), every second one flipped horizontally."""
    enlargement = torch.exp(uniform(rng, count, math.log(0.7), math.log(2)))
    scale_x, scale_y = CROP / (WIDTH * enlargement), CROP / (HEIGHT * enlargement)
    flip = torch.where(torch.rand(count, generator=rng) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = scale_x * flip, (1 - scale_x).abs() * uniform(rng, count, -1, 1)
    theta[:, 1, 1], theta[:, 1, 2] = scale_y, (1 - scale_y).abs() * uniform(rng, count, -1, 1)
    return F.affine_grid(theta, [count, 3, CROP, CROP], align_corners=False)


def jitter(x: Tensor, rng: torch.Generator) -> Tensor:
    """Change saturation, contrast and brightness of (N, 3, H, W) in 0..1."""
    saturation, contrast = (uniform(rng, len(x), 0.6, 1.4)[:, None, None, None] for _ in range(2))
    brightness = uniform(rng, len(x), -0.15, 0.15)[:, None, None, None]
    grey, mean = x.mean(1, keepdim=True), x.mean((1, 2, 3), keepdim=True)
    x = grey + (x - grey) * saturation
    return (mean + (x - mean) * contrast + brightness).clamp(0, 1)


def augment(pictures: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """(N, H, W, 3) and (N, H, W) uint8 -> (N, 3, CROP, CROP) float32 BGR in 0..1 and (N, CROP, CROP) int64."""
    grid = random_grid(rng, len(pictures))
    x = jitter(pictures.permute(0, 3, 1, 2).float() / 255, rng)
    x = F.grid_sample(x, grid, mode="bilinear", align_corners=False)
    # outside the picture grid_sample gives 0: sampled as differences from IGNORED, the labels are IGNORED there
    y = F.grid_sample((IGNORED - labels)[:, None].float(), grid, mode="nearest", align_corners=False)
    return x.flip(1).contiguous(memory_format=torch.channels_last), IGNORED - y[:, 0].long()


def pixel_values(pictures: Tensor) -> Tensor:
    """What the image processor makes of (N, 360, 480, 3) uint8 RGB: (N, 3, 360, 480) float32 BGR in 0..1."""
    return (pictures.permute(0, 3, 1, 2).flip(1).float() / 255).contiguous(memory_format=torch.channels_last)


def logits_at(model: nn.Module, x: Tensor) -> Tensor:
    """Logits (N, C, H, W), enlarged to the size of the input (N, 3, H, W)."""
    return F.interpolate(model(pixel_values=x).logits, size=x.shape[2:], mode="bilinear", align_corners=False)


@torch.no_grad()
def measure(model: nn.Module, pictures: Tensor, labels: Tensor) -> Score:
    """Score on whole pictures; intersections and unions are counted over the set, pixels IGNORED left out."""
    model.eval()
    confusion = torch.zeros(len(LABELS), len(LABELS), dtype=torch.int64)
    for x, truth in zip(pictures.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        answer, counted = logits_at(model, pixel_values(x)).argmax(1), truth != IGNORED
        pairs = truth[counted].long() * len(LABELS) + answer[counted]
        confusion += pairs.bincount(minlength=len(LABELS) ** 2).reshape(confusion.shape)
    right = confusion.diagonal()
    iou = right / (confusion.sum(0) + confusion.sum(1) - right)
    return Score(iou.mean().item(), (right.sum() / confusion.sum()).item(), iou.tolist())


def class_weights(labels: Tensor) -> Tensor:
    """Square roots of median frequency / frequency: rare classes count more, by less than their rarity."""
    frequency = labels.flatten().bincount(minlength=IGNORED + 1)[: len(LABELS)].float()
    return (frequency.median() / frequency).sqrt()


def parameter_groups(model: nn.Module) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels only; a lower rate for the backbone. ``share`` is of the head's rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        share = BACKBONE_SHARE if name.startswith("mobilevit.") else 1.0
        groups.setdefault((share, WEIGHT_DECAY if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": p, "share": share, "weight_decay": decay} for (share, decay), p in groups.items()]


def set_rate(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """Linear warm-up, then half a cosine down to 0; progress in 0..1."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * max(0.0, progress - WARM_UP) / (1 - WARM_UP))
    for group in optimizer.param_groups:
        group["lr"] = PEAK * group["share"] * min(1.0, progress / WARM_UP) * cosine


@torch.no_grad()
def with_new_statistics(model: nn.Module, pictures: Tensor) -> nn.Module:
    """A copy whose BatchNorm statistics are those of whole training pictures, not of augmented crops."""
    model = copy.deepcopy(model)
    forget_statistics(model)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    for chosen in order.split(BATCH_SIZE)[:-1]:  # the last batch may be small, and would count as much as the others
        model(pixel_values=pixel_values(pictures[chosen]))
    return model.eval()


def save_folder(model: MobileViTForSemanticSegmentation, out: Path) -> None:
    """Write config, processor settings and float16 weights as a Hugging Face folder.

    Pictures are not cropped, so that the label map covers all of them whatever their shape.
    """
    model.half().save_pretrained(out)
    MobileViTImageProcessorPil(
        size={"shortest_edge": HEIGHT}, do_center_crop=False, crop_size={"height": HEIGHT, "width": WIDTH}, resample=2
    ).save_pretrained(out)


def train_epoch(
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[Tensor, Tensor],
    epoch: int,
    arguments: argparse.Namespace,
) -> float:
    """Train for one epoch; return the mean loss. The random numbers depend on the seed and the epoch alone."""
    pictures, labels = data
    rng = torch.Generator().manual_seed(arguments.seed * 1000 + epoch)
    torch.manual_seed(arguments.seed * 1000 + epoch)  # for the dropout of the head
    weights = class_weights(labels)
    steps = len(pictures) // BATCH_SIZE
    losses = 0.0
    model.train()
    for step, chosen in enumerate(torch.randperm(len(pictures), generator=rng).split(BATCH_SIZE)[:steps]):
        set_rate(optimizer, (epoch * steps + step + 1) / (arguments.epochs * steps))
        x, y = augment(pictures[chosen], labels[chosen], rng)
        loss = F.cross_entropy(logits_at(model, x), y, weights, ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        update_average(average, model, epoch * steps + step, EMA_DECAY)
        losses += loss.item()
    return losses / steps


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    training, validation = (tuple(map(torch.from_numpy, read_split(arguments.data, s))) for s in ("train", "val"))
    model = build_model(arguments.backbone)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(parameter_groups(model))
    recipe = f"{arguments.epochs} epochs, seed {arguments.seed}, crop {CROP}, batch size {BATCH_SIZE}, peak {PEAK}"
    recipe += f" x {BACKBONE_SHARE} for the backbone"
    parts = {"model": model, "average": average, "optimizer": optimizer}
    first = 0
    if arguments.state.exists():
        state = torch.load(arguments.state)
        if state["recipe"] != recipe:
            raise SystemExit(f"error: {arguments.state} is of {state['recipe']}, not {recipe}; give another one")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first = state["epoch"] + 1

    for epoch in range(first, arguments.epochs):
        start = time.monotonic()
        loss = train_epoch(model, average, optimizer, training, epoch, arguments)
        line = f"epoch {epoch + 1}/{arguments.epochs} loss {loss:.4f} {time.monotonic() - start:.0f} s"
        if (epoch + 1) % MEASURED_EVERY == 0 or epoch + 1 == arguments.epochs:
            line += f" val {measure(average, *validation)}"
        print(line, flush=True)
        state = {"recipe": recipe, "epoch": epoch} | {name: part.state_dict() for name, part in parts.items()}
        arguments.state.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, arguments.state.with_suffix(".tmp"))
        arguments.state.with_suffix(".tmp").replace(arguments.state)  # a kill while writing loses nothing

    candidates = {"of crops": average, "of whole pictures": with_new_statistics(average, training[0])}
    scores = {name: measure(candidate, *validation) for name, candidate in candidates.items()}
    for name, score in scores.items():
        print(f"BatchNorm statistics {name}: val {score}", flush=True)
    chosen = max(scores, key=lambda name: scores[name].mean_iou)
    save_folder(candidates[chosen], arguments.out)
    test = measure(candidates[chosen].float(), *map(torch.from_numpy, read_split(arguments.data, "test")))
    print(f"kept those {chosen}: test {test}")
    for label, iou in zip(LABELS, test.per_class, strict=True):
        print(f"  {label} {iou:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="camvid.tar")
    parser.add_argument("--backbone", type=Path, required=True, help="folder of the xx-small classifier to begin with")
    parser.add_argument("--state", type=Path, required=True, help="file that an interrupted training goes on from")
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished checkpoint")
    parser.add_argument("--epochs", type=int, default=55)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
