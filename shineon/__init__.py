"ShineOn: a workbench for video virtual try-on"
from importlib.metadata import PackageNotFoundError, version

from .core.compat import enable_torchvision

try: __version__ = version('shineon')
except PackageNotFoundError: __version__ = 'unknown'  # a copy of the sources that was never installed

enable_torchvision()


def __getattr__(name):
    "`shineon.dress`, loaded when it is asked for: it needs torch and OpenCV"
    if name != 'dress': raise AttributeError(f"module 'shineon' has no attribute {name!r}")
    from .cli.dress import dress_video
    return dress_video
