"""A pruned backbone without its zeros, in any config."""

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from torch import nn

from mmkdprune.arguments import checked
from mmkdprune.pruning.compaction.plan import Plan, PlanError, fingerprint, load_plan
from mmkdprune.pruning.compaction.surgery import apply_plan
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

    In a config that inherits a dense backbone, its settings stay where they are, and only the differences are named::

        model=dict(backbone=dict(
            type='mmkdprune.CompactBackbone',
            backbone='ResNet',
            init_cfg=dict(checkpoint='work_dirs/compact/compact.pth', prefix='backbone.')))

    Args:
        backbone (dict | str): Config of the dense backbone, of any OpenMMLab package, as it was pruned. Settings that
            change no parameter (``out_indices``, ``frozen_stages``, ``norm_eval``, ``with_cp``, strides, dilations)
            are free. Its type alone, if ``settings`` hold the rest.
        plan (str | dict, optional): ``plan.json`` that ``mmkdprune compact`` wrote, the compact checkpoint itself
            (``.pth``), or the plan's plain form. Defaults to the checkpoint of ``init_cfg``.
        init_cfg (dict, optional): Where the weights come from. Defaults to None: the backbone's own initialisation.
        **settings: Arguments of the dense backbone, where ``backbone`` is its type.

    Raises:
        PlanError: The plan is for another architecture or of another version, or was changed.
        ValueError: The dense backbone's config asks for dense weights, or no plan is given.
    """

    # A config that a file holds may name this class, too, though it is not a network itself.
    takes_plan = True

    @checked
    def __new__(  # type: ignore[misc]
        cls,
        backbone: dict | str,
        plan: str | Mapping[str, Any] | None = None,
        init_cfg: dict | list[dict] | None = None,
        **settings: Any,
    ) -> nn.Module:
        """Build; see the class."""
        dense = _dense(backbone, settings)
        _refuse_dense_weights(dense)
        network = MODELS.build(copy.deepcopy(dense))
        own = _own_part(load_plan(_plan_of(init_cfg) if plan is None else plan), network)
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


def _dense(backbone: Mapping[str, Any] | str, settings: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(backbone, str):
        return {"type": backbone, **settings}
    if settings:
        raise ValueError(
            f"CompactBackbone got {', '.join(settings)} beside backbone, a dict: put them into that, or give the type "
            f"alone, backbone={backbone.get('type')!r}; over an inherited backbone, _delete_=True drops its settings"
        )
    return dict(backbone)


def _plan_of(init_cfg: Any) -> str:
    checkpoint = init_cfg.get("checkpoint") if isinstance(init_cfg, Mapping) else None
    if not isinstance(checkpoint, str):
        raise ValueError(
            "CompactBackbone needs a plan: plan='DIR/plan.json', or an init_cfg whose checkpoint holds one (the "
            "compact.pth of mmkdprune compact)"
        )
    return checkpoint


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
