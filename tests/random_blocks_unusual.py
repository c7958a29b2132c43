"""Unusual building blocks of the random networks: shared layers, aliases, code that counts channels, training parts."""

import copy

import torch
from random_blocks import block, conv, conv_norm
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint


class Body(nn.Module):
    """A convolution, a function that subclasses give, and a convolution."""

    def __init__(self, channels):
        super().__init__()
        self.first, self.last = conv_norm(channels), conv(channels)

    def forward(self, inputs):
        return self.last(self.between(self.first(inputs)))


def between(name, function):
    """A block with a function between its convolutions."""
    return block(type(name, (Body,), {"between": staticmethod(function)}))


between("FlattenAndBack", lambda x: x.view(len(x), -1).relu().view(x.shape))
between("Shuffled", lambda x: x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2))
between("SplitHalves", lambda x: torch.cat([part * (k + 1) for k, part in enumerate(x.chunk(2, 1))], 1))
between("ChannelSlice", lambda x: torch.cat([x[:, :3], x[:, 3:].relu()], 1))
between("PixelShuffle", lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2))
between("DividesByWidth", lambda x: x / x.shape[1])
between("ScalesByRootOfWidth", lambda x: x * x.shape[1] ** -0.5)
between("AddsWidth", lambda x: x.relu() * (1 + 0.1 * (x.shape[1] % 3)))
between("CountsInTensor", lambda x: x * torch.arange(x.shape[1], dtype=x.dtype).mean())
between("PositionOfChannel", lambda x: x + torch.linspace(0, 1, x.shape[1], dtype=x.dtype).view(1, -1, 1, 1))
between("SubtractsChannelMean", lambda x: x - x.mean(1, keepdim=True))
between("NormalisesChannels", lambda x: F.normalize(x, dim=1))
between("ChannelSoftmax", lambda x: x * x.softmax(1))
between("ChannelMaxGate", lambda x: x * x.amax(1, keepdim=True).tanh())
between("SpatialSoftmax", lambda x: x * x.flatten(2).softmax(2).view(x.shape))
between("SpatialNorm", lambda x: x / (x.std((2, 3), keepdim=True) + 1))
between("CumulativeSum", lambda x: x.cumsum(3))
between("Stacked", lambda x: torch.stack([x, x.relu()]).sum(0))
between("Einsum", lambda x: torch.einsum("bchw,bcvw->bchv", x, x) / 10)
between("ZerosLike", lambda x: torch.cat([x[..., :4], torch.zeros_like(x[..., 4:])], 3))
between("PaddedChannels", lambda x: F.pad(x, (0, 0, 0, 0, 2, 2))[:, 2:-2])
between("TimesZeroPlus", lambda x: x * 0 + x)
between("NewZeros", lambda x: x + x.new_zeros(x.shape))
between("NewOnes", lambda x: x + x.new_ones(x.shape[2:]))
between("ThroughNumPy", lambda x: x + torch.from_numpy(x.detach().numpy() * 0.5))
between("TopOfPlaces", lambda x: x * (x >= x.flatten(2).topk(3)[0][:, :, -1, None, None]))
between("Branching", lambda x: x.relu() if x.mean() > 0.1 else x * 0.5)
between("BranchingOnPlace", lambda x: x + 1 if x[0, 0, 0, 0] > 0.3 else x)
between("FunctionalDropout", lambda x: F.dropout(x, 0.2, training=False))
between("Complex", lambda x: torch.view_as_real(torch.complex(x, x.relu())).sum(-1))


def in_place_on_slice(x):
    x = x.clone()
    x[:, :2] += 1
    return x


def in_place_on_places(x):
    x = x.clone()
    x[..., :2].mul_(0.5)
    return x


def in_place_shift_on_places(x):
    x = x.clone()
    x[..., :2].add_(0.5)
    return x


def written_through_view(x):
    x = x.clone()
    x.view(len(x), -1).tanh_()
    return x


def shifted_through_view(x):
    x = x.clone()
    x.view(len(x), -1).add_(0.2)
    return x


def written_through_data(x):
    x = x.clone()
    x.data.add_(0.2)
    return x


def scaled_through_detached(x):
    x = x.clone()
    x.detach().mul_(0.5)
    return x


def filled_channel(x):
    x = x.clone()
    x[:, 0] = 0.3
    return x


