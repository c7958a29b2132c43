"""What a checkpoint says of the backbone in it."""

from dataclasses import dataclass
from pathlib import Path

from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.errors import UsageError
from mmkdprune.metadata.seen_images import SeenImages
from mmkdprune.metadata.trained_on import trained_on
from mmkdprune.pruning import PlanError, load_plan

from .network import describe
from .settings import BackboneSettings
from .stored_config import UnsafeConfigError


@dataclass
class BackboneSource:
    """What a checkpoint says of its backbone; a part is None where it says nothing.

    Attributes:
        path: The file.
        settings: Config of the backbone.
        images: Normalisation and order of colours of its images.
        plan: File with the plan of a compact backbone.
        note: Why the description is not used, though there is one.
    """

    path: Path
    settings: BackboneSettings | None = None
    images: SeenImages | None = None
    plan: str | None = None
    note: str | None = None


def read_source(path: Path, plan: str | Path | None) -> BackboneSource:
    """Read a checkpoint's own description of its backbone.

    Args:
        path: A training checkpoint, an export, a compact checkpoint, or bare weights, which say nothing.
        plan: Plan of a compact backbone, if it is given apart.

    Raises:
        UsageError: The file holds no dictionary, or the backbone is compact and its plan is not to be found.
        PlanError: What is given is no plan.
    """
    source = BackboneSource(path)
    try:
        content = load_checkpoint_file(path, map_location="cpu")
    except TypeError as error:  # no dictionary
        raise UsageError(str(error)) from None
    if "meta" in content:
        try:
            described = describe(content, path, "backbone", "saved").get("model", {})
        except UnsafeConfigError as error:  # nothing is rebuilt here, and the keys tell enough
            described, source.note = {}, f"nothing is taken from the config in {path.name}: {error}"
        except (ValueError, KeyError, FileNotFoundError):  # the config inside is of no known form; keys still tell
            described = {}
        source.settings = BackboneSettings.parse(described["backbone"]) if "backbone" in described else None
        source.images = trained_on(content).images
    if plan is not None:
        load_plan(plan)  # refuses what is none
        source.plan = str(Path(plan).resolve())
    elif source.settings is not None and source.settings.is_compact:
        source.plan = _plan_file(path, source.settings)
    return source


def _plan_file(path: Path, settings: BackboneSettings) -> str:
    """The checkpoint itself where it holds its plan; else the plan beside it, if it is the same."""
    try:
        load_plan(path)
        return str(path)
    except PlanError:
        beside = path.with_name("plan.json")
        if beside.is_file() and load_plan(beside).to_dict() == settings.plan:
            return str(beside)
    raise UsageError(
        f"{path} is of a run with a compact backbone, whose plan is in another file: give it with --plan plan.json "
        "(mmkdprune compact wrote it), or take the backbone that mmkdprune export exports, which holds it"
    )
