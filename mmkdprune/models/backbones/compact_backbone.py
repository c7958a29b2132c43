"""A pruned backbone without its zeros, in any config."""

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from torch import nn

from mmkdprune.pruning.plan import Plan, PlanError, fingerprint, load_plan
from mmkdprune.pruning.surgery import apply_plan
from mmkdprune.registry import MODELS


@MODELS.register_module()
class CompactBackbone:
    """Builds a backbone and takes the channels out that a plan says, by index surgery alone.

    What is built is the original class, with the original keys and fewer channels: freezing, ``norm_eval``,
    ``with_cp``, ``out_indices``, branches of distillation methods and everything else that looks at the class work as
    ever. It has one more attribute, ``plan``::

        backbone=dict(
            type='mmkdprune.CompactBackbone',
            backbone=dict(type='ResNet', depth=50),
            plan='work_dirs/compact/plan.json',
            init_cfg=dict(type='Pretrained', checkpoint='work_dirs/compact/compact.pth', prefix='backbone.'))

    Args:
        backbone (dict): Config of the dense backbone, of any OpenMMLab package, as it was pruned. Settings that change
            no parameter (``out_indices``, ``frozen_stages``, ``norm_eval``, ``with_cp``, strides) are free.
        plan (str | dict): ``plan.json`` that ``tools/compact.py`` wrote, the compact checkpoint itself (``.pth``), or
            the plan's plain form.
        init_cfg (dict, optional): Where the weights come from. Defaults to None: the backbone's own initialisation.

    Raises:
        PlanError: The plan is for another architecture or of another version, or was changed.
        ValueError: The dense backbone's config asks for dense weights.
    """

    def __new__(  # type: ignore[misc]
        cls, backbone: dict, plan: str | Mapping[str, Any], init_cfg: dict | list[dict] | None = None
    ) -> nn.Module:
        """Build; see the class."""
        _refuse_dense_weights(backbone)
        network = MODELS.build(copy.deepcopy(backbone))
        own = _own_part(load_plan(plan), network)
        apply_plan(network, own)
        network.plan = own
        if init_cfg is not None:
            if not isinstance(network, BaseModule):
                raise ValueError(
                    f"CompactBackbone.init_cfg: {type(network).__name__} is no BaseModule and ignores it; load the "
                    "weights with load_from"
                )
            network.init_cfg = copy.deepcopy(init_cfg)
        return network


def _own_part(plan: Plan, network: nn.Module) -> Plan:
    """The plan itself if it was made for a backbone, or the backbone's part of a whole model's."""
    if "backbone" not in plan.architectures or plan.architectures[""] == fingerprint(network):
        return plan
    own = plan.part("backbone")
    if not own.layers:
        raise PlanError("the plan takes nothing out of the backbone: use the dense backbone itself")
    return own


def _refuse_dense_weights(backbone: Mapping[str, Any]) -> None:
    given = backbone.get("init_cfg")
    configs = given if isinstance(given, list | tuple) else [given]
    loads = [item for item in configs if isinstance(item, Mapping) and item.get("type") == "Pretrained"]
    if loads or backbone.get("pretrained"):
        raise ValueError(
            "CompactBackbone.backbone asks for weights of the dense network (init_cfg or pretrained), which do not "
            "fit: take that out, and give the compact checkpoint in CompactBackbone's own init_cfg"
        )