def copied_over(x):
    out = x.clone()
    out.copy_(x.sigmoid())
    return out


def copied_back(x):
    out = torch.ones_like(x)
    out.copy_(x)
    return out


def copied_parts(x):
    out = x.new_zeros((len(x), 2 * x.shape[1], *x.shape[2:]))
    out[:, : x.shape[1]] = x
    out[:, x.shape[1] :] = x.relu()
    return out[:, : x.shape[1]] + out[:, x.shape[1] :]


def copied_into_frame(x):
    out = x.new_zeros((*x.shape[:3], x.shape[3] + 2))
    out[..., 1:-1] = x
    return out[..., 1:-1]


def kept_view(x):
    x = x.clone()
    view = x[..., 1:]
    x.add_(0.1)
    return F.pad(view, (1, 0))


def out_argument(x):
    out = torch.empty_like(x)
    torch.add(x, 0.3, out=out)
    return out


for function in (
    in_place_on_slice, in_place_on_places, in_place_shift_on_places, written_through_view, shifted_through_view,
    written_through_data, scaled_through_detached, filled_channel, copied_over, copied_back, copied_parts,
    copied_into_frame, kept_view, out_argument,
):  # fmt: skip
    between("".join(part.capitalize() for part in function.__name__.split("_")), function)


@block
class HardCodedWidth(Body):
    def __init__(self, channels):
        super().__init__(channels)
        self.channels = channels

    def between(self, x):
        return x.reshape(-1, self.channels, *x.shape[2:]).relu()


@block
class ClampTensors(Body):
    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("high", torch.full((channels, 1, 1), 1.0))

    def between(self, x):
        return torch.clamp(x, max=self.high)


@block
class FixedMap(ClampTensors):
    def between(self, x):
        return x + self.high


@block
class LearntBias(Body):
    def __init__(self, channels):
        super().__init__(channels)
        self.bias = nn.Parameter(torch.randn(channels))

    def between(self, x):
        return x + self.bias.view(-1, 1, 1)


@block
class LearntMap(Body):
    def __init__(self, channels):
        super().__init__(channels)
        self.scale = nn.Parameter(torch.rand(1, channels, 1, 1))

    def between(self, x):
        return x * self.scale


@block
class PooledLinear(Body):
    """A linear layer on a flattened map of fixed size."""

    def __init__(self, channels):
        super().__init__(channels)
        self.linear = nn.Linear(channels * 4, channels)

    def between(self, x):
        return x + self.linear(F.adaptive_avg_pool2d(x, 2).flatten(1))[:, :, None, None]


