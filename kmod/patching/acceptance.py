"""Which patches are taken: what they must gain and what they may cost."""

import dataclasses
from collections.abc import Mapping
from typing import Literal
from typing import get_args

from kmod.errors import CheckError
from kmod.errors import UsageError

Judge = Literal["accuracy", "macro_f1"]
# Of the accuracy on the other classes. What a patch gains over all must be
# worth it anyway; beyond this the others lost twice what all gained
# (benchmarks/trials.md).
MAX_LOSS = 0.05
_WORDS = {"accuracy": "the accuracy over all", "macro_f1": "the mean F1"}


@dataclasses.dataclass(frozen=True)
class Acceptance:
    """What a patch must do on validation images to be taken.

    The F1 of its class must rise, what it is judged by must not fall, and the
    accuracy on the other classes may fall by so much.

    Attributes:
        judge: What it is judged by, over all classes: `"accuracy"`, or
            `"macro_f1"`, in which every class counts alike.
        max_loss: How much accuracy on the other classes it may cost, 0 to 1.

    Raises:
        UsageError: If these are none of that.
    """

    judge: Judge = "accuracy"
    max_loss: float = MAX_LOSS

    def __post_init__(self):
        if self.judge not in get_args(Judge):
            raise UsageError(
                f"`judge` must be one of {list(get_args(Judge))}. Received: "
                f"judge={self.judge!r}."
            )
        if not 0 <= self.max_loss <= 1:
            raise UsageError(
                "`max_loss` is a share of accuracy, 0 to 1. Received: "
                f"max_loss={self.max_loss}."
            )

    def takes(self, gains: Mapping[str, float]) -> bool:
        """Tells whether a patch is taken.

        Args:
            gains: What changes, by the names of `PatchFit.comparisons`.
        """
        return (
            gains["f1"] > 0
            and gains[self.judge] >= 0
            and gains["other_classes_accuracy"] >= -self.max_loss
        )

    def refusal(self, received: str) -> CheckError:
        """Returns the error of patches that are not taken."""
        return CheckError(
            "A patch must raise the F1 of its class on the validation data, "
            f"not lower {_WORDS[self.judge]}, and cost the other classes at "
            f"most {self.max_loss:.1%} of accuracy. Received: {received}. "
            "Take a better donor, more validation images or another class, or "
            "allow more by `max_loss`."
        )
