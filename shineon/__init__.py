"ShineOn: a workbench for video virtual try-on"
from importlib.metadata import PackageNotFoundError, version

from .core.compat import enable_torchvision

try: __version__ = version('shineon')
except PackageNotFoundError: __version__ = 'unknown'  # a copy of the sources that was never installed

enable_torchvision()
