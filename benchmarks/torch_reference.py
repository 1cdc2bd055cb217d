"""One training step of the published recipe, written directly in PyTorch.

Needs PyTorch and NumPy only. `torch_step.py` starts it and talks to it:

    python benchmarks/torch_reference.py WEIGHTS.npz

Every module runs the whole frozen network with its own masks behind each
ReLU, as the published code does, its loss is the softmax cross-entropy of
sigmoid scores plus 0.1 times the mean mask, and Adam trains masks and heads.
Each line on standard input is a number of threads and asks for a step; the
answer is a line of JSON.
"""

import json
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

RATE = 0.001
PENALTY = 0.1


class Step(torch.autograd.Function):
    """A step at zero whose gradient passes, clipped to -1..1."""

    @staticmethod
    def forward(context, scores):
        return (scores > 0).to(scores.dtype)

    @staticmethod
    def backward(context, gradient):
        return gradient.clamp(-1, 1)


class Reference:
    """SimCNN of any width with a mask for every class and kernel.

    Args:
        arrays: `layer/weight` to the weights of a Keras SimCNN, `scores`
            `(num_classes, num_kernels)`, the heads' `hidden_kernel`,
            `hidden_bias`, `kernel` and `bias`, and `pools`, the numbers of the
            convolutions that a pooling follows.
    """

    def __init__(self, arrays):
        self.pools = set(arrays["pools"].tolist())
        names = [key.partition("/")[0] for key in arrays if "/" in key]
        self.convs = [_conv(arrays, i) for i in _numbers(names, "conv")]
        self.hidden = [
            _dense(arrays, f"hidden_{i}") for i in _numbers(names, "hidden")
        ]
        self.logits = _dense(arrays, "logits")
        self.scores = nn.Parameter(_tensor(arrays["scores"]))
        heads = ("hidden_kernel", "hidden_bias", "kernel", "bias")
        self.heads = [nn.Parameter(_tensor(arrays[name])) for name in heads]
        parameters = [self.scores, *self.heads]
        self.optimizer = torch.optim.Adam(parameters, lr=RATE, eps=1e-8)

    def step(self, images, labels):
        """Trains one step; returns its loss."""
        masks = Step.apply(self.scores)
        classes = range(len(self.scores))
        answers = [self._answer(images, masks[n], n) for n in classes]
        answers = torch.sigmoid(torch.stack(answers, dim=1))
        loss = functional.cross_entropy(answers, labels)
        loss = loss + PENALTY * masks.mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _answer(self, images, mask, n):
        """Runs the whole network and the head of one module."""
        sizes = [len(conv[1]) for conv, _ in self.convs]
        sizes += [len(bias) for _, bias in self.hidden]
        masks = iter(torch.split(mask, sizes))
        x = images / 127.5 - 1
        for number, (conv, norm) in enumerate(self.convs, 1):
            x = functional.conv2d(x, *conv, padding="same")
            x = functional.batch_norm(x, *norm, training=False, eps=1e-5)
            x = functional.relu(x, inplace=True)
            x = x * next(masks)[:, None, None]
            if number in self.pools:
                x = functional.max_pool2d(x, 2)
        x = x.permute(0, 2, 3, 1).flatten(1)
        for weights in self.hidden:
            x = functional.relu(functional.linear(x, *weights), inplace=True)
            x = x * next(masks)
        x = functional.relu(functional.linear(x, *self.logits))
        hidden_kernel, hidden_bias, kernel, bias = (w[n] for w in self.heads)
        return functional.relu(x @ hidden_kernel + hidden_bias) @ kernel + bias


def _numbers(names, kind):
    """Lists the numbers of the layers of a kind, `conv_1`, `conv_2`, ..."""
    layers = (name.rpartition("_") for name in names)
    return sorted({int(end) for start, _, end in layers if start == kind})


def _tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def _conv(arrays, number):
    """Returns kernel and bias, and the four arrays of the normalisation."""
    kernel = _tensor(arrays[f"conv_{number}/kernel"].transpose(3, 2, 0, 1))
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    names = ("moving_mean", "moving_variance", "gamma", "beta")
    norm = [_tensor(arrays[f"bn_{number}/{name}"]) for name in names]
    return (kernel, _tensor(arrays[f"conv_{number}/bias"])), norm


def _dense(arrays, name):
    kernel, bias = (arrays[f"{name}/{key}"] for key in ("kernel", "bias"))
    return _tensor(kernel.T), _tensor(bias)


def main(path):
    arrays = dict(np.load(path))
    images = _tensor(arrays.pop("images").transpose(0, 3, 1, 2))
    images = images.contiguous(memory_format=torch.channels_last)
    labels = _tensor(arrays.pop("labels"))
    reference = Reference(arrays)
    for line in sys.stdin:
        torch.set_num_threads(int(line))
        start, cpu_start = time.perf_counter(), time.process_time()
        loss = reference.step(images, labels)
        figures = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu_start,
            "loss": loss,
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
