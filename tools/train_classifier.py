"""Train the shipped CIFAR-10 classifier with transformers' own MobileViTForImageClassification.

    python tools/train_classifier.py --data cifar10.tar.xz --out runs/cifar10

``--data`` is the archive, or the folder it unpacks to (``train/<class>/*.jpg`` and ``test/<class>/*.jpg``).
The state is saved after every epoch; the same command started again goes on where it stopped.
When the last epoch is done, ``--out`` holds a Hugging Face folder whose weights are the exponential
moving average, stored as float16. Only the training pictures are used: the test pictures choose nothing.

The network must know photographs, which are sharper than a 32x32 picture enlarged to 64x64. So every picture
is enlarged by a filter drawn for the batch, blurred or sharpened by an amount drawn for the picture, cropped
or shown small inside its mirrored surroundings (there it has the sharpness of a real 64x64 photograph).

Needs torch and transformers (see pyproject.toml, group ``framework``).
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from cifar10 import LABELS, read_split
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from training import forget_statistics, update_average
from transformers import MobileViTConfig, MobileViTForImageClassification, MobileViTImageProcessorPil

INPUT_SIZE = 64


class Phase(NamedTuple):
    """A stretch of epochs with one input size and one strength of the augmentation."""

    epochs: int
    size: int
    strength: float


class Cycle(NamedTuple):
    """A stretch of epochs with one learning-rate cycle, which may be cut short."""

    epochs: int
    peak: float
    uncut: int


# Smaller inputs first: they cost 0.65 of the time. Milder augmentation last, so that the network ends near what it
# will see.
PHASES = (Phase(14, 48, 1.0), Phase(16, INPUT_SIZE, 1.0), Phase(20, INPUT_SIZE, 0.5), Phase(3, INPUT_SIZE, 0.15))
CYCLES = (Cycle(37, 2e-3, 40), Cycle(13, 8e-4, 13), Cycle(3, 3e-4, 3))
EMA_DECAY = 0.999


def build_model() -> MobileViTForImageClassification:
    """The xx-small network for 64x64 inputs, BatchNorm weights at 1 (transformers draws them near zero)."""
    config = MobileViTConfig(
        hidden_sizes=[64, 80, 96],
        neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320],
        expand_ratio=2.0,
        image_size=INPUT_SIZE,
        hidden_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    model = MobileViTForImageClassification(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return model.to(memory_format=torch.channels_last)


def uniform(rng: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return torch.rand(count, generator=rng) * (high - low) + low


def random_grid(rng: torch.Generator, count: int, size: int, strength: float) -> Tensor:
    """Sampling grid (N, size, size, 2): at full strength a crop of 35-100 % of the area, or for one picture in five
    a view of up to 2.5 times the area; a random aspect ratio, and a horizontal flip for every second picture."""
    wide = torch.rand(count, generator=rng) < 0.2 * strength
    area = torch.where(wide, uniform(rng, count, 1.0, 2.5), uniform(rng, count, 1 - 0.65 * strength, 1.0))
    ratio = torch.exp(uniform(rng, count, -math.log(4 / 3), math.log(4 / 3)))
    scale_x, scale_y = (area * ratio).sqrt(), (area / ratio).sqrt()
    scale_x, scale_y = (torch.where(wide, s, s.clamp(max=1.0)) for s in (scale_x, scale_y))
    shift_x = (1 - scale_x).abs() * uniform(rng, count, -1, 1)
    shift_y = (1 - scale_y).abs() * uniform(rng, count, -1, 1)
    flip = torch.where(torch.rand(count, generator=rng) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = scale_x * flip, shift_x
    theta[:, 1, 1], theta[:, 1, 2] = scale_y, shift_y
    return F.affine_grid(theta, [count, 3, size, size], align_corners=False)


def sharpen(x: Tensor, amount: Tensor) -> Tensor:
    """Unsharp mask with a 3x3 binomial blur; amount (N,) below zero blurs, above zero sharpens."""
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    blurred = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, groups=3)
    return x + amount[:, None, None, None] * (x - blurred)


def augment(pictures: Tensor, size: int, rng: torch.Generator, strength: float) -> Tensor:
    """(N, 32, 32, 3) uint8 RGB -> (N, 3, size, size) float32 BGR in 0..1, as the image processor gives it."""
    count = len(pictures)
    x = pictures.permute(0, 3, 1, 2).float() / 255
    # half of the batches, and mildly augmented ones all, keep the filter of the image processor
    mode = ("bilinear", "bilinear", "bicubic", "nearest")[int(torch.randint(4, (), generator=rng))]
    mode = mode if strength >= 0.5 else "bilinear"
    grid = random_grid(rng, count, size, strength)
    x = F.grid_sample(x, grid, mode=mode, padding_mode="reflection", align_corners=False)
    plain = torch.rand(count, generator=rng) < 0.4
    x = sharpen(x, torch.where(plain, torch.zeros(count), uniform(rng, count, -0.8 * strength, 2.5 * strength)))
    contrast = uniform(rng, count, 1 - 0.3 * strength, 1 + 0.3 * strength)[:, None, None, None]
    brightness = uniform(rng, count, -0.15 * strength, 0.15 * strength)[:, None, None, None]
    saturation = uniform(rng, count, 1 - 0.5 * strength, 1 + 0.5 * strength)[:, None, None, None]
    grey, mean = x.mean(1, keepdim=True), x.mean((1, 2, 3), keepdim=True)
    x = grey + (x - grey) * saturation
    x = mean + (x - mean) * contrast + brightness
    return x.clamp(0, 1).flip(1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(model: nn.Module, pictures: np.ndarray, labels: np.ndarray) -> float:
    """Share of right answers after the image processor's steps for square pictures (resize, rescale, BGR)."""
    model.eval()
    right = 0
    for start in range(0, len(pictures), 250):
        batch = [Image.fromarray(p).resize((INPUT_SIZE, INPUT_SIZE), 2) for p in pictures[start : start + 250]]
        x = torch.from_numpy(np.stack([np.asarray(image) for image in batch])).permute(0, 3, 1, 2).flip(1)
        logits = model(pixel_values=x.float() / 255).logits
        right += int((logits.argmax(1) == torch.from_numpy(labels[start : start + 250])).sum())
    return right / len(pictures)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels only."""
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def entry_at(table: Sequence[Phase] | Sequence[Cycle], epoch: int) -> tuple[Any, int]:
    """The entry of PHASES or CYCLES that `epoch` belongs to, and its first epoch."""
    begin = 0
    for entry in table:
        if epoch < begin + entry.epochs:
            return entry, begin
        begin += entry.epochs
    raise IndexError(epoch)


def one_cycle(
    optimizer: torch.optim.Optimizer, epoch: int, steps_per_epoch: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """The learning-rate cycle that `epoch` belongs to, at its beginning."""
    cycle, _ = entry_at(CYCLES, epoch)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, cycle.peak, total_steps=cycle.uncut * steps_per_epoch, pct_start=0.15, final_div_factor=100
    )


@torch.no_grad()
def estimate_statistics(model: nn.Module, pictures: Tensor, batches: int = 100, batch_size: int = 128) -> None:
    """Replace the BatchNorm statistics, gathered on augmented pictures, by those of training pictures as they are."""
    forget_statistics(model)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    for chosen in order[: batches * batch_size].split(batch_size):
        x = pictures[chosen].permute(0, 3, 1, 2).float() / 255
        model(pixel_values=F.interpolate(x, size=INPUT_SIZE, mode="bilinear").flip(1))
    model.eval()


def save_folder(model: MobileViTForImageClassification, out: Path) -> None:
    """Write config, processor settings and float16 weights as a Hugging Face folder."""
    model.half().save_pretrained(out)
    MobileViTImageProcessorPil(
        size={"shortest_edge": INPUT_SIZE}, crop_size={"height": INPUT_SIZE, "width": INPUT_SIZE}, resample=2
    ).save_pretrained(out)


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    train_pictures, train_labels = map(torch.from_numpy, read_split(arguments.data, "train"))
    test_pictures, test_labels = read_split(arguments.data, "test")
    model = build_model()
    average = copy.deepcopy(model)
    epochs = sum(phase.epochs for phase in PHASES)
    steps_per_epoch = len(train_pictures) // arguments.batch_size
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05))
    schedule = one_cycle(optimizer, 0, steps_per_epoch)
    arguments.out.mkdir(parents=True, exist_ok=True)
    state_file = arguments.out / "state.pt"
    recipe = f"{PHASES}, {CYCLES}, batch size {arguments.batch_size}, seed {arguments.seed}"
    first = 0
    if state_file.exists():
        state = torch.load(state_file)
        if state["recipe"] != recipe:
            raise SystemExit(f"error: {state_file} was made with another recipe: {state['recipe']}; give another --out")
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"] + 1
        schedule = one_cycle(optimizer, state["epoch"], steps_per_epoch)
        schedule.load_state_dict(state["schedule"])

    for epoch in range(first, epochs):
        rng = torch.Generator().manual_seed(arguments.seed * 1000 + epoch)
        phase, _ = entry_at(PHASES, epoch)
        _, cycle_begin = entry_at(CYCLES, epoch)
        if epoch == cycle_begin:
            schedule = one_cycle(optimizer, epoch, steps_per_epoch)
        order = torch.randperm(len(train_pictures), generator=rng)
        start, losses = time.monotonic(), 0.0
        model.train()
        for step in range(steps_per_epoch):
            chosen = order[step * arguments.batch_size : (step + 1) * arguments.batch_size]
            logits = model(pixel_values=augment(train_pictures[chosen], phase.size, rng, phase.strength)).logits
            loss = F.cross_entropy(logits, train_labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimizer.step()
            schedule.step()
            update_average(average, model, epoch * steps_per_epoch + step, EMA_DECAY)
            losses += loss.item()
        seconds = time.monotonic() - start
        line = f"epoch {epoch + 1}/{epochs} size {phase.size} loss {losses / steps_per_epoch:.4f} {seconds:.0f} s"
        if (epoch + 1) % 5 == 0 or epoch + 1 == epochs:
            line += f" test {accuracy(average, test_pictures, test_labels):.4f}"
        print(line, flush=True)
        state = {
            "recipe": recipe,
            "epoch": epoch,
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
        }
        torch.save(state, state_file.with_suffix(".tmp"))
        state_file.with_suffix(".tmp").replace(state_file)  # a kill while writing loses nothing
    estimate_statistics(average, train_pictures)
    print(f"statistics of plain pictures: test {accuracy(average, test_pictures, test_labels):.4f}", flush=True)
    save_folder(average, arguments.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="cifar10.tar.xz or the folder it unpacks to")
    parser.add_argument("--out", type=Path, required=True, help="folder for the state and the finished checkpoint")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
