"""Prunes a network with Torch-Pruning and trains it again, in PyTorch.

Needs PyTorch, Torch-Pruning and NumPy only. `slim.py` starts it:

    python benchmarks/torch_pruning_reference.py GIVEN.npz

Kernels go by group importance, over all layers together, until the network
needs no more multiply-accumulates than it may, as in Torch-Pruning's own
benchmark of CIFAR-10; then it learns the labels by SGD, with the learning rate
of that benchmark, which falls to a tenth after 60 and 80 percent of the
training. As many epochs are run as the processor time given has room for. The
answer is a line of JSON.
"""

import copy
import json
import sys
import time

import numpy as np
import torch
import torch_pruning as pruning
from torch import nn
from torch.nn import functional

RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
BATCH_SIZE, BORDER = 64, 4
STEPS = 400  # Of the removal.


class Network(nn.Module):
    """A network of convolutions, as `slim.py` describes it.

    Args:
        plan: Operations in order: `name`, `kind`, the names of its `inputs`
            and what its kind needs.
        arrays: Weights, `name/number` as Keras has them.
    """

    def __init__(self, plan, arrays):
        super().__init__()
        self.plan = plan
        self.parts = nn.ModuleDict()
        for step in plan:
            name = step["name"]
            own = [
                torch.from_numpy(arrays[f"{name}/{number}"])
                for number in range(step.get("weights", 0))
            ]
            if step["kind"] == "conv":
                self.parts[name] = _conv(own)
            elif step["kind"] == "norm":
                self.parts[name] = _norm(own, step["epsilon"])
            elif step["kind"] == "dense":
                self.parts[name] = _dense(own, step.get("image"))

    def forward(self, image):
        values = {}
        for step in self.plan:
            given = [values[each] for each in step["inputs"]] or [image]
            values[step["name"]] = self._run(step, given)
        return values[self.plan[-1]["name"]]

    def _run(self, step, given):
        kind, (x, *_) = step["kind"], given
        if kind == "scale":
            return x * step["scale"] + step["offset"]
        if kind == "pool":
            return functional.max_pool2d(x, step["size"])
        if kind == "flatten":
            return torch.flatten(x, 1)
        if kind == "mean":
            return x.mean(dim=(2, 3))
        if kind == "relu":
            return functional.relu(x)
        if kind == "add":
            return x + given[1]
        if kind == "concat":
            return torch.cat(given, dim=1)
        x = self.parts[step["name"]](x)
        return functional.relu(x) if step.get("relu") else x


def _conv(weights):
    kernel, *bias = weights
    height, width, inputs, outputs = kernel.shape
    conv = nn.Conv2d(
        *(inputs, outputs, (height, width)),
        padding=(height // 2, width // 2),
        bias=bool(bias),
    )
    conv.weight.data = kernel.permute(3, 2, 0, 1).contiguous()
    if bias:
        conv.bias.data = bias[0]
    return conv


def _norm(weights, epsilon):
    gamma, beta, mean, variance = weights
    norm = nn.BatchNorm2d(len(gamma), eps=epsilon)
    norm.weight.data, norm.bias.data = gamma, beta
    norm.running_mean.data, norm.running_var.data = mean, variance
    return norm


def _dense(weights, image):
    kernel, bias = weights
    if image is not None:  # Keras flattens channels last.
        kernel = kernel.reshape(*image, -1).permute(2, 0, 1, 3)
        kernel = kernel.reshape(-1, kernel.shape[-1])
    dense = nn.Linear(*kernel.shape)
    dense.weight.data = kernel.T.contiguous()
    dense.bias.data = bias
    return dense


def pruned(network, example, ratio):
    """Returns the network with as few operations as it may have."""
    macs = pruning.utils.count_ops_and_params(network, example)[0]
    last = network.parts[network.plan[-1]["name"]]
    pruner = pruning.pruner.BasePruner(
        network,
        example,
        importance=pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=STEPS,
        ignored_layers=[last],
    )
    for _ in range(STEPS):
        pruner.step()
        now = pruning.utils.count_ops_and_params(network, example)[0]
        if now <= ratio * macs:
            return network, now / macs
    raise RuntimeError(f"{now / macs:.2f} of the operations are left")


def train(network, images, labels, seconds, seed):
    """Trains for as many epochs as there is time for; returns how many."""
    random = np.random.default_rng(seed)
    for _ in range(2):  # The first takes longer.
        started = time.process_time()
        _epoch(copy.deepcopy(network), images, labels, random, RATE)
    epochs = max(int(seconds / (time.process_time() - started)), 1)
    optimizer = None
    for epoch in range(epochs):
        done = epoch / epochs
        rate = RATE * (1 if done < 0.6 else 0.1 if done < 0.8 else 0.01)
        optimizer = _epoch(network, images, labels, random, rate, optimizer)
    return epochs


def _epoch(network, images, labels, random, rate, optimizer=None):
    if optimizer is None:
        optimizer = torch.optim.SGD(
            network.parameters(), rate, MOMENTUM, weight_decay=DECAY
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    network.train()
    order = random.permutation(len(images))
    for start in range(0, len(order), BATCH_SIZE):
        rows = order[start : start + BATCH_SIZE]
        batch = torch.from_numpy(_moved(images[rows], random))
        loss = functional.cross_entropy(
            network(batch), torch.from_numpy(labels[rows])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return optimizer


def _moved(images, random):
    """Mirrors half of the images and moves each, on black."""
    border = (BORDER, BORDER)
    padded = np.pad(images, ((0, 0), (0, 0), border, border))
    height, width = images.shape[2:]
    moved = np.empty_like(images)
    for number, image in enumerate(padded):
        row, column = random.integers(0, 2 * BORDER + 1, size=2)
        own = image[:, row : row + height, column : column + width]
        moved[number] = own[:, :, ::-1] if random.random() < 0.5 else own
    return moved


def answers(network, images):
    network.eval()
    with torch.no_grad():
        return np.concatenate(
            [
                network(torch.from_numpy(part)).argmax(dim=1).numpy()
                for part in np.array_split(images, len(images) // 256 + 1)
            ]
        )


def main():
    given = np.load(sys.argv[1])
    plan = json.loads(str(given["plan"]))
    seed = int(given["seed"])
    torch.manual_seed(seed)
    torch.set_num_threads(int(given["threads"]))
    images, test = (
        given[name].transpose(0, 3, 1, 2).astype("float32")
        for name in ("images", "test")
    )
    network = Network(plan, given)
    before = answers(network, test)
    network, ratio = pruned(
        network.eval(), torch.from_numpy(images[:1]), float(given["ratio"])
    )
    started = time.process_time()
    epochs = train(
        *(network, images, given["labels"], float(given["seconds"]), seed)
    )
    right = answers(network, test) == given["test_labels"]
    print(
        json.dumps(
            {
                "agreement": float(np.mean(before == given["test_answers"])),
                "macs_ratio": ratio,
                "parameters": sum(p.numel() for p in network.parameters()),
                "epochs": epochs,
                "seconds": time.process_time() - started,
                "accuracy": float(np.mean(right)),
            }
        )
    )


if __name__ == "__main__":
    main()
