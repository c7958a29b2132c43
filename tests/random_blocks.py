"""Usual building blocks of the random networks: (B, C, H, W) to (B, C, H, W)."""

import torch
from torch import nn
from torch.nn import functional as F

BLOCKS: dict[str, type[nn.Module]] = {}


def block(kind):
    """Register a block by its name in lower case."""
    BLOCKS[kind.__name__] = kind
    return kind


def conv(inputs, outputs=None, kernel=3, **options):
    return nn.Conv2d(inputs, outputs or inputs, kernel, padding=kernel // 2, **options)


def conv_norm(inputs, outputs=None, kernel=3, act=nn.ReLU, **options):
    outputs = outputs or inputs
    return nn.Sequential(conv(inputs, outputs, kernel, bias=False, **options), nn.BatchNorm2d(outputs), act())


def activation(name, make):
    """A block of two convolutions with a BatchNorm and this activation between them."""

    def __init__(self, channels):
        nn.Module.__init__(self)
        self.body = nn.Sequential(conv(channels), nn.BatchNorm2d(channels), make(channels), conv(channels))

    def forward(self, inputs):
        return self.body(inputs)

    return block(type(name, (nn.Module,), {"__init__": __init__, "forward": forward}))


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function(inputs)


def slopes(channels):
    layer = nn.PReLU(channels)
    nn.init.uniform_(layer.weight, -0.5, 0.5)
    layer.weight.data[::3] = 0
    return layer


activation("ReLU", lambda c: nn.ReLU())
activation("ReLUInPlace", lambda c: nn.ReLU(inplace=True))
activation("LeakyReLU", lambda c: nn.LeakyReLU(0.1))
activation("ReLU6", lambda c: nn.ReLU6(inplace=True))
activation("SiLU", lambda c: nn.SiLU())
activation("GELU", lambda c: nn.GELU())
activation("Hardswish", lambda c: nn.Hardswish())
activation("ELU", lambda c: nn.ELU())
activation("Mish", lambda c: nn.Mish())
activation("Tanh", lambda c: nn.Tanh())
activation("Softsign", lambda c: nn.Softsign())
activation("Tanhshrink", lambda c: nn.Tanhshrink())
activation("PReLU", slopes)
activation("PReLUOfZeros", lambda c: nn.PReLU(c, init=0.0))
activation("PReLUShared", lambda c: nn.PReLU())
activation("Sigmoid", lambda c: nn.Sigmoid())
activation("Softplus", lambda c: nn.Softplus())
activation("HardtanhAboveZero", lambda c: nn.Hardtanh(0.05, 1.0))
activation("HardtanhTiny", lambda c: nn.Hardtanh(1e-6, 1.0))
activation("Hardshrink", lambda c: nn.Hardshrink(0.1))
activation("ThresholdToOne", lambda c: nn.Threshold(0.1, 1.0))
activation("ClampNumbers", lambda c: Function(lambda x: x.clamp(-1, 2)))
activation("ClampAboveZero", lambda c: Function(lambda x: x.clamp(min=0.2)))
activation("ClampScalarTensors", lambda c: Function(lambda x: torch.clamp(x, torch.tensor(-1.0), torch.tensor(2.0))))
activation("PowerOfAbs", lambda c: Function(lambda x: x.abs().pow(1.5)))
activation("OneMinus", lambda c: Function(lambda x: 1 - x))
activation("WhereMasked", lambda c: Function(lambda x: torch.where(x > 0.1, x, torch.zeros_like(x))))
activation("MaskedFill", lambda c: Function(lambda x: x.masked_fill(x < 0, 0.0)))
activation("MaskedFillOfOnes", lambda c: Function(lambda x: x.masked_fill(x < 0.1, 1.0)))
activation("MaxPool", lambda c: nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2)))
activation("AvgPool", lambda c: nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.ReLU()))
activation("AdaptivePool", lambda c: Function(lambda x: F.interpolate(F.adaptive_avg_pool2d(x, 2), x.shape[2:])))
activation("Bilinear", lambda c: Function(lambda x: F.interpolate(F.avg_pool2d(x, 2), x.shape[2:], mode="bilinear")))
activation("SpatialFlip", lambda c: Function(lambda x: x.flip(3).roll(1, 2)))
activation("ReflectionPad", lambda c: nn.Sequential(nn.ReflectionPad2d(1), nn.AvgPool2d(3, 1)))
activation("ConstantPad", lambda c: nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.AvgPool2d(3, 1)))
activation("Dropout", lambda c: nn.Dropout(0.3))
activation("Dropout2d", lambda c: nn.Dropout2d(0.3))
activation("GroupNorm", lambda c: nn.GroupNorm(2, c))
activation("InstanceNorm", lambda c: nn.InstanceNorm2d(c, affine=True))
activation("NormWithoutScale", lambda c: nn.BatchNorm2d(c, affine=False))
activation("NormWithoutStatistics", lambda c: nn.BatchNorm2d(c, track_running_stats=False))


