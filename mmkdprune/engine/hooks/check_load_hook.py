"""Compare a checkpoint with the deployable network before it is loaded for testing."""

from collections import Counter
from collections.abc import Iterable

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.models.classifiers import ImageClassifier

from mmkdprune.checkpoint.finite import refuse_non_finite
from mmkdprune.checkpoint.keys import NETWORK_FIELDS, misfits, report_loaded_keys
from mmkdprune.engine.wrappers import unwrapped


class CheckpointMismatchError(ValueError):
    """A checkpoint does not fill the deployable network exactly."""


class CheckLoadHook(Hook):
    """Refuse a checkpoint that would leave a part of the deployable network at random weights.

    MMEngine loads what fits and logs the rest as one long warning. Here a missing, surplus or differently shaped key
    of backbone, neck or head (of any part, when the model is no ``ImageClassifier``) is an error. Train-only parts
    that only the checkpoint or only the model has are counted and left out.

    Not registered: ``mmkdprune test`` adds it, a config has no use for it.
    """

    # Before hooks that load the weights into models of their own, such as EMAHook.
    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check ``checkpoint['state_dict']`` and reduce it to the model's keys, in place."""
        model = unwrapped(runner.model)
        state = checkpoint.get("state_dict", checkpoint)
        for key in [key for key in state if key.startswith("module.")]:
            state[key.removeprefix("module.")] = state.pop(key)
        own = model.state_dict()
        parts = NETWORK_FIELDS if isinstance(model, ImageClassifier) else None

        def deployed(key: str) -> bool:
            return parts is None or key.split(".")[0] in parts

        report = report_loaded_keys(
            {key: value for key, value in own.items() if deployed(key)},
            {key: value for key, value in state.items() if deployed(key)},
        )
        if misfits(report):
            raise CheckpointMismatchError(
                f"the checkpoint does not fit the network of the config: {report.line()}. "
                "Is it a checkpoint of this config, or of its plain twin?"
            )
        refuse_non_finite({key: value for key, value in state.items() if deployed(key)}, "the checkpoint", model)
        surplus = [key for key in state if key not in own]
        absent = [key for key in own if key not in state and not deployed(key)]
        # Neither is used in testing; MMEngine would report each key.
        for key in surplus:
            del state[key]
        state.update({key: own[key] for key in absent})
        text = f"Deployable network: {report.line()}"
        text += f"; train-only in the checkpoint, not loaded: {_summary(surplus)}" if surplus else ""
        text += f"; train-only in the config, not in the checkpoint: {_summary(absent)}" if absent else ""
        runner.logger.info(text)


def _summary(keys: Iterable[str]) -> str:
    counts = Counter(key.split(".")[0] for key in keys)
    return ", ".join(f"{name}.* ({count})" for name, count in counts.items())
