"""Small convolutional networks for the tests of pruning."""

import torch
from torch import nn
from torch.nn import functional as F

from mmkdprune.pruning import make_pruner


class Block(nn.Module):
    """Two convolutions and an identity or projection shortcut."""

    def __init__(self, inputs, outputs, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), norm(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), norm(outputs)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), norm(outputs))
        if inputs == outputs:
            self.downsample = nn.Identity()

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class Residual(nn.Module):
    """A stem and two residual blocks, the second of which is wider; gives a feature map."""

    def __init__(self, width=10):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.layer1, self.layer2 = Block(width, width), Block(width, 2 * width)

    def forward(self, x):
        return self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))


class Classifier(nn.Module):
    """A backbone, pooling and a linear classifier."""

    def __init__(self, classes=4, width=10):
        super().__init__()
        self.backbone = Residual(width)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x):
        return self.fc(self.backbone(x).mean((2, 3)))


def make_classifier(seed=0, **arguments):
    torch.manual_seed(seed)
    return Classifier(**arguments)


def make_task(seed=1, size=64, classes=4):
    """Images whose class is where they are bright; learnt in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % classes
    images = 0.5 * torch.randn(size, 3, 8, 8, generator=generator)
    for index, label in enumerate(labels.tolist()):
        images[index, label % 3, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 2
    return images, labels


def train_steps(model, optimizer, task, steps, pruner=None, batch=16, clip=None, accumulate=1, after=None):
    """Train on batches of the task in order."""
    images, labels = task
    model.train()
    for step in range(steps):
        part = torch.arange(step * batch, (step + 1) * batch) % len(images)
        F.cross_entropy(model(images[part]), labels[part]).backward()
        if (step + 1) % accumulate == 0:
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
        if pruner is not None:
            pruner.enforce(optimizer)
        if after is not None:
            after()


def train_pruned(model, pruner, task, epochs=5, steps=6, lr=0.05, optimizer=None, **options):
    """Train and prune, as a user without MMEngine would; returns the pruner's report of every epoch."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    reports = []
    for epoch in range(epochs):
        train_steps(model, optimizer, task, steps, pruner, **options)
        pruner.step(epoch, epochs)
        pruner.enforce(optimizer)
        reports.append(pruner.report())
    return reports


@torch.no_grad()
def accuracy(model, task):
    model.eval()
    images, labels = task
    return (model(images).argmax(1) == labels).float().mean().item()


def assert_same_weights(first, second):
    """Compare two models bit for bit."""
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


LAYERS = ["conv1", "layer1.conv1", "layer1.conv2", "layer2.conv1", "layer2.conv2"]


def rows(model, name):
    return model.backbone.get_submodule(name).weight.detach().flatten(1).clone()


def indices(mask):
    return set(mask.nonzero().flatten().tolist())


def trained(method, rate=0.4, seed=0, epochs=4, optimizer=None, steps=4, **overrides):
    """Train and prune a small classifier; return both."""
    model = make_classifier(seed)
    pruner = make_pruner(model, method, rate, **overrides)
    train_pruned(model, pruner, make_task(), epochs, steps, optimizer=optimizer and optimizer(model))
    return model, pruner