@block
class Plain(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(conv(channels), nn.ReLU(), conv(channels), nn.ReLU())

    def forward(self, inputs):
        return self.body(inputs)


@block
class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first, self.second = conv_norm(channels), conv_norm(channels, act=nn.Identity)

    def forward(self, inputs):
        return F.relu(inputs + self.second(self.first(inputs)))


@block
class ResidualInPlace(Residual):
    def forward(self, inputs):
        out = self.second(self.first(inputs))
        out += inputs
        return F.relu_(out)


@block
class ResidualScaled(Residual):
    def forward(self, inputs):
        return torch.add(inputs, self.second(self.first(inputs)), alpha=0.3)


@block
class Projection(Residual):
    def __init__(self, channels):
        super().__init__(channels)
        self.downsample = nn.Sequential(conv(channels, kernel=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, inputs):
        return F.relu(self.downsample(inputs) + self.second(self.first(inputs)))


@block
class Preactivated(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm, self.first, self.second = nn.BatchNorm2d(channels), conv_norm(channels), conv(channels)

    def forward(self, inputs):
        return inputs + self.second(self.first(F.relu(self.norm(inputs))))


@block
class Bottleneck(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(channels, channels // 2, 1),
            conv_norm(channels // 2),
            conv_norm(channels // 2, channels, 1, nn.Identity),
        )

    def forward(self, inputs):
        return F.relu(inputs + self.body(inputs))


@block
class LayerScale(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body, self.scale = conv_norm(channels), nn.Parameter(torch.rand(channels))

    def forward(self, inputs):
        return inputs + self.scale.view(1, -1, 1, 1) * self.body(inputs)


@block
class Dense(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.grow, self.reduce = conv_norm(channels), conv_norm(2 * channels, channels, 1)

    def forward(self, inputs):
        return self.reduce(torch.cat([inputs, self.grow(inputs)], 1))


@block
class Inception(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.branches = nn.ModuleList([conv_norm(channels, channels // 2, kernel) for kernel in (1, 3)])

    def forward(self, inputs):
        return torch.cat([branch(inputs) for branch in self.branches], dim=1)


@block
class DepthwiseSeparable(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(channels), conv_norm(channels, groups=channels), conv_norm(channels, kernel=1)
        )

    def forward(self, inputs):
        return self.body(inputs)


@block
class DepthwiseWithBias(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(conv(channels), conv(channels, groups=channels), conv(channels, kernel=1))

    def forward(self, inputs):
        return self.body(inputs)


@block
class InvertedResidual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        wide = 2 * channels
        self.body = nn.Sequential(
            conv_norm(channels, wide, 1, nn.ReLU6),
            conv_norm(wide, groups=wide, act=nn.ReLU6),
            conv_norm(wide, channels, 1, nn.Identity),
        )

    def forward(self, inputs):
        return inputs + self.body(inputs)


@block
class Grouped(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(conv_norm(channels), conv_norm(channels, groups=2), conv(channels))

    def forward(self, inputs):
        return self.body(inputs)


@block
class SqueezeExcitation(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = conv_norm(channels)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.Conv2d(4, channels, 1), nn.Sigmoid()
        )
        self.last = conv(channels)

    def forward(self, inputs):
        out = self.body(inputs)
        return self.last(out * self.gate(out))


@block
class LinearExcitation(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body, self.last = conv_norm(channels), conv(channels)
        self.gate = nn.Sequential(nn.Linear(channels, 4), nn.ReLU(), nn.Linear(4, channels), nn.Sigmoid())

    def forward(self, inputs):
        out = self.body(inputs)
        return self.last(out * self.gate(out.mean((2, 3)))[:, :, None, None])


@block
class SpatialAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body, self.map, self.last = conv_norm(channels), conv(channels, 1), conv(channels)

    def forward(self, inputs):
        out = self.body(inputs)
        return self.last(out * self.map(out).sigmoid())


@block
class GatedUnit(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.value, self.gate, self.last = conv_norm(channels), conv(channels), conv(channels)

    def forward(self, inputs):
        return self.last(self.value(inputs) * self.gate(inputs).tanh())


@block
class Maximum(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.one, self.other, self.last = conv_norm(channels), conv_norm(channels), conv(channels)

    def forward(self, inputs):
        return self.last(torch.maximum(self.one(inputs), self.other(inputs)))


@block
class Lerp(Maximum):
    def forward(self, inputs):
        return self.last(torch.lerp(self.one(inputs), self.other(inputs), 0.3))


@block
class Asymmetric(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, (1, 3), padding=(0, 1)),
            nn.Conv2d(channels, channels, (3, 1), padding=(1, 0), bias=False),
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
        )

    def forward(self, inputs):
        return self.body(inputs)


@block
class TokenMLP(nn.Module):
    """Linear layers on channels last, as ConvNeXt."""

    def __init__(self, channels):
        super().__init__()
        self.body = conv(channels, groups=channels)
        self.norm, self.up, self.down = nn.LayerNorm(channels), nn.Linear(channels, 16), nn.Linear(16, channels)
        self.up.weight.data[:5], self.up.bias.data[:5] = 0, 0

    def forward(self, inputs):
        tokens = self.norm(self.body(inputs).permute(0, 2, 3, 1))
        return inputs + self.down(F.gelu(self.up(tokens))).permute(0, 3, 1, 2)


@block
class Attention(nn.Module):
    """Self-attention of image positions."""

    def __init__(self, channels):
        super().__init__()
        self.body = conv_norm(channels)
        self.query, self.key, self.value = (conv(channels, kernel=1) for _ in range(3))

    def forward(self, inputs):
        inputs = self.body(inputs)
        query, key, value = (layer(inputs).flatten(2) for layer in (self.query, self.key, self.value))
        weights = (query.transpose(1, 2) @ key).softmax(-1)
        return (value @ weights.transpose(1, 2)).view(inputs.shape)