@block
class SharedConv(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body, self.norm = conv(channels), nn.BatchNorm2d(channels)

    def forward(self, inputs):
        return self.body(F.relu(self.norm(self.body(inputs))))


@block
class SharedNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.one, self.other, self.norm = conv(channels), conv(channels), nn.BatchNorm2d(channels)
        self.last = nn.ModuleList([conv(channels), conv(channels)])

    def forward(self, inputs):
        first, second = F.relu(self.norm(self.one(inputs))), F.relu(self.norm(self.other(inputs)))
        return self.last[0](first) + self.last[1](second)


@block
class SharedDepthwise(SharedNorm):
    def __init__(self, channels):
        super().__init__(channels)
        self.norm = conv(channels, groups=channels, bias=False)


@block
class SharedWeight(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.one, self.other, self.last = conv(channels), conv(channels), conv(channels)
        self.other.weight = self.one.weight

    def forward(self, inputs):
        return self.last(F.relu(self.other(F.relu(self.one(inputs)))))


@block
class SharedTwice(nn.Module):
    """One module under two names."""

    def __init__(self, channels):
        super().__init__()
        self.one = conv_norm(channels)
        self.again, self.last = self.one, conv(channels)

    def forward(self, inputs):
        return self.last(self.again(self.one(inputs)))


@block
class Transposed(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.down, self.up = conv_norm(channels, stride=2), nn.ConvTranspose2d(channels, channels, 2, 2)
        self.last = conv(channels)

    def forward(self, inputs):
        return self.last(F.relu(self.up(self.down(inputs))))


@block
class WeightNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first, self.last = conv_norm(channels), conv(channels)
        self.middle = self.normed(conv(channels))

    @staticmethod
    def normed(layer):
        return parametrizations.weight_norm(layer)

    def forward(self, inputs):
        return self.last(F.relu(self.middle(self.first(inputs))))


@block
class SpectralNorm(WeightNorm):
    @staticmethod
    def normed(layer):
        return parametrizations.spectral_norm(layer)


@block
class OldWeightNorm(WeightNorm):
    @staticmethod
    def normed(layer):
        return torch.nn.utils.weight_norm(layer)


class Symmetric(nn.Module):
    def forward(self, weight):
        return (weight + weight.transpose(2, 3)) / 2


@block
class Parametrised(WeightNorm):
    @staticmethod
    def normed(layer):
        parametrize.register_parametrization(layer, "weight", Symmetric())
        return layer


@block
class FunctionalConv(Body):
    def __init__(self, channels):
        super().__init__(channels)
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3) / 9)

    def between(self, x):
        return F.conv2d(x, self.weight, padding=1)


@block
class FunctionalConvOfModule(Body):
    def __init__(self, channels):
        super().__init__(channels)
        self.middle = conv(channels)

    def between(self, x):
        return F.relu(F.conv2d(x, self.middle.weight, self.middle.bias, padding=1))


@block
class DetachedWeight(FunctionalConvOfModule):
    def between(self, x):
        return F.relu(self.middle(x) + F.conv2d(x, self.middle.weight.data, padding=1))


@block
class StandardisedWeight(FunctionalConvOfModule):
    def between(self, x):
        weight = self.middle.weight
        return F.conv2d(x, weight - weight.mean((1, 2, 3), keepdim=True), padding=1)


@block
class ScaledByWeights(FunctionalConvOfModule):
    def between(self, x):
        return F.relu(self.middle(x)) * (1 + self.middle.weight.mean())


@block
class FunctionalNorm(Body):
    def __init__(self, channels):
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(channels)

    def between(self, x):
        norm = self.norm
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False)


@block
class Scripted(Body):
    def __init__(self, channels):
        super().__init__(channels)
        self.scripted = torch.jit.script(nn.Sequential(conv(channels), nn.ReLU()))

    def between(self, x):
        return self.scripted(x)


@block
class Checkpointed(Body):
    def between(self, x):
        return checkpoint(torch.relu, x, use_reentrant=False)


@block
class TrainingHead(Body):
    """A head that only training uses; its loss is a part of the output."""

    def __init__(self, channels):
        super().__init__(channels)
        self.auxiliary = nn.Conv2d(channels, 2, 1)

    def between(self, x):
        return x + self.auxiliary(x).mean(1, keepdim=True) if self.training else x


@block
class TrainingBranch(Body):
    def __init__(self, channels):
        super().__init__(channels)
        self.branch = conv_norm(channels)

    def between(self, x):
        return x + self.branch(x) if self.training else x


@block
class TrainingWidth(Body):
    """Code that counts channels in training only."""

    def between(self, x):
        return x / x.shape[1] if self.training else x


@block
class DropPath(Body):
    def between(self, x):
        return x * (torch.rand(len(x), 1, 1, 1, dtype=x.dtype) > 0.2) if self.training else x


@block
class ResponseNorm(Body):
    """Global response normalisation, as in ConvNeXt V2."""

    def __init__(self, channels):
        super().__init__(channels)
        self.scale = nn.Parameter(torch.rand(1, channels, 1, 1))

    def between(self, x):
        norm = x.norm(dim=(2, 3), keepdim=True)
        return x + self.scale * x * norm / (norm.mean(1, keepdim=True) + 1e-6)


@block
class ChannelAttention(Body):
    """A one-dimensional convolution along the channels, as ECA."""

    def __init__(self, channels):
        super().__init__(channels)
        self.along = nn.Conv1d(1, 1, 3, padding=1)

    def between(self, x):
        return x * self.along(x.mean((2, 3))[:, None]).sigmoid().transpose(1, 2)[..., None]


@block
class ConstantBranch(Body):
    """A layer that reads the image's channels at one place and constants at another."""

    def between(self, x):
        return x + self.last(torch.ones_like(x)).mean((2, 3), keepdim=True)


@block
class Copied(Body):
    """Layers that were copied, which share nothing."""

    def __init__(self, channels):
        super().__init__(channels)
        self.copies = nn.Sequential(*(copy.deepcopy(self.first) for _ in range(2)))

    def between(self, x):
        return self.copies(x)
