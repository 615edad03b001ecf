"""What: who predicts the tokens that the large model does not render?"""

from hybridstitch.fills.base import Fill
from hybridstitch.fills.small import Small

BUILT_IN: tuple[type[Fill], ...] = (Small,)

__all__ = ["BUILT_IN", "Fill", "Small"]
