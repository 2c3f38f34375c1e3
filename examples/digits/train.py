"""Trains the digits Vision Transformer and writes vit_digits.onnx and digits.npz beside itself.

The data are the 1797 real handwritten digits that come with scikit-learn (Alpaydin and Kaynak,
UCI "Optical Recognition of Handwritten Digits"), 8×8 pixels of 0 ... 16. A quarter, stratified,
is held out and never trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from vitessera.sim.benchmark.vit import VisionTransformer

FOLDER = Path(__file__).parent
SEED = 0
EPOCHS = 150
BATCH = 64
CALIBRATION_IMAGES = 128
OPSET = 20


def load_split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, then held-out images and labels; pixels scaled to -1 ... 1."""
    digits = load_digits()
    images = (digits.images[:, None] / 8.0 - 1.0).astype(np.float32)
    labels = digits.target.astype(np.int64)
    split = train_test_split(images, labels, test_size=0.25, stratify=labels, random_state=SEED)
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, split)
    return train_images, train_labels, test_images, test_labels


def augment(images: Tensor) -> Tensor:
    """Rotates, scales, shears and shifts each image a little; outside is background (-1)."""
    batch = len(images)
    theta = torch.eye(2, 3).repeat(batch, 1, 1)
    theta[:, :, :2] += 0.1 * torch.randn(batch, 2, 2)
    theta[:, :, 2] = 0.1 * torch.randn(batch, 2)
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images + 1.0, grid, align_corners=False) - 1.0


def train(model: VisionTransformer, images: Tensor, labels: Tensor) -> None:
    """Trains `model` in place."""
    steps = EPOCHS * -(-len(images) // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    model.train()
    for epoch in range(EPOCHS):
        for picked in torch.randperm(len(images)).split(BATCH):
            loss = loss_of(model(augment(images[picked])), labels[picked])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        if epoch % 25 == 24:
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    model.eval()


def export(model: VisionTransformer, image: Tensor, path: Path) -> None:
    """Writes one self-contained ONNX file for batch 1."""
    program = torch.onnx.export(
        model,
        (image,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    onnx.save(without_stack_traces(program.model_proto), path)


def without_stack_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drops the exporter's debug records: they hold the paths of the machine that exported."""
    for node in model.graph.node:
        node.ClearField("metadata_props")
    return model


def calibration_images(images: Tensor) -> npt.NDArray[np.float32]:
    """A fixed random sample of the training images, without augmentation."""
    picked = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    return images[picked[:CALIBRATION_IMAGES]].numpy()


def main() -> None:
    """Trains, prints the held-out accuracy, writes both files."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    train_images, train_labels, test_images, test_labels = load_split()
    model = VisionTransformer()
    train(model, train_images, train_labels)
    with torch.no_grad():
        correct = int((model(test_images).argmax(dim=1) == test_labels).sum())
    total = len(test_labels)
    print(f"held-out top-1: {correct}/{total} = {correct / total:.2%}")
    export(model, test_images[:1], FOLDER / "vit_digits.onnx")
    np.savez_compressed(
        FOLDER / "digits.npz",
        images=test_images.numpy(),
        labels=test_labels.numpy(),
        calibration=calibration_images(train_images),
    )


if __name__ == "__main__":
    main()
