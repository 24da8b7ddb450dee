"""A residual network and a transformer of PyTorch, exported to ONNX. Run by the Python that has PyTorch, which need not
be ours: python3 torch_models.py FOLDER writes NAME.onnx, NAME-rows.npz and NAME-answers.npz, PyTorch's own.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions beside a way around them."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outer),
        )
        around = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
        self.around = nn.Identity() if inner == outer else around

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.inside(x) + self.around(x))


def residual_network() -> nn.Module:
    """The 18 layers of ResNet-18: 1.8 GFLOP for a picture of 3x224x224."""
    sizes = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
    sizes += [(128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
    begin = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*begin, *(Block(*size) for size in sizes), *end)


class Layer(nn.Module):
    """Attention and two linear layers, each normalised before and added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys, self.values, self.mix = (nn.Linear(width, width) for _ in range(4))
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        y = self.before(x)
        query, key, value = (
            part(y).view(count, length, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.queries, self.keys, self.values)
        )
        share = torch.softmax(query @ key.transpose(2, 3) / (width // self.heads) ** 0.5, -1)
        x = x + self.mix((share @ value).transpose(1, 2).reshape(count, length, width))
        return x + self.feed(self.between(x))


class Transformer(nn.Module):
    """Four layers of 256 over 128 ids; a score per class."""

    def __init__(self, words: int = 1000, width: int = 256, length: int = 128) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Parameter(torch.randn(length, width) / 10)
        self.layers = nn.Sequential(*(Layer(width, 4) for _ in range(4)), nn.LayerNorm(width))
        self.classes = nn.Linear(width, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return self.classes(self.layers(self.words(ids) + self.places).mean(1))


def export(name: str, model: nn.Module, rows: Tensor, input_name: str, folder: Path) -> None:
    """Write the model, rows, and PyTorch's answers to them."""
    model.eval()
    with torch.no_grad():
        answers = model(rows)
        torch.onnx.export(
            model,
            (rows[:1],),
            str(folder / f"{name}.onnx"),
            input_names=[input_name],
            output_names=["scores"],
            dynamic_axes={input_name: {0: "n"}, "scores": {0: "n"}},
            opset_version=16,
        )
    np.savez(folder / f"{name}-rows.npz", **{input_name: rows.numpy()})
    np.savez(folder / f"{name}-answers.npz", scores=answers.numpy())


def main(folder: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    export("cnn", residual_network(), torch.rand(4, 3, 224, 224), "image", folder)
    export("transformer", Transformer(), torch.randint(0, 1000, (4, 128)), "ids", folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
