import torch
from testing_helpers import count_parameters

from mmkdprune.models.heads import DiscriminatorHead, SelfTeacherHead


def test_self_teacher_equals_convolution_pooling_and_linear_layer():
    head = SelfTeacherHead(in_channels=6, num_feats=3, num_classes=5).double()
    feats = [torch.randn(2, 6, 4, 3, dtype=torch.float64) for _ in range(3)]
    spelled_out = head.fc(head.conv(torch.cat(feats, dim=1)).mean((2, 3)))
    torch.testing.assert_close(head(feats), spelled_out)
    torch.testing.assert_close(head([feat.mean((2, 3)) for feat in feats]), spelled_out)


def test_self_teacher_is_affine():
    head = SelfTeacherHead(4, 2, 3).double()
    first, second = ([torch.randn(2, 4, 2, 2, dtype=torch.float64) for _ in range(2)] for _ in range(2))
    mixed = [0.3 * a + 0.7 * b for a, b in zip(first, second, strict=True)]
    torch.testing.assert_close(head(mixed), 0.3 * head(first) + 0.7 * head(second))


def test_parameter_counts_of_the_paper():
    assert count_parameters(SelfTeacherHead(512, 4, 100)) == 1_099_876
    assert count_parameters(SelfTeacherHead(2048, 4, 1000)) == 18_826_216


def test_discriminator_pools_maps():
    head = DiscriminatorHead(6, hidden_channels=8)
    feat = torch.randn(3, 6, 2, 2)
    torch.testing.assert_close(head(feat), head(feat.mean((2, 3))))
    assert head(feat).shape == (3, 2)
